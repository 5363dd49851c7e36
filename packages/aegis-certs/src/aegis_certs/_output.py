"""Everything that the commands show: for people with rich, for machines as JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._command_group import INTERRUPTED
from ._lifetime import CertificateState
from ._listing import CertificateInfo

T = TypeVar("T")

_UNBOUND = 10_000  # columns: a pipe or file has no width to fit into
_STYLES = {
    CertificateState.VALID: "green",
    CertificateState.EXPIRING: "yellow",
}
_SERIAL_DIGITS = 8


def run(message: str, work: Callable[[], T]) -> T:
    """Does slow work under a spinner, which only a terminal shows, on standard error.

    The work has a thread of its own, since Python looks for Ctrl-C only between two steps and
    making a key is a single one. After Ctrl-C the process ends at once: files are safe at any
    moment, and a thread inside a native library must not meet an interpreter that shuts down.
    """
    future: Future[T] = Future()

    def target() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
            future.set_exception(error)

    try:
        with Console(stderr=True).status(message):
            threading.Thread(target=target, daemon=True).start()
            return future.result()
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(INTERRUPTED)


def show_json(data: object) -> None:
    """Prints data for machines; moments as `2027-02-21T22:36:36Z`."""
    print(json.dumps(data, indent=2, default=_to_json))  # noqa: T201 - the output of a command


def show_facts(title: str, facts: Mapping[str, object], hint: str) -> None:
    """Prints a title, facts below it, and what to do next."""
    console = _console()
    console.print(Text(title, "bold"), soft_wrap=True)
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else str(value)
        console.print(
            Text.assemble("  ", (f"{name:<{width}}", "dim"), f"  {shown}"), soft_wrap=True
        )
    console.print(Text(hint, "dim"), soft_wrap=True)


def show_certificates(entries: Iterable[CertificateInfo]) -> None:
    """Prints certificates as a table; what is wrong with them comes below it."""
    console = _console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ID", overflow="fold", min_width=6)
    table.add_column("SERIAL", no_wrap=True)
    table.add_column("KEY", no_wrap=True)
    table.add_column("SANS", overflow="fold", min_width=10)
    table.add_column("NOT BEFORE\nNOT AFTER", no_wrap=True)
    table.add_column("DAYS\nLEFT", justify="right", no_wrap=True)
    table.add_column("STATE", overflow="fold")
    problems = []
    for entry in entries:
        style = _STYLES.get(entry.state, "red")
        serial = entry.serial[:_SERIAL_DIGITS] + "…" * (len(entry.serial) > _SERIAL_DIGITS)
        table.add_row(
            entry.id,
            serial,
            entry.key,
            "\n".join(entry.sans),
            "\n".join(f"{day:%Y-%m-%d}" for day in (entry.not_before, entry.not_after) if day),
            "" if entry.days_left is None else Text(str(entry.days_left), style),
            Text(entry.state, style),
        )
        if entry.problem:
            problems.append(Text(f"{entry.id}: {entry.problem}", "red"))
    console.print(table)
    for problem in problems:
        console.print(problem, soft_wrap=True)


def _console() -> Console:
    # Whoever sets COLUMNS wants that width, in a pipe too.
    bound = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if bound else _UNBOUND)


def _to_json(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return str(value)
