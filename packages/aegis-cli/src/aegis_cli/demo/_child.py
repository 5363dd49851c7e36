"""What all processes of the demo share: the pipe to their parent, and how their errors end."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

PARENT_LOST = 3
"""The exit code of a process whose parent has ended."""


class ParentPipe:
    """The pipe to the parent, whose end ends this process; create it before slow imports."""

    def __init__(self) -> None:
        self._commands: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._writing = threading.Lock()
        threading.Thread(target=self._read, name="parent-pipe", daemon=True).start()

    def report(self, event: str, **facts: object) -> None:
        """Sends an event to the parent."""
        line = json.dumps({"event": event, **facts}) + "\n"
        with self._writing:
            try:
                os.write(1, line.encode())
            except BrokenPipeError:
                os._exit(PARENT_LOST)

    def commands(self) -> Iterator[dict[str, Any]]:
        """Yields the commands of the parent, until `stop`."""
        while (command := self._commands.get())["command"] != "stop":
            yield command

    def _read(self) -> None:
        # Not sys.stdin: this thread would hold its lock when the interpreter shuts down. Not a
        # normal exit either: it would wait for threads that hang.
        pending = b""
        while data := os.read(0, 65536):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self._commands.put(json.loads(line))
        os._exit(PARENT_LOST)


def run(main: Callable[[ParentPipe], None]) -> None:
    """Runs a process of the demo, and reports its error to the parent in one sentence."""
    parent = ParentPipe()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        main(parent)
    except Exception as error:
        logging.exception("the process failed")
        parent.report("failed", reason=" ".join(str(error).split()) or type(error).__name__)
        sys.exit(1)
