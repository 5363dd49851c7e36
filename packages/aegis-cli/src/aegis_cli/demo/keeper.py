"""Keeps the demo's directory: makes it, and removes it when nobody is left who could use it.

Its standard input is a pipe whose other end is held by the demo and by every process that it
starts. That pipe ends when the last of them is gone, killed or not, so no key stays behind and
nothing is removed under somebody's feet. Only the standard library: it is there in no time.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile


def main() -> None:
    """Runs the keeper."""
    # It has to outlive those that it cleans up after.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    directory = tempfile.mkdtemp(prefix="aegis-demo-")
    try:
        os.write(1, directory.encode() + b"\n")
        while os.read(0, 1):
            pass
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
