"""Output for people and, as JSON, for machines."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from aegis_certs._time import format_utc, isoformat
from aegis_certs.cli._command_group import INTERRUPTED, note, with_prefix
from aegis_certs.cli._wrapping import wrap_text

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority

T = TypeVar("T")

UNLIMITED = 10_000  # columns: a pipe or file has no width to fit into
_DIGITS = 8
_WARNED = "aegis.warned"
_FRAMES, _FRAME_SECONDS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", 0.08
_ERASE_LINE, _HIDE_CURSOR, _SHOW_CURSOR = "\r\x1b[2K", "\x1b[?25l", "\x1b[?25h"
_STYLES: Mapping[str, dict[str, Any]] = {
    "": {},
    "bold": {"bold": True},
    "dim": {"dim": True},
    **{color: {"fg": color} for color in ("green", "yellow", "red")},
}


def width_of(stream: TextIO) -> int:
    """The width of a terminal; unlimited if the stream is none."""
    # A user who sets COLUMNS wants that width in a pipe too.
    if not stream.isatty() and "COLUMNS" not in os.environ:
        return UNLIMITED
    import shutil  # loads slowly

    return shutil.get_terminal_size().columns


def show_json(data: object, *, indent: int | None = 2) -> None:
    """Prints data for machines, with times such as `2027-02-21T22:36:36Z`."""
    click.echo(to_json(data, indent=indent))


def to_json(data: object, *, indent: int | None = 2) -> str:
    import json

    return with_prefix(json.dumps(data, indent=indent, default=_scalar))


def short(number: str) -> str:
    """The first digits of a serial number or a fingerprint in hexadecimal."""
    return number[:_DIGITS] + "…" * (len(number) > _DIGITS)


def printable(text: str) -> str:
    """Text from another node as one line, without control characters for the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text)


def run(message: str, work: Callable[[], T]) -> T:
    """Runs slow work; a terminal shows a spinner on standard error meanwhile.

    The work has its own thread, because Python handles Ctrl-C only between two bytecodes and
    making a key is a single one. After Ctrl-C the process ends at once: files are consistent at
    any moment, and a thread inside a native library must not run while the interpreter shuts down.
    """
    import threading
    from concurrent.futures import Future, wait

    future: Future[T] = Future()

    def target() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - `result` raises it again
            future.set_exception(error)

    try:
        with warnings_as_notes():
            threading.Thread(target=target, daemon=True).start()
            if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
                _spin(message, lambda: bool(wait([future], _FRAME_SECONDS).done))
            return future.result()
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(INTERRUPTED)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Shows the warnings of the library when the spinner is gone, each once in a command."""
    import logging

    logger, found = logging.getLogger("aegis_certs"), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]  # shorter than a class
    if logger.hasHandlers():  # another tool has configured the log
        yield
        return
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        shown = click.get_current_context().meta.setdefault(_WARNED, set())
        for text in found:
            if text not in shown:  # each certificate of many may have the same one
                shown.add(text)
                note(f"Warning: {text}")


def _spin(message: str, is_done: Callable[[], bool]) -> None:
    """Shows a message on one line of the terminal until the work is done, and erases it."""
    message = message[: width_of(sys.stderr) - 3]
    try:
        for frame in itertools.cycle(_FRAMES):
            sys.stderr.write(f"{_HIDE_CURSOR}{_ERASE_LINE}{frame} {message}")
            sys.stderr.flush()
            if is_done():
                return
    finally:
        sys.stderr.write(f"{_ERASE_LINE}{_SHOW_CURSOR}")
        sys.stderr.flush()


def warn_at_once(text: str) -> None:
    """Writes a warning to standard error while work may run, also over its spinner."""
    if sys.stderr.isatty():
        sys.stderr.write(_ERASE_LINE)
    note(f"Warning: {text}")


def present(
    json: bool, title: str, facts: Mapping[str, object], hint: str, *, hidden: Sequence[str] = ()
) -> None:
    """Prints facts: as JSON, or with a title and the next step for people.

    Hidden facts are in the title already.
    """
    if json:
        show_json(facts)
        return
    say(title, "bold")
    print_facts({name: fact for name, fact in facts.items() if name not in hidden})
    say(hint, "dim")


def say(text: str, style: str = "", *, head: tuple[str, str] = ("", "")) -> None:
    """Prints a text, wrapped between words, after a head in another style."""
    lines = wrap_text(with_prefix(text), width_of(sys.stdout), len(head[0]))
    click.echo(styled(*head) + styled(lines, style))


def note_cut_short(ca: CertificateAuthority, ends: Mapping[str, datetime]) -> None:
    """Writes a note if new certificates of nodes end with their CA and not after their days."""
    from aegis_certs._x509.validity import NEW_CA_ADVICE

    end = ca.certificate.not_valid_after_utc
    if names := [name for name, its in ends.items() if its == end]:
        one = f"certificate{'s' * (len(names) > 1)} of {', '.join(names)}"
        note(f"Note: the CA ends at {format_utc(end)} and cuts the {one} short; {NEW_CA_ADVICE}")


def styled(text: str, style: str) -> str:
    """The text in a style, of which click removes all if the output is no terminal."""
    wanted = _STYLES[style]
    if os.environ.get("TERM") == "dumb" or ("fg" in wanted and os.environ.get("NO_COLOR")):
        return text
    return click.style(text, **wanted) if text and wanted else text


def print_facts(facts: Mapping[str, object]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, datetime):
            shown = format_utc(value)
        elif isinstance(value, list | tuple):
            shown = ", ".join(map(str, value)) or "none"
        else:
            shown = str(value)
        say(shown, head=(f"  {name.replace('_', ' '):<{width}}  ", "dim"))


def _scalar(value: object) -> str:
    if isinstance(value, datetime):
        return isoformat(value)
    return str(value)
