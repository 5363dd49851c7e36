"""Everything that the commands show: for people with rich, for machines as JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aegis_certs._ca.renew import Renewal
from aegis_certs._ca.rotation_state import RotationPhase, RotationState
from aegis_certs._inspect.doctor import Finding
from aegis_certs._inspect.evaluate import CertificateInfo
from aegis_certs._inspect.verify import Check
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.keys import describe_key
from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs._x509.validity import BACKDATE, CertificateState
from aegis_certs.cli._command_group import INTERRUPTED, spelled
from aegis_certs.cli._wrapping import broken, flowed, unbroken

T = TypeVar("T")

_UNBOUND = 10_000  # columns: a pipe or file has no width to fit into
_STYLES = {
    CertificateState.VALID: "green",
    CertificateState.EXPIRING: "yellow",
    CertificateState.REPLACED: "dim",
}
_SERIAL_DIGITS = 8
_BAR = 5  # columns
_LEAST_ID, _LEAST_NAME = 10, 12  # columns


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
    text = spelled(json.dumps(data, indent=2, default=_to_json))
    print(text, flush=True)  # noqa: T201 - the output of a command, which may go on


def present(
    json: bool, title: str, facts: Mapping[str, object], hint: str, *, hidden: Sequence[str] = ()
) -> None:
    """Prints facts: as they are for machines; for people with a title, and what to do next.

    Hidden facts are in the title already.
    """
    if json:
        show_json(facts)
        return
    console = _console()
    _say(console, title, "bold")
    _print_facts(console, {name: fact for name, fact in facts.items() if name not in hidden})
    _say(console, hint, "dim")


def identity_facts(tls: TLSConfig, directory: Path) -> dict[str, object]:
    """What is worth knowing of an identity that was put in place."""
    names = alternative_names(tls.certificate)
    hosts = [*names.dns, *map(str, names.ips)]
    return {
        "id": tls.node_id,
        "spiffe_id": tls.identity.spiffe_id,
        "hosts": [host for host in hosts if host != tls.node_id],
        "key_type": describe_key(tls.certificate.public_key()),
        "serial": f"{tls.certificate.serial_number:x}",
        "fingerprint": tls.fingerprint.hex(),
        "not_after": tls.not_after,
        "certificate": directory / f"{tls.node_id}-cert.pem",
        "key": directory / f"{tls.node_id}-key.pem",
        "trust_bundle": directory / "ca-cert.pem",
    }


def show_certificates(entries: Sequence[CertificateInfo]) -> None:
    """Prints certificates as a table; what is wrong with them comes below it.

    Where there is no width to fit into, each has one line, and each column one value.
    """
    console = _console()
    lines = console.width == _UNBOUND
    table = Table(box=None, pad_edge=False, header_style="bold")
    dates = ("NOT BEFORE", "NOT AFTER") if lines else ("NOT BEFORE\nNOT AFTER",)
    for title in ("ID", "SERIAL", "KEY", "SANS", *dates, "DAYS LEFT", "STATE"):
        table.add_column(title, no_wrap=True)
    digits = max(len(_days(entry)) for entry in entries)
    id_width, sans_width = _widths(entries, digits, console.width)
    now = datetime.now(UTC)
    for entry in entries:
        style = _STYLES.get(entry.state, "red")
        days = [f"{day:%Y-%m-%d}" if day else "" for day in (entry.not_before, entry.not_after)]
        sans = [broken(name, sans_width) for name in entry.sans]
        table.add_row(
            broken(entry.id, id_width),
            _short(entry.serial),
            entry.key,
            ("," if lines else "\n").join(sans),
            *(days if lines else ("\n".join(filter(None, days)),)),
            _days(entry) if lines else _days_left(entry, style, now, digits),
            Text(entry.state, style),
        )
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        console.file.write(f"{line.rstrip()}\n")  # without the blanks that fill a column
    for entry in entries:
        if entry.problem:
            _say(console, f"{entry.id}: {entry.problem}", "red")


def _widths(entries: Sequence[CertificateInfo], digits: int, width: int) -> tuple[int, int]:
    """What is left for ids and for names, where the other columns have what they need."""
    others = [
        max(len(_short(entry.serial)) for entry in entries),
        max(len(entry.key) for entry in entries),
        len("NOT BEFORE"),
        max(len("DAYS LEFT"), _BAR + 1 + digits),
        max(len(entry.state) for entry in entries),
    ]
    left = width - sum(others) - 2 * (len(others) + 1)
    longest_id = max(len(entry.id) for entry in entries)
    longest_name = max((len(name) for entry in entries for name in entry.sans), default=0)
    id_width = min(longest_id, max(left // 3, left - longest_name, _LEAST_ID))
    return id_width, max(left - id_width, _LEAST_NAME)


def _days(entry: CertificateInfo) -> str:
    return "" if entry.days_left is None else str(entry.days_left)


def _short(serial: str) -> str:
    return serial[:_SERIAL_DIGITS] + "…" * (len(serial) > _SERIAL_DIGITS)


def show_renewals(json: bool, directory: Path, renewals: Sequence[Renewal]) -> None:
    """Prints what was renewed, and what could not be."""
    if json:
        found = [
            {
                "id": one.node_id,
                "serial": f"{one.tls.certificate.serial_number:x}" if one.tls else None,
                "not_after": one.tls.not_after if one.tls else None,
                "error": str(one.error) if one.error else None,
            }
            for one in renewals
        ]
        show_json({"directory": directory, "renewed": found})
        return
    console = _console()
    for one in renewals:
        if one.tls is not None:
            text = f"Renewed {one.node_id}, until {one.tls.not_after:%Y-%m-%d %H:%M:%S} UTC"
            _say(console, text, "green")
        else:
            _say(console, f"{one.node_id}: {one.error}", "red")
    if not renewals:
        _say(console, f"Nothing in {directory} is due.")


def show_rotation(
    json: bool, title: str, state: RotationState, prefix: str, directory: str
) -> None:
    """Prints where the rotation of a CA stands, and its next step.

    Prefix and directory are how that is called: the command, and its option.
    """
    leaves = sorted({leaf.id for leaf in state.old_leaves})
    retire = unbroken(f"{prefix} rotate-ca retire{directory}")
    renew = unbroken(f"{prefix} renew{directory}")
    prepare = unbroken(f"{prefix} rotate-ca prepare{directory}")
    activate = unbroken(f"{prefix} rotate-ca activate --confirm{directory}")
    next_step = {
        RotationPhase.NONE: prepare,
        RotationPhase.PREPARED: f"{activate}, once every node has this ca-cert.pem",
        RotationPhase.ACTIVATED: f"{renew}, and then {retire}" if leaves else retire,
    }[state.phase]
    facts = {
        "phase": state.phase,
        "issuing": state.issuing,
        "next": state.next,
        "old": state.old if state.phase is RotationPhase.ACTIVATED else None,
        "certificates_of_old": leaves if state.phase is not RotationPhase.NONE else [],
        "bundle_fingerprint": state.bundle_fingerprint,
    }
    shown = facts if json else {name: fact for name, fact in facts.items() if fact}
    present(json, title, shown, f"Next: {next_step}")


def show_things(json: bool, things: Sequence[Mapping[str, object]]) -> None:
    """Prints what was found in a file, or at a server."""
    if json:
        show_json(things)
        return
    console = _console()
    for thing in things:
        rest = dict(thing)
        _say(console, str(rest.pop("what")), "bold")
        _print_facts(console, {name: fact for name, fact in rest.items() if fact not in (None, "")})


def show_checks(json: bool, what: str, checks: Sequence[Check]) -> None:
    """Prints the checks of a certificate: passed, failed, or left out."""
    if json:
        found = {
            check.name: {
                "ok": check.passed if check.done else None,
                "detail": str(check.error) if check.error else check.detail,
            }
            for check in checks
        }
        show_json({"what": what, "ok": all(check.passed for check in checks), "checks": found})
        return
    console = _console()
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark, style = ("✓", "green") if check.passed else ("✗", "red")
        if not check.done:
            mark, style = "-", "dim"
        text = str(check.error) if check.error else check.detail
        _say(console, text, head=(f"{mark} {check.name:<{width}}  ", style))


def show_findings(json: bool, directory: str, findings: Sequence[Finding]) -> None:
    """Prints what an examination found."""
    if json:
        found = [{"topic": f.topic, "level": f.level, "text": f.text} for f in findings]
        show_json({"directory": directory, "findings": found})
        return
    console = _console()
    marks = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        mark, style = marks[finding.level]
        _say(console, finding.text, head=(f"{mark} {finding.topic:<{width}}  ", style))


def _print_facts(console: Console, facts: Mapping[str, object]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, datetime):
            shown = f"{value:%Y-%m-%d %H:%M:%S} UTC"
        elif isinstance(value, list | tuple):
            shown = ", ".join(map(str, value)) or "none"
        else:
            shown = str(value)
        _say(console, shown, head=(f"  {name.replace('_', ' '):<{width}}  ", "dim"))


def _say(console: Console, text: str, style: str = "", *, head: tuple[str, str] = ("", "")) -> None:
    """Prints a text, after a head in another style, in lines that end between words."""
    lines = flowed(spelled(text), console.width, len(head[0]))
    console.print(Text.assemble(head, (lines, style)), soft_wrap=True)


def _days_left(entry: CertificateInfo, style: str, now: datetime, digits: int) -> Text:
    """What is left of the life, as a bar and in days."""
    if entry.days_left is None or entry.not_before is None or entry.not_after is None:
        return Text()
    life = entry.not_after - (entry.not_before + BACKDATE)
    left = (entry.not_after - now) / life if life else 0.0
    full = round(_BAR * min(max(left, 0.0), 1.0))
    return Text.assemble(
        ("█" * full, style), ("░" * (_BAR - full), "dim"), f" {entry.days_left:>{digits}}"
    )


def _console() -> Console:
    # Whoever sets COLUMNS wants that width, in a pipe too.
    bound = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if bound else _UNBOUND)


def _to_json(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return str(value)
