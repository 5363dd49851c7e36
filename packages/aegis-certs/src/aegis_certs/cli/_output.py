"""Output for people with rich, and for machines as JSON; it loads rich only when it needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import click

from aegis_certs._time import format_utc, isoformat
from aegis_certs.cli._command_group import INTERRUPTED, note, with_prefix
from aegis_certs.cli._wrapping import wrap_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from aegis_certs import CertificateAuthority

T = TypeVar("T")

UNLIMITED = 10_000  # columns: a pipe or file has no width to fit into


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or of unlimited width if its stream is no terminal."""
    from rich.console import Console

    # A user who sets COLUMNS wants that width in a pipe too.
    limited = (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, highlight=False, width=None if limited else UNLIMITED)


def print_lines(console: Console, renderable: RenderableType) -> None:
    """Prints without the blanks that pad the columns of a table at the ends of lines."""
    with console.capture() as capture:
        console.print(renderable)
    for line in capture.get().splitlines():
        console.file.write(f"{line.rstrip()}\n")
    console.file.flush()


def show_json(data: object, *, indent: int | None = 2) -> None:
    """Prints data for machines, with times such as `2027-02-21T22:36:36Z`."""
    click.echo(to_json(data, indent=indent))


def to_json(data: object, *, indent: int | None = 2) -> str:
    import json

    return with_prefix(json.dumps(data, indent=indent, default=_scalar))


def printable(text: str) -> str:
    """Text from another node as one line, without control characters for the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def run(message: str, work: Callable[[], T]) -> T:
    """Runs slow work; a terminal shows a spinner on standard error meanwhile.

    The work has its own thread, because Python handles Ctrl-C only between two bytecodes and
    making a key is a single one. After Ctrl-C the process ends at once: files are consistent at
    any moment, and a thread inside a native library must not run while the interpreter shuts down.
    """
    import threading
    from concurrent.futures import Future

    from rich.console import Console

    future: Future[T] = Future()

    def target() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - `result` raises it again
            future.set_exception(error)

    try:
        with Console(stderr=True).status(message):
            threading.Thread(target=target, daemon=True).start()
            return future.result()
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(INTERRUPTED)


def present(
    json: bool, title: str, facts: Mapping[str, object], hint: str, *, hidden: Sequence[str] = ()
) -> None:
    """Prints facts: as JSON, or with a title and the next step for people.

    Hidden facts are in the title already.
    """
    if json:
        show_json(facts)
        return
    out = console()
    say(out, title, "bold")
    print_facts(out, {name: fact for name, fact in facts.items() if name not in hidden})
    say(out, hint, "dim")


def say(console: Console, text: str, style: str = "", *, head: tuple[str, str] = ("", "")) -> None:
    """Prints a text, wrapped between words, after a head in another style."""
    from rich.text import Text

    lines = wrap_text(with_prefix(text), console.width, len(head[0]))
    console.print(Text.assemble(head, (lines, style)), soft_wrap=True)


def note_cut_short(ca: CertificateAuthority, ends: Mapping[str, datetime]) -> None:
    """Writes a note if new certificates of nodes end with their CA and not after their days."""
    from aegis_certs._x509.validity import NEW_CA_ADVICE

    end = ca.certificate.not_valid_after_utc
    if names := [name for name, its in ends.items() if its == end]:
        one = f"certificate{'s' * (len(names) > 1)} of {', '.join(names)}"
        note(f"Note: the CA ends at {format_utc(end)} and cuts the {one} short; {NEW_CA_ADVICE}")


def print_facts(console: Console, facts: Mapping[str, object]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, datetime):
            shown = format_utc(value)
        elif isinstance(value, list | tuple):
            shown = ", ".join(map(str, value)) or "none"
        else:
            shown = str(value)
        say(console, shown, head=(f"  {name.replace('_', ' '):<{width}}  ", "dim"))


def _scalar(value: object) -> str:
    if isinstance(value, datetime):
        return isoformat(value)
    return str(value)
