"""Creates the directory of the demo, and removes it once no process can use it any more.

Its standard input is a pipe. The demo and every process that it starts hold the other end, so
the pipe ends with the last of them, killed or not: no key is left behind, and no file is removed
while a process uses it. It imports only the standard library, to start fast.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile


def main() -> None:
    """Runs until the pipe ends."""
    # It must outlive the processes that use the directory.
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
