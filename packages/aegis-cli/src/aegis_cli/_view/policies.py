"""`mesh policies`: which policies decide at each node, from where, and which nodes lag."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table
from aegis_cli._view.model import Filter, View, items_of, number_of, text_of
from aegis_cli._view.status import head

_COLUMNS = (
    Column("ID", folds=True),
    Column("OWN", folds=True),
    Column("PUBLISHED", folds=True),
    Column("SEQUENCE", right=True),
    Column("RULES", right=True, optional=1),
)


def policies(view: View, chosen: Filter) -> Answer:
    """The policies of the nodes that a filter takes; those that lack the newest one first."""
    shown = [node for node in view.nodes if chosen.takes(node) and node.id in view.stats]
    found = {node.id: items_of(view.stats[node.id].get("policies")) for node in shown}
    newest = max((_sequence(one) for one in found.values()), default=0)
    order = sorted(found, key=lambda name: (_sequence(found[name]) == newest, name))
    lagging = [name for name in order if _sequence(found[name]) < newest]
    lines = head(view, [node for node in view.nodes if chosen.takes(node)], chosen)
    if lagging:
        lines.append(Cell(f"{len(lagging)} nodes lack the newest published policy", "red"))
    elif not any(found.values()):
        lines.append(Cell("no node has a policy: every member may call everything", "yellow"))
    notes = [
        Cell(f"{node_id} did not say: {problem}", "yellow")
        for node_id, problem in sorted(view.unanswered.items())
    ]
    return Answer(
        {
            "taken_at": view.taken_at,
            "newest_sequence": newest or None,
            "nodes": [{"id": name, "policies": found[name]} for name in order],
            "unanswered": dict(view.unanswered),
        },
        lines,
        Table(_COLUMNS, [_row(name, found[name], newest) for name in order]),
        notes,
        wrong=len(lagging),
    )


def _row(name: str, listed: list[Mapping[str, Any]], newest: int) -> list[Cell]:
    own = [one for one in listed if text_of(one.get("source")) != "published"]
    published = [one for one in listed if text_of(one.get("source")) == "published"]
    sequence = _sequence(listed)
    rules = sum(
        number_of(one.get("call_rules")) + number_of(one.get("provide_rules")) for one in listed
    )
    return [
        Cell(name),
        Cell(
            ", ".join(f"{text_of(one.get('source'))} {_digest(one)}".strip() for one in own) or "-"
        ),
        Cell(", ".join(map(_digest, published)) or "-"),
        Cell(_when(sequence) if sequence else "-", "red" if sequence < newest else ""),
        Cell(f"{rules:.0f}"),
    ]


def _digest(policy: Mapping[str, Any]) -> str:
    return text_of(policy.get("sha256"))[:12]


def _sequence(listed: list[Mapping[str, Any]]) -> int:
    return max((int(number_of(one.get("sequence"))) for one in listed), default=0)


def _when(sequence: int) -> str:
    """A sequence is the time of its signature in milliseconds."""
    try:
        return f"{datetime.fromtimestamp(sequence / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return str(sequence)
