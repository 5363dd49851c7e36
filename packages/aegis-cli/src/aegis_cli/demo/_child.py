"""What the processes of the demo that take part in the mesh have in common."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis_certs import TLSConfig
import json
import os
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

ORPHANED = 3
"""Exit code of a process that lost its parent."""


class ParentPipe:
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


def run(main: Callable[[ParentPipe], None]) -> None:
    """Runs one, tied to its parent; what it fails with is reported in one sentence."""
    lifeline = ParentPipe()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        main(lifeline)
    except Exception as error:
        logging.exception("it ended")
        lifeline.report("failed", reason=" ".join(str(error).split()) or type(error).__name__)
        sys.exit(1)


def load_identity(cert_dir: str, name: str) -> TLSConfig:
    """Loads what was made for it; nothing is made here, where the directory may go any moment."""
    from aegis_certs import TLSOptions, load_tls

    directory = Path(cert_dir)
    return load_tls(
        TLSOptions(
            cert_file=directory / f"{name}-cert.pem",
            key_file=directory / f"{name}-key.pem",
            ca_file=directory / "ca-cert.pem",
        )
    )
