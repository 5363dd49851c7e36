"""What ties a process of the demo to the one that started it.

Orders come in as lines of JSON on standard input, reports go out on standard output. Where
standard input ends, the parent is gone, however it went: then this process ends at once, too.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

ORPHANED = 3
"""Exit code of a process that lost its parent."""


class Lifeline:
    """Holds on to the parent from the moment it is made; make it before slow imports."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._reporting = threading.Lock()
        threading.Thread(target=self._listen, name="lifeline", daemon=True).start()

    def report(self, event: str, **facts: object) -> None:
        """Tells the parent what happened."""
        line = json.dumps({"event": event, **facts}) + "\n"
        with self._reporting:
            try:
                os.write(1, line.encode())
            except BrokenPipeError:
                os._exit(ORPHANED)

    def orders(self) -> Iterator[dict[str, Any]]:
        """Goes through the parent's orders, as they come, until it says `stop`."""
        while (order := self._orders.get())["order"] != "stop":
            yield order

    def _listen(self) -> None:
        # Neither sys.stdin nor a normal exit: the first has a lock that a thread which still reads
        # would hold when the interpreter ends, the second would wait for whatever hangs.
        pending = b""
        while data := os.read(0, 65536):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self._orders.put(json.loads(line))
        os._exit(ORPHANED)
