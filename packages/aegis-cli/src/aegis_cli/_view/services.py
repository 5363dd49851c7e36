"""`mesh services`: who provides what, and which callers avoid which providers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table
from aegis_cli._view.model import Filter, Seen, View, is_wrong, items_of, text_of
from aegis_cli._view.status import head

_COLUMNS = (
    Column("SERVICE", folds=True),
    Column("READY", right=True),
    Column("PROVIDERS", folds=True),
    Column("AVOIDED", folds=True),
)

_AVOIDED = ("ejected", "unreached", "unwell")


def services(view: View, chosen: Filter) -> Answer:
    """The services of a mesh, those with the fewest ready providers first."""
    nodes = [node for node in view.nodes if chosen.takes(node)]
    providers: dict[str, list[Seen]] = defaultdict(list)
    for node in nodes:
        for service in node.info.services:
            name = "/".join(service.key)
            if not chosen.services or {service.name, name} & set(chosen.services):
                providers[name].append(node)
    avoided = _avoided(view)
    lines = [
        _facts(name, providers.get(name, []), avoided.get(name, []))
        for name in {*providers, *avoided}
        if not chosen or name in providers
    ]
    lines.sort(key=lambda one: (one["ready"] > 0, -len(one["avoided"]), one["ready"], one["name"]))
    return Answer(
        {"taken_at": view.taken_at, "source": view.source, "services": lines},
        head(view, nodes, chosen),
        Table(_COLUMNS, [_row(one) for one in lines]),
        [Cell(f"{len(view.unanswered)} nodes did not say whom they avoid.", "yellow")]
        if view.unanswered
        else [],
        wrong=sum(1 for one in lines if not one["ready"] or one["avoided"])
        + len(chosen.missing(view)),
    )


def _avoided(view: View) -> dict[str, list[dict[str, Any]]]:
    """By service: which caller does not call which provider, and why."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for caller, stats in sorted(view.stats.items()):
        pool = stats.get("pool")
        for service in items_of(pool.get("services") if isinstance(pool, dict) else None):
            name = f"{text_of(service.get('name'))}/{text_of(service.get('version'))}"
            for endpoint in items_of(service.get("endpoints")):
                state = text_of(endpoint.get("state"))
                if state in _AVOIDED:
                    provider = text_of(endpoint.get("node_id"))
                    found[name].append({"caller": caller, "provider": provider, "state": state})
    return found


def _facts(
    name: str, providers: Sequence[Seen], avoided: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "name": name,
        "ready": sum(not is_wrong(node) for node in providers),
        "providers": [
            {"id": node.id, "status": node.info.status, "health": node.info.health}
            for node in sorted(providers, key=lambda node: (not is_wrong(node), node.id))
        ],
        "avoided": list(avoided),
    }


def _row(facts: dict[str, Any]) -> list[Cell]:
    providers = [one["id"] + _trouble(one) for one in facts["providers"]]
    avoided = [f"{one['provider']} {one['state']} by {one['caller']}" for one in facts["avoided"]]
    total, ready = len(providers), facts["ready"]
    style = "red" if not ready else "yellow" if ready < total or avoided else "green"
    return [
        Cell(facts["name"]),
        Cell(f"{ready} of {total}", style),
        Cell(", ".join(providers) or "-"),
        Cell(", ".join(avoided) or "-", "red" if avoided else ""),
    ]


def _trouble(provider: dict[str, Any]) -> str:
    if provider["status"] != "alive":
        return f" ({provider['status']})"
    return " (unhealthy)" if provider["health"] == "unhealthy" else ""
