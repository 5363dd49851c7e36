"""What the certificate commands show: tables, checks, findings and facts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aegis_certs._ca.audit_log import Action, ca_changes
from aegis_certs._ca.renew import Renewal
from aegis_certs._ca.rotation.plan import RotationPlan
from aegis_certs._ca.rotation_state import RotationPhase, RotationState
from aegis_certs._store.directory import Store
from aegis_certs._time import format_utc, parse_isoformat, utc_or_now
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.keys import describe_key
from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs._x509.validity import CertificateState, issued_at
from aegis_certs.cli._command_group import command_line
from aegis_certs.cli._output import (
    UNLIMITED,
    present,
    print_facts,
    printable,
    say,
    short,
    show_json,
    styled,
    width_of,
)
from aegis_certs.cli._table import lay_out
from aegis_certs.cli._wrapping import wrap_name

if TYPE_CHECKING:
    # Only the commands that examine load these.
    from aegis_certs._inspect.doctor import Finding
    from aegis_certs._inspect.evaluate import CertificateInfo
    from aegis_certs._inspect.verify import Check

_STYLES = {
    CertificateState.VALID: "green",
    CertificateState.EXPIRING: "yellow",
    CertificateState.REPLACED: "dim",
}
_MARKS = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "red"),
    "skipped": ("-", "dim"),
}
_BAR = 5  # columns
_STEPS = {
    "created_at": Action.CREATE,
    "prepared_at": Action.PREPARE,
    "activated_at": Action.ACTIVATE,
    "retired_at": Action.RETIRE,
}
_MIN_ID, _MIN_NAME = 10, 12  # columns


def identity_facts(tls: TLSConfig, directory: Path) -> dict[str, object]:
    """The facts of an identity that was just installed."""
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


def show_issued(json: bool, directory: Path, issued: Sequence[TLSConfig], hint: str) -> None:
    """Prints the identities that one command issued, a line each."""
    if json:
        facts = [identity_facts(tls, directory) for tls in issued]
        show_json({"directory": directory, "issued": facts})
        return
    for tls in issued:
        say(f"Issued a certificate for {tls.node_id}, until {format_utc(tls.not_after)}", "green")
    if issued:
        say(f"Each node needs its two files and ca-cert.pem from {directory}. {hint}", "dim")


def show_certificates(entries: Sequence[CertificateInfo]) -> None:
    """Prints certificates as a table, and their problems below it.

    If the width is unlimited, each certificate is one line, and each column has one value.
    """
    width = width_of(sys.stdout)
    lines = width == UNLIMITED
    dates = ("NOT BEFORE", "NOT AFTER") if lines else ("NOT BEFORE\nNOT AFTER",)
    titles = ("ID", "SERIAL", "KEY", "SANS", *dates, "DAYS LEFT", "STATE")
    if enrolled := lines and any(entry.through for entry in entries):
        titles += ("THROUGH", "ENROLLED", "TOKEN")
    digits = max(len(_days(entry)) for entry in entries)
    id_width, sans_width = _widths(entries, digits, width)
    now, rows = datetime.now(UTC), []
    for entry in entries:
        style = _STYLES.get(entry.state, "red")
        days = [str(day.date()) if day else "" for day in (entry.not_before, entry.not_after)]
        sans = [wrap_name(printable(name), sans_width) for name in entry.sans]
        row = (
            wrap_name(printable(entry.id), id_width),
            short(entry.serial),
            entry.key,
            ("," if lines else "\n").join(sans),
            *(days if lines else ("\n".join(filter(None, days)),)),
            _days(entry) if lines else _days_left(entry, style, now, digits),
            styled(entry.state, style),
        )
        rows.append(row + _origin_cells(entry) if enrolled else row)
    bold = ["\n".join(styled(line, "bold") for line in title.split("\n")) for title in titles]
    click.echo("\n".join(lay_out(bold, rows)))
    for entry in entries:
        if entry.problem:
            say(f"{entry.id}: {entry.problem}", "red")
        if (origin := _origin(entry)) and not lines:
            say(f"{entry.id}: {origin}", "dim")


def _origin_cells(entry: CertificateInfo) -> tuple[str, ...]:
    found = entry.enrolled
    first = ("", "") if found is None else (f"{found.at:%Y-%m-%d}", short(found.token))
    return (printable(entry.through), *first)


def _origin(entry: CertificateInfo) -> str:
    """How a node got a certificate that it can use from an issuer."""
    if not entry.through or entry.state in (CertificateState.EXPIRED, CertificateState.REPLACED):
        return ""
    found, last = entry.enrolled, f"its certificate is from {printable(entry.through)}"
    if found is None:
        return last
    first = (
        f"enrolled at {format_utc(found.at)} through {printable(found.through)} with the token "
        f"{short(found.token)}"
    )
    return first if entry.through == found.through else f"{first}; {last}"


def _widths(entries: Sequence[CertificateInfo], digits: int, width: int) -> tuple[int, int]:
    """The widths that the other columns leave for ids and for names."""
    others = [
        max(len(short(entry.serial)) for entry in entries),
        max(len(entry.key) for entry in entries),
        len("NOT BEFORE"),
        max(len("DAYS LEFT"), _BAR + 1 + digits),
        max(len(entry.state) for entry in entries),
    ]
    left = width - sum(others) - 2 * (len(others) + 1)
    longest_id = max(len(entry.id) for entry in entries)
    longest_name = max((len(name) for entry in entries for name in entry.sans), default=0)
    id_width = min(longest_id, max(left // 3, left - longest_name, _MIN_ID))
    return id_width, max(left - id_width, _MIN_NAME)


def _days(entry: CertificateInfo) -> str:
    return "" if entry.days_left is None else str(entry.days_left)


def show_renewals(json: bool, directory: str | Path, renewals: Sequence[Renewal]) -> None:
    """Prints the renewals, and those that failed."""
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
    for one in renewals:
        if one.tls is not None:
            text = f"Renewed {one.node_id}, until {format_utc(one.tls.not_after)}"
            say(text, "green")
        else:
            say(f"{one.node_id}: {one.error}", "red")
    if not renewals:
        say(f"No certificate in {directory} is due.")


def show_rotation(
    ctx: click.Context, json: bool, title: str, state: RotationState, store: Store
) -> None:
    """Prints the phase of a CA's rotation, its next step, and the last steps in the audit log.

    `due` is when an issuer that rotates its CA by itself does that step at the earliest.
    """
    leaves = sorted({leaf.id for leaf in state.old_leaves})
    retire = command_line(ctx, "rotate-ca retire")
    activate = command_line(ctx, "rotate-ca activate --confirm")
    next_step = {
        RotationPhase.NONE: command_line(ctx, "rotate-ca prepare") + _not_before(state),
        RotationPhase.PREPARED: f"{activate}, once every node has this ca-cert.pem",
        RotationPhase.ACTIVATED: f"{command_line(ctx, 'renew')}, and then {retire}"
        if leaves
        else retire,
    }[state.phase]
    plan = RotationPlan(state)
    facts = {
        "phase": state.phase,
        "issuing": state.issuing,
        "next": state.next,
        "old": state.old if state.phase is RotationPhase.ACTIVATED else None,
        "certificates_of_old": leaves if state.phase is not RotationPhase.NONE else [],
        "old_ends": state.ends_at,
        "next_step": plan.next_step,
        "due": plan.next_at,
        "due_by": plan.activate_by if state.phase is RotationPhase.PREPARED else state.ends_at,
        "bundle_fingerprint": state.bundle_fingerprint,
        **_last_steps(store),
        "not_read": state.not_read,
    }
    shown = facts if json else {name: fact for name, fact in facts.items() if fact}
    present(json, title, shown, f"Next: {next_step}")


def _not_before(state: RotationState) -> str:
    due = RotationPlan(state).prepare_at
    if utc_or_now(None) >= due:
        return ""
    who = ", which a running issuer does by itself" if state.is_root else ""
    return f", not before {due:%Y-%m-%d}{who}"


def _last_steps(store: Store) -> dict[str, datetime | None]:
    """When each step was done last, whoever did it, as the audit log says."""
    found = {str(line["action"]): line.get("time") for line in ca_changes(store.audit_path)}
    times: dict[str, datetime | None] = {}
    for name, action in _STEPS.items():
        try:
            times[name] = parse_isoformat(str(found[action]))
        except (KeyError, ValueError):
            times[name] = None
    return times


def show_facts(json: bool, found: Sequence[Mapping[str, object]]) -> None:
    """Prints the facts of each certificate, request, revocation list or server."""
    if json:
        show_json(found)
        return
    for facts in found:
        rest = dict(facts)
        say(str(rest.pop("what")), "bold")
        print_facts({name: fact for name, fact in rest.items() if fact not in (None, "")})


def show_checks(json: bool, what: str, checks: Sequence[Check]) -> None:
    """Prints the checks of a certificate: passed, failed, or skipped."""
    if json:
        found = {
            check.name: {"ok": check.passed if check.done else None, "detail": check.text}
            for check in checks
        }
        show_json({"what": what, "ok": all(check.passed for check in checks), "checks": found})
    else:
        _show_marked([(_level(check), check.name, check.text) for check in checks])


def _level(check: Check) -> str:
    return ("ok" if check.passed else "problem") if check.done else "skipped"


def show_findings(json: bool, directory: str, findings: Sequence[Finding]) -> None:
    """Prints the findings about a directory."""
    rows = [(finding.level, finding.topic, finding.text) for finding in findings]
    if json:
        found = [{"topic": topic, "level": level, "text": text} for level, topic, text in rows]
        show_json({"directory": directory, "findings": found})
    else:
        _show_marked(rows)


def _show_marked(rows: Sequence[tuple[str, str, str]]) -> None:
    """Prints rows of a level, a name and a text."""
    width = max(len(name) for _, name, _ in rows)
    for level, name, text in rows:
        mark, style = _MARKS[level]
        say(text, head=(f"{mark} {name:<{width}}  ", style))


def _days_left(entry: CertificateInfo, style: str, now: datetime, digits: int) -> str:
    """The rest of the life, as a bar and in days."""
    if entry.days_left is None or entry.not_before is None or entry.not_after is None:
        return ""
    life = entry.not_after - issued_at(entry.not_before)
    left = (entry.not_after - now) / life if life else 0.0
    full = round(_BAR * min(max(left, 0.0), 1.0))
    bar = styled("█" * full, style) + styled("░" * (_BAR - full), "dim")
    return f"{bar} {entry.days_left:>{digits}}"
