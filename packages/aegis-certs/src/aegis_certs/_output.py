"""Everything that the commands show: for people with rich, for machines as JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._checkup import Check
from ._command_group import INTERRUPTED, spelled
from ._doctor import Finding
from ._identity import alternative_names
from ._keys import describe_key
from ._lifetime import CertificateState
from ._listing import CertificateInfo
from ._renewal import Renewal
from ._rotation import RotationPhase, RotationState
from ._tls import TLSConfig

T = TypeVar("T")

_UNBOUND = 10_000  # columns: a pipe or file has no width to fit into
_STYLES = {
    CertificateState.VALID: "green",
    CertificateState.EXPIRING: "yellow",
    CertificateState.REPLACED: "dim",
}
_SERIAL_DIGITS = 8
_BAR = 5  # columns


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
    console.print(Text(title, "bold"), soft_wrap=True)
    _print_facts(console, {name: fact for name, fact in facts.items() if name not in hidden})
    console.print(Text(hint, "dim"), soft_wrap=True)


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


def show_certificates(entries: Iterable[CertificateInfo]) -> None:
    """Prints certificates as a table; what is wrong with them comes below it.

    Where there is no width to fit into, each has one line, and each column one value.
    """
    console = _console()
    lines = console.width == _UNBOUND
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ID", overflow="fold", min_width=6)
    table.add_column("SERIAL", no_wrap=True)
    table.add_column("KEY", no_wrap=True)
    table.add_column("SANS", overflow="fold", min_width=10)
    for title in ("NOT BEFORE", "NOT AFTER") if lines else ("NOT BEFORE\nNOT AFTER",):
        table.add_column(title, no_wrap=True)
    table.add_column("DAYS LEFT", no_wrap=True)
    table.add_column("STATE", overflow="fold")
    problems = []
    for entry in entries:
        style = _STYLES.get(entry.state, "red")
        dates = [f"{day:%Y-%m-%d}" if day else "" for day in (entry.not_before, entry.not_after)]
        serial = entry.serial[:_SERIAL_DIGITS] + "…" * (len(entry.serial) > _SERIAL_DIGITS)
        table.add_row(
            entry.id,
            serial,
            entry.key,
            ("," if lines else "\n").join(entry.sans),
            *(dates if lines else ("\n".join(filter(None, dates)),)),
            _days_left(entry, style, bar=not lines),
            Text(entry.state, style),
        )
        if entry.problem:
            problems.append(Text(f"{entry.id}: {spelled(entry.problem)}", "red"))
    console.print(table)
    for problem in problems:
        console.print(problem, soft_wrap=True)


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
            console.print(Text(text, "green"), soft_wrap=True)
        else:
            text = f"{one.node_id}: {spelled(str(one.error))}"
            console.print(Text(text, "red"), soft_wrap=True)
    if not renewals:
        console.print(f"Nothing in {directory} is due.", soft_wrap=True)


def show_rotation(
    json: bool, title: str, state: RotationState, prefix: str, directory: str
) -> None:
    """Prints where the rotation of a CA stands, and its next step.

    Prefix and directory are how that is called: the command, and its option.
    """
    leaves = sorted({leaf.id for leaf in state.old_leaves})
    retire = f"rotate-ca retire{directory}"
    next_step = {
        RotationPhase.NONE: f"rotate-ca prepare{directory}",
        RotationPhase.PREPARED: f"rotate-ca activate --confirm{directory}, "
        f"once every node has this ca-cert.pem",
        RotationPhase.ACTIVATED: f"renew{directory}, and then {retire}" if leaves else retire,
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
    present(json, title, shown, f"Next: {prefix} {next_step}")


def show_things(json: bool, things: Sequence[Mapping[str, object]]) -> None:
    """Prints what was found in a file, or at a server."""
    if json:
        show_json(things)
        return
    console = _console()
    for thing in things:
        rest = dict(thing)
        console.print(Text(str(rest.pop("what")), "bold"), soft_wrap=True)
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
        text = spelled(str(check.error)) if check.error else check.detail
        line = Text.assemble((f"{mark} {check.name:<{width}}  ", style), text)
        console.print(line, soft_wrap=True)


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
        head = (f"{mark} {finding.topic:<{width}}  ", style)
        console.print(Text.assemble(head, spelled(finding.text)), soft_wrap=True)


def _print_facts(console: Console, facts: Mapping[str, object]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, datetime):
            shown = f"{value:%Y-%m-%d %H:%M:%S} UTC"
        elif isinstance(value, list | tuple):
            shown = ", ".join(map(str, value)) or "none"
        else:
            shown = spelled(str(value))
        label = f"{name.replace('_', ' '):<{width}}"
        console.print(Text.assemble("  ", (label, "dim"), f"  {shown}"), soft_wrap=True)


def _days_left(entry: CertificateInfo, style: str, *, bar: bool) -> Text:
    """What is left of the life in days, and as a bar."""
    if entry.days_left is None or entry.not_before is None or entry.not_after is None:
        return Text()
    if not bar:
        return Text(str(entry.days_left))
    life = (entry.not_after - entry.not_before).days or 1
    full = round(_BAR * min(max(entry.days_left / life, 0.0), 1.0))
    return Text.assemble(
        ("█" * full, style), ("░" * (_BAR - full), "dim"), f" {entry.days_left:>3}"
    )


def _console() -> Console:
    # Whoever sets COLUMNS wants that width, in a pipe too.
    bound = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if bound else _UNBOUND)


def _to_json(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return str(value)
