"""The status of a mesh, as a table for people and as JSON for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from aegis_certs.cli import printable
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from aegis_cli._mesh.status import MeshFacts, NodeFacts
from aegis_cli._mesh.workers import (
    Workers,
    in_order,
    line_address,
    line_id,
    line_name,
    line_state,
    line_type,
    lines,
)

_COLUMNS = (
    "id",
    "name",
    "type",
    "address",
    "services",
    "status",
    "health",
    "round trip",
    "cert days",
)
_LAYOUTS = ((" ", ()), ("\n", ()), ("\n", ("name",)), ("\n", ("name", "type")))
"""From wide to narrow: the separator of words and services, and the columns left out."""

_FOLDING = ("id", "name", "type", "address", "services")
_RIGHT = ("round trip", "cert days")
_GAP = 2
_NOTHING = "-"
_STYLES = {
    "alive": "green",
    "healthy": "green",
    "suspected": "yellow",
    "unknown": "yellow",
    "failed": "red",
    "unhealthy": "red",
    "no answer": "red",
}

Row = Mapping[str, Text]


def mesh_json(facts: MeshFacts) -> dict[str, object]:
    """All facts of a mesh, for machines."""
    return {
        "taken_at": facts.taken_at,
        "version": facts.version,
        "digest": facts.digest,
        "updated_at": facts.updated_at,
        "nodes": [_node_json(node, facts.taken_at) for node in in_order(facts.nodes)],
    }


def mesh_table(facts: MeshFacts, width: int, *, workers: bool = False) -> Group:
    """The nodes of a mesh as a table for this width; below it the problems and a summary.

    The workers of an identity are one line, unless `workers` asks for each of them.
    """
    shown = lines(facts.nodes, each=workers)
    table, left_out = _table(shown, width, facts.taken_at)
    problems = [
        Text(f"{node.info.id}: {printable(problem)}", "red")
        for node in in_order(facts.nodes)
        if (problem := node.problem or (node.answer.error if node.answer else ""))
    ]
    summary = [
        Text.assemble((f"{name:<9}", "dim"), value)
        for name, value in (
            ("version", str(facts.version)),
            ("digest", facts.digest),
            ("nodes", _count(facts.nodes)),
            ("as of", f"{facts.taken_at:%Y-%m-%d %H:%M:%S} UTC"),
        )
    ]
    if left_out:
        summary.append(Text(f"A wider terminal also shows: {', '.join(left_out)}.", "dim"))
    if len(shown) < len(facts.nodes):
        summary.append(Text("Workers are shown together; --workers shows each of them.", "dim"))
    return Group(table, *problems, Text(), *summary)


def _table(shown: Sequence[Workers], width: int, now: datetime) -> tuple[Table, Sequence[str]]:
    """The widest layout that fits, or else the narrowest, and the columns that it leaves out."""
    for gap, left_out in _LAYOUTS:
        names = [name for name in _COLUMNS if name not in left_out]
        titles = {name: Text(name.upper().replace(" ", gap)) for name in names}
        rows = [_row(line, gap, now) for line in shown]
        if _natural_width(names, [titles, *rows]) <= width:
            break
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for name in names:
        table.add_column(
            titles[name],
            justify="right" if name in _RIGHT else "left",
            overflow="fold",
            no_wrap=name not in _FOLDING,
        )
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table, left_out


def _natural_width(names: Sequence[str], rows: Sequence[Row]) -> int:
    def widest(name: str) -> int:
        return max(cell_len(line) for row in rows for line in row[name].plain.splitlines())

    return sum(widest(name) + _GAP for name in names) - _GAP


def _row(workers: Workers, gap: str, now: datetime) -> Row:
    services = sorted({service for node in workers for service in node.info.services})
    trips = [node.answer.round_trip for node in workers if node.answer]
    ends = [node.certificate for node in workers if node.certificate]
    return {
        "id": Text(line_id(workers)),
        "name": Text(printable(line_name(workers))),
        "type": Text(printable(line_type(workers))),
        "address": Text(printable(line_address(workers))),
        "services": Text(f",{gap}".join(printable(str(s)) for s in services) or _NOTHING),
        "status": _state_cell([node.info.status for node in workers]),
        "health": _state_cell([n.answer.health if n.answer else "no answer" for n in workers]),
        "round trip": Text(f"{max(trips) * 1000:.1f} ms" if trips else _NOTHING),
        "cert days": _days_cell(min(ends, key=lambda dates: dates[1], default=None), now),
    }


def _state_cell(states: Sequence[str]) -> Text:
    shown, worst = line_state(states)
    return Text(shown, _STYLES.get(worst, ""))


def _days_cell(certificate: tuple[datetime, datetime] | None, now: datetime) -> Text:
    if certificate is None:
        return Text(_NOTHING)
    start, end = certificate
    if end <= now:
        return Text("expired", "red")
    # Renewal is due when less than a third of the life is left.
    return Text(str(_days_until(end, now)), "yellow" if (end - now) * 3 < end - start else "green")


def _days_until(end: datetime, now: datetime) -> int:
    """The whole days until the end, or since then as a negative number."""
    return int((end - now) / timedelta(days=1))


def _count(nodes: Sequence[NodeFacts]) -> str:
    by_status = Counter(str(node.info.status) for node in nodes)
    parts = ", ".join(f"{number} {status}" for status, number in sorted(by_status.items()))
    return f"{len(nodes)} ({parts})" if nodes else "0"


def _node_json(node: NodeFacts, now: datetime) -> dict[str, object]:
    info, answer = node.info, node.answer
    return {
        "id": info.id,
        "name": info.name,
        "type": info.type,
        "address": info.address,
        "services": [
            {"name": service.name, "version": service.version} for service in info.services
        ],
        "status": info.status,
        "health": answer
        and {"status": answer.health, "message": answer.message, "error": answer.error},
        "round_trip_ms": answer and round(answer.round_trip * 1000, 3),
        "problem": node.problem or None,
        "certificate": node.certificate
        and {
            "not_before": node.certificate[0],
            "not_after": node.certificate[1],
            "days_left": _days_until(node.certificate[1], now),
        },
        "vouched_by": info.vouched_by,
        "stats": node.stats,
        "joined_at": info.joined_at,
        "updated_at": info.updated_at,
    }
