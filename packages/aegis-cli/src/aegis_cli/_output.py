"""Everything that the commands show: for people with rich, for machines as JSON."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime

from rich.console import Console

UNBOUND = 10_000
"""Columns of what is no terminal: a pipe or file has no width to fit into."""


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or without bounds where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    # Whoever sets COLUMNS wants that width, in a pipe too.
    bound = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, highlight=False, width=None if bound else UNBOUND)


def show_json(data: object, *, indent: int | None = 2) -> None:
    """Prints data for machines; moments as `2027-02-21T22:36:36Z`."""
    print(json.dumps(data, indent=indent, default=_scalar), flush=True)  # noqa: T201 - the output


def printable(text: str) -> str:
    """Text of another node in one line, which cannot steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _scalar(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return str(value)
