"""`mesh nodes` and `mesh ping`: what each node answers itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import median
from typing import Any

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table
from aegis_cli._view.model import (
    STYLES,
    Filter,
    Seen,
    Stats,
    View,
    age,
    by_what_is_wrong,
    is_wrong,
    number_of,
    severity,
    time_of,
)
from aegis_cli._view.status import head, node_json

_COLUMNS = (
    Column("ID", folds=True),
    Column("ADDRESS", folds=True, optional=2),
    Column("ANSWER", folds=True),
    Column("ROUND TRIP", right=True),
    Column("UP", right=True, optional=3),
    Column("RUNNING", right=True, optional=4),
    Column("NODES", right=True, optional=5),
)


def nodes(view: View, chosen: Filter) -> Answer:
    """What the nodes that a filter takes answer themselves; the mesh's own view beside it."""
    shown = sorted(filter(chosen.takes, view.nodes), key=_order)
    rows = [_row(node, view) for node in shown]
    return Answer(
        {
            "taken_at": view.taken_at,
            "source": view.source,
            "nodes": [_json(node, view) for node in shown],
        },
        head(view, shown, chosen),
        Table(_COLUMNS, rows),
        wrong=sum(is_wrong(node) or _answered(node)[0] == "unhealthy" for node in shown)
        + len(chosen.missing(view)),
    )


def _order(node: Seen) -> tuple[int, tuple[int, str, int]]:
    return severity(_answered(node)[0]), by_what_is_wrong(node)


def _answered(node: Seen) -> tuple[str, str]:
    """The state that a node answered, and what it says."""
    if node.reply is None:
        return "no answer", node.problem
    return node.reply.health, node.reply.error


def _row(node: Seen, view: View) -> list[Cell]:
    stats = view.stats.get(node.id, {})
    state, words = _answered(node)
    nodes_known = number_of(stats.get("topology_nodes"))
    return [
        Cell(node.id),
        Cell(node.info.address or "-"),
        Cell(f"{state}: {words}" if words else state, STYLES.get(state, "")),
        Cell(f"{node.reply.round_trip * 1000:.1f} ms" if node.reply else "-"),
        Cell(age(time_of(stats.get("started_at")), view.taken_at) or "-"),
        Cell(f"{_calls(stats, 'running'):.0f}" if stats else "-"),
        Cell(
            f"{nodes_known:.0f}" if stats else "-",
            "yellow" if stats and nodes_known != len(view.nodes) else "",
        ),
    ]


def _calls(stats: Stats, name: str) -> float:
    calls = stats.get("calls")
    return number_of(calls.get(name)) if isinstance(calls, dict) else 0.0


def _json(node: Seen, view: View) -> dict[str, Any]:
    reply = node.reply
    return {
        **node_json(node, view.taken_at),
        "answer": reply
        and {
            "health": reply.health,
            "message": reply.message,
            "error": reply.error,
            "round_trip_ms": round(reply.round_trip * 1000, 3),
        },
        "problem": node.problem or None,
        "stats": view.stats.get(node.id),
    }


def ping(
    node_id: str, address: str, trips: Sequence[float | None], problem: str, taken_at: datetime
) -> Answer:
    """The round trips of some pings; None for one that was not answered."""
    answered = sorted(trip * 1000 for trip in trips if trip is not None)
    lost = len(trips) - len(answered)
    facts = {
        "id": node_id,
        "address": address,
        "taken_at": taken_at,
        "sent": len(trips),
        "answered": len(answered),
        "problem": problem or None,
        "round_trips_ms": [trip and round(trip * 1000, 3) for trip in trips],
    }
    lines = [
        Cell(f"{node_id} at {address}: {len(answered)} of {len(trips)} pings answered", "bold")
    ]
    if answered:
        low, middle, high = answered[0], median(answered), answered[-1]
        lines.append(Cell(f"round trip {low:.1f} / {middle:.1f} / {high:.1f} ms (min/median/max)"))
    if problem:
        lines.append(Cell(problem, "red"))
    return Answer(facts, lines, wrong=lost)
