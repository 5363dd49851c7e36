"""`mesh status`: what one node says about all, with counts and problems first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table
from aegis_cli._view.model import (
    STALE,
    STYLES,
    Filter,
    Seen,
    View,
    age,
    by_what_is_wrong,
    is_wrong,
    owner,
    severity,
    span,
)

_SHOWN_BY = 3
_COLUMNS = (
    Column("ID", folds=True),
    Column("SERVICES", folds=True),
    Column("STATUS", folds=True),
    Column("HEALTH"),
    Column("WHERE", folds=True, optional=1),
    Column("CERT", right=True, optional=2),
)
_WIDE = (
    Column("NAME", folds=True, optional=5),
    Column("TYPE", folds=True, optional=4),
    Column("ADDRESS", folds=True, optional=3),
)


def status(view: View, chosen: Filter, *, wide: bool = False, workers: bool = False) -> Answer:
    """The status of the nodes that a filter takes."""
    nodes = sorted(filter(chosen.takes, view.nodes), key=by_what_is_wrong)
    lines = [(node,) for node in nodes] if workers else _lines(nodes)
    columns = (*_COLUMNS, *_WIDE) if wide else _COLUMNS
    rows = [_row(line, view.taken_at, wide=wide) for line in lines]
    wrong = [node for node in nodes if is_wrong(node) or _has_expired(node, view.taken_at)]
    notes = []
    if len(lines) < len(nodes):
        notes.append(Cell("Workers are shown together; --workers shows each of them.", "dim"))
    return Answer(
        status_json(view, nodes),
        [*head(view, nodes, chosen), *_problems(view)],
        Table(columns, rows),
        notes,
        wrong=len(wrong) + len(chosen.missing(view)) + bool(view.trouble),
    )


def head(view: View, nodes: Sequence[Seen], chosen: Filter) -> list[Cell]:
    """Counts, who says so, and whether that is stale."""
    counts = Counter(str(node.info.status) for node in nodes)
    by_status = [f"{counts[one]} {one}" for one in sorted(counts, key=lambda s: (severity(s), s))]
    unhealthy = sum(node.info.health == "unhealthy" for node in nodes)
    if unhealthy:
        by_status.append(f"{unhealthy} unhealthy")
    of = f" of {len(view.nodes)}" if chosen else ""
    is_well = set(counts) <= {"alive"} and not unhealthy
    found = [
        Cell(
            f"{len(nodes)}{of} node{'s' * (len(view.nodes if chosen else nodes) != 1)}"
            + (f": {', '.join(by_status)}" if by_status else ""),
            "green" if is_well and nodes else "yellow" if not counts["failed"] else "red",
        ),
        Cell(
            f"{view.source} says so, {view.taken_at:%Y-%m-%d %H:%M:%S} UTC; version {view.version},"
            f" digest {view.digest[:12]}",
            "dim",
        ),
    ]
    found += [Cell(problem, "red") for problem in chosen.missing(view)]
    if view.trouble:
        since = f"STALE for {span(view.silent_for)}: " if view.silent_for > STALE else ""
        found.append(Cell(f"{since}{view.trouble}", "red"))
    elif view.silent_for > STALE:
        found.append(Cell(f"STALE: {view.source} sent nothing for {span(view.silent_for)}", "red"))
    return found


def _problems(view: View) -> list[Cell]:
    return [
        Cell(f"{node_id}: {problem}", "red") for node_id, problem in sorted(view.unanswered.items())
    ]


def _lines(nodes: Sequence[Seen]) -> list[tuple[Seen, ...]]:
    """One line for each identity, in the order of what is worst of it."""
    groups = [tuple(group) for _, group in groupby(sorted(nodes, key=_by_owner), owner)]
    return sorted(groups, key=lambda group: min(map(by_what_is_wrong, group)))


def _by_owner(node: Seen) -> tuple[str, tuple[int, str, int]]:
    return owner(node), by_what_is_wrong(node)


def _row(line: Sequence[Seen], now: datetime, *, wide: bool) -> list[Cell]:
    first = line[0]
    services = sorted({str(service) for node in line for service in node.info.services})
    count = len(line)
    worst = min(line, key=by_what_is_wrong)
    ends = [node.certificate for node in line if node.certificate]
    soonest = min(ends, key=lambda one: one.not_after, default=None)
    row = [
        Cell(first.id if count == 1 else f"{owner(first)} ({count} workers)"),
        Cell(", ".join(services) or "-"),
        _status_cell(worst, line, now),
        _health_cell(line),
        Cell(_common([node.place for node in line]) or "-"),
        Cell("-") if soonest is None else Cell(soonest.left(now), soonest.style(now)),
    ]
    if wide:
        row += [
            Cell(_common([node.info.name for node in line]) or "-"),
            Cell(_common([node.info.type for node in line]) or "-"),
            Cell(first.info.address + (f" +{count - 1}" if count > 1 else "")),
        ]
    return row


def _status_cell(worst: Seen, line: Sequence[Seen], now: datetime) -> Cell:
    state = str(worst.info.status)
    same = sum(node.info.status == worst.info.status for node in line)
    shown = state if same == len(line) else f"{same} of {len(line)} {state}"
    since = age(worst.since, now)
    text = f"{shown} {since}".rstrip()
    if state != "alive" and worst.by:
        more = len(worst.by) - _SHOWN_BY
        text += f", by {', '.join(worst.by[:_SHOWN_BY])}" + (f" +{more}" if more > 0 else "")
    return Cell(text, STYLES.get(state, ""))


def _health_cell(line: Sequence[Seen]) -> Cell:
    # What a failed node said last about its health is not true any more.
    counts = Counter(str(node.info.health) for node in line if node.info.status != "failed")
    if not counts:
        return Cell("-")
    worst = min(counts, key=lambda state: (severity(state), state))
    shown = worst if len(counts) == 1 else f"{counts[worst]} of {len(line)} {worst}"
    return Cell(shown, STYLES.get(worst, ""))


def _common(values: Sequence[str]) -> str:
    found = set(values)
    return found.pop() if len(found) == 1 else "various"


def _has_expired(node: Seen, now: datetime) -> bool:
    return node.certificate is not None and node.certificate.not_after <= now


def status_json(view: View, nodes: Sequence[Seen]) -> dict[str, Any]:
    """The view for machines."""
    return {
        "taken_at": view.taken_at,
        "source": view.source,
        "stale": view.trouble or None,
        "version": view.version,
        "digest": view.digest,
        "updated_at": view.updated_at,
        "nodes": [node_json(node, view.taken_at) for node in nodes],
    }


def node_json(node: Seen, now: datetime) -> dict[str, Any]:
    """One node for machines."""
    info = node.info
    return {
        "id": info.id,
        "name": info.name,
        "type": info.type,
        "address": info.address,
        "region": info.region,
        "zone": info.zone,
        "services": [
            {"name": one.name, "version": one.version, "scope": one.scope} for one in info.services
        ],
        "status": info.status,
        "since": node.since,
        "by": list(node.by),
        "health": info.health,
        "certificate": node.certificate
        and {
            "not_before": node.certificate.not_before,
            "not_after": node.certificate.not_after,
            "days_left": int((node.certificate.not_after - now) / timedelta(days=1)),
        },
        "vouched_by": info.vouched_by,
        "joined_at": info.joined_at,
        "updated_at": info.updated_at,
    }
