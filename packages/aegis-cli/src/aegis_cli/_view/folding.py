"""The picture of `aegis ui`: few enough points to read, however many nodes there are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aegis_certs import owner_of

from aegis_cli._view.edges import Counts, Key
from aegis_cli._view.model import Seen, View, by_what_is_wrong, is_wrong
from aegis_cli._view.traffic import fails

MAX_POINTS = 40
"""Points up to which each node is one of its own."""

MAX_FOLDED = 60
"""Points of a picture in which nodes are folded."""

MAX_CLIENTS = 6
"""Callers that are no nodes, up to which each is a point."""

MAX_LINES = 200
"""Lines of a picture; those that fail and the busiest ones are kept."""

CLIENTS = "clients"
"""The name of points of callers that are no nodes."""

T = TypeVar("T", bound=Hashable)
Name = tuple[str, ...]
"""The nodes of a point have the same name: an identity, or a region and services."""


class Calls:
    """The calls of a mesh.

    Args:
        edges: Who called whom.
    """

    def __init__(self, edges: Mapping[Key, Counts]) -> None:
        self.edges = edges

    def by(self, name: Callable[[Key, Counts], T]) -> dict[T, Counts]:
        """Adds up the edges with the same name."""
        found: dict[T, Counts] = {}
        for key, counts in self.edges.items():
            one = name(key, counts)
            found[one] = found[one].plus(counts) if one in found else counts
        return found


@dataclass(frozen=True, slots=True)
class _Folding:
    """Which nodes are one point.

    Attributes:
        name: The name of a node's point.
        title: What a point of several nodes is called.
    """

    name: Callable[[Seen], Name]
    title: Callable[[Seen], str]


_FOLDINGS = (
    _Folding(lambda node: ("id", owner_of(node.id)), lambda node: owner_of(node.id)),
    _Folding(lambda node: ("same", node.info.region, *_served(node)), lambda node: _title(node)),
    _Folding(lambda node: ("region", node.info.region), lambda _node: "nodes"),
    _Folding(lambda _node: ("all",), lambda _node: "nodes"),
)


def drawn(
    view: View,
    nodes: Sequence[Seen],
    calls: Calls,
    takes: Callable[[Iterable[str]], bool],
) -> dict[str, Any]:
    """The points and lines of a picture, for JSON.

    Args:
        view: The mesh.
        nodes: The nodes to show, and whoever calls them or is called by them.
        calls: The calls.
        takes: Whether the texts of an edge fit the filter.
    """
    by_owner: dict[str, list[Seen]] = defaultdict(list)
    for node in view.nodes:
        by_owner[owner_of(node.id)].append(node)
    chosen = {owner_of(node.id) for node in nodes}
    pairs = calls.by(lambda key, _counts: (owner_of(key[0]), owner_of(key[1])))
    pairs = {
        pair: counts
        for pair, counts in pairs.items()
        if pair[1] in by_owner and (chosen & {*pair} or takes(pair))
    }
    shown = chosen | {owner for pair in pairs for owner in pair}
    fold = _folding([node for owner in shown for node in by_owner.get(owner, ())])
    # What a filter takes is shown one by one, if it is not too much, between its neighbours.
    own = _FOLDINGS[0] if len(chosen) <= MAX_POINTS else fold
    clients = sorted(caller for caller, _ in pairs if caller not in by_owner)
    many = len(set(clients)) > MAX_CLIENTS

    def name_of(owner: str) -> Name:
        if owner in by_owner:
            return (own if owner in chosen else fold).name(by_owner[owner][0])
        return (CLIENTS,) if many else (CLIENTS, owner)

    members: dict[Name, list[Seen]] = defaultdict(list)
    for owner in sorted(shown):
        if owner in by_owner:
            members[name_of(owner)] += by_owner[owner]
    points = [_point(name, found, fold) for name, found in members.items()]
    for name in sorted({name_of(client) for client in clients}):
        title = name[1] if len(name) > 1 else f"{len(set(clients))} clients"
        points.append(_client(name, title))
    joined: dict[tuple[Name, Name], Counts] = {}
    for (caller, provider), counts in pairs.items():
        ends = name_of(caller), name_of(provider)
        joined[ends] = joined[ends].plus(counts) if ends in joined else counts
    worst_first = sorted(
        joined.items(), key=lambda one: (not fails(one[1].success), -one[1].started, one[0])
    )
    lines = [
        {
            "from": key_of(ends[0]),
            "to": key_of(ends[1]),
            **counts.json(),
            "wrong": fails(counts.success),
        }
        for ends, counts in worst_first[:MAX_LINES]
    ]
    return {
        "folded": fold is not _FOLDINGS[0],
        "points": sorted(points, key=_place),
        "lines": lines,
        "lines_left_out": len(joined) - len(lines),
    }


def key_of(name: Name) -> str:
    """A key that is short, and of no harm whatever a peer is called."""
    from hashlib import sha256  # cheap, but not needed by other commands

    return sha256("\0".join(name).encode(errors="replace")).hexdigest()[:16]


def _place(point: Mapping[str, Any]) -> tuple[Any, ...]:
    """Clients first, and nodes without a region last."""
    group = point["group"]
    return not point["client"], not group, group, point["title"], point["key"]


def _folding(nodes: Sequence[Seen]) -> _Folding:
    for fold, most in zip(_FOLDINGS, (MAX_POINTS, MAX_FOLDED, MAX_FOLDED), strict=False):
        if len({fold.name(node) for node in nodes}) <= most:
            return fold
    return _FOLDINGS[-1]


def _served(node: Seen) -> tuple[str, ...]:
    return tuple(sorted("/".join(one.key) for one in node.info.services))


def _title(node: Seen) -> str:
    served = _served(node)
    more = f" +{len(served) - 1}" if len(served) > 1 else ""
    return served[0] + more if served else "no services"


def _point(name: Name, nodes: Sequence[Seen], fold: _Folding) -> dict[str, Any]:
    worst = min(nodes, key=by_what_is_wrong)
    owners = {owner_of(node.id) for node in nodes}
    served = sorted({one for node in nodes for one in _served(node)})
    alive = str(worst.info.status) == "alive"
    ill = alive and worst.info.health == "unhealthy"
    counts = Counter(str(node.info.status) for node in nodes if is_wrong(node))
    is_one = len(owners) == 1
    return {
        "key": key_of(name),
        "group": worst.info.region if name[0] != "all" else "",
        "title": next(iter(owners)) if is_one else fold.title(worst),
        "nodes": len(owners),
        "workers": len(nodes) if is_one and len(nodes) > 1 else 0,
        "services": served[:20],
        "state": "unhealthy" if ill else str(worst.info.status),
        "wrong": sum(counts.values()),
        "client": False,
        "find": next(iter(owners)) if is_one else " ".join((*served[:20], worst.info.region)),
    }


def _client(name: Name, title: str) -> dict[str, Any]:
    return {
        "key": key_of(name),
        "group": "",
        "title": title,
        "nodes": 1,
        "workers": 0,
        "services": [],
        "state": "client",
        "wrong": 0,
        "client": True,
        "find": title if len(name) > 1 else "",
    }
