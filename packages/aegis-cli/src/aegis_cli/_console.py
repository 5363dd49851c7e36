"""The console of rich, for tables and progress; it loads slowly."""

from __future__ import annotations

import sys

from aegis_certs.cli import UNLIMITED, width_of
from rich.console import Console, RenderableType


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or of unlimited width if its stream is no terminal."""
    width = width_of(sys.stderr if stderr else sys.stdout)
    return Console(stderr=stderr, highlight=False, width=width if width == UNLIMITED else None)


def print_lines(console: Console, renderable: RenderableType) -> None:
    """Prints without the blanks that pad the columns of a table at the ends of lines."""
    with console.capture() as capture:
        console.print(renderable)
    for line in capture.get().splitlines():
        console.file.write(f"{line.rstrip()}\n")
    console.file.flush()
