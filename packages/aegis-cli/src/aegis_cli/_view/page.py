"""`aegis ui`: what the page shows, as JSON, from one view after another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aegis_cli._output.escape import plain
from aegis_cli._view.certificates import certificates
from aegis_cli._view.edges import Counts, Key, RecentEdges, edges_of
from aegis_cli._view.events import new_events
from aegis_cli._view.folding import Calls, drawn
from aegis_cli._view.model import (
    STALE,
    Filter,
    Seen,
    View,
    age,
    by_what_is_wrong,
    is_wrong,
    number_of,
    severity,
    text_of,
)
from aegis_cli._view.services import services
from aegis_cli._view.status import node_json
from aegis_cli._view.traffic import fails, percent

WINDOW = 10.0
"""Seconds whose calls are shown as the present traffic."""

MAX_ROWS = 500
"""Rows of each table; those that are worst are kept."""

MAX_PROBLEMS = 8
"""Problems that are named; the others are counted."""

MAX_TEXT = 120
"""Characters of a text that a peer wrote."""

MAX_SENTENCE = 400
"""Characters of a sentence that says what is wrong and what to do."""

MAX_LIST = 20
"""Services of a node, or providers of a service, that are listed."""

MAX_QUERY = 200
"""Characters of a filter."""


@dataclass
class Page:
    """The state of the page.

    Attributes:
        mesh: The name of the mesh.
        view: The last view.
    """

    mesh: str
    view: View | None = None
    _recent: RecentEdges = field(default_factory=lambda: RecentEdges(WINDOW))
    _edges: Mapping[Key, Counts] = field(default_factory=dict)
    _seconds: float | None = None  # those of the edges; None if they are since each node started
    _is_again: bool = False
    _made: tuple[str, dict[str, Any]] | None = None

    def add(self, view: View) -> None:
        """Takes a view, which is the last one again if it could not be read anew."""
        self._is_again = self.view is not None and view.taken_at == self.view.taken_at
        self.view, self._made = view, None
        if self._is_again:
            return
        recent = self._recent.add(view)
        self._edges, self._seconds = recent or (edges_of(view), None)

    def state(self, query: str, now: datetime, *, patience: float = STALE) -> dict[str, Any]:
        """What the page shows of the nodes, services and calls that have all words of a filter.

        Args:
            query: The words.
            now: The present time.
            patience: The age in seconds above which a view is stale.
        """
        view = self.view
        assert view is not None  # noqa: S101 - the first view is read before there is a page
        if self._made is None or self._made[0] != query:
            parts = self._parts(view, query)
            most = dict.fromkeys(("trouble", "problems"), MAX_SENTENCE)
            made = {name: bounded(value, most.get(name, MAX_TEXT)) for name, value in parts.items()}
            self._made = query, made
        stale = self._stale_since(view, now, patience)
        return {
            **self._made[1],
            "stale_since": bounded(stale),
            "stale_for": stale and round((now - stale).total_seconds()),
        }

    def _stale_since(self, view: View, now: datetime, patience: float) -> datetime | None:
        silent_for = 0.0 if self._is_again else view.silent_for
        is_old = (now - view.taken_at).total_seconds() > patience
        if not (is_old or self._is_again or silent_for > STALE):
            return None
        return view.taken_at - timedelta(seconds=silent_for)

    def _parts(self, view: View, query: str) -> dict[str, Any]:
        """What does not depend on the time."""
        takes = matcher(query)
        nodes = [node for node in view.nodes if takes(_words(node))]
        ids = {node.id for node in nodes}
        calls = Calls(self._edges)
        told = services(view, Filter()).json["services"]  # type: ignore[index]  # a dict
        ended = certificates(view, Filter()).json["certificates"]  # type: ignore[index]  # a dict
        rows, total = _calls(calls, takes, ids)
        tables = {
            "services": _services(told, calls, takes, ids),
            "nodes": _nodes(view, nodes),
            "events": _events(view, takes, ids),
            "certificates": [
                {**one, "state": _certificate_state(one)}
                for one in ended
                if takes([one["name"], one["issuer"]]) or one["name"] in ids
            ],
        }
        return {
            "mesh": self.mesh,
            "source": view.source,
            "taken_at": view.taken_at,
            "version": view.version,
            "digest": view.digest[:12],
            "trouble": view.trouble,
            "total": len(view.nodes),
            "counts": _counts(nodes),
            "seconds": None if self._seconds is None else round(self._seconds),
            "left_out": sum(number_of(one.get("edges_left_out")) for one in view.stats.values()),
            "query": query,
            "problems": _problems(view, told, calls, ended, "" if self._is_again else view.trouble),
            "picture": drawn(view, nodes, calls, takes),
            "calls": rows,
            **{name: table[:MAX_ROWS] for name, table in tables.items()},
            "rows": {"calls": total, **{name: len(table) for name, table in tables.items()}},
        }


def matcher(query: str) -> Callable[[Iterable[str]], bool]:
    """Tells whether each word of a filter is in one of some texts."""
    words = query[:MAX_QUERY].casefold().split()

    def takes(texts: Iterable[str]) -> bool:
        if not words:
            return True
        folded = [plain(text).casefold() for text in texts]
        return all(any(word in text for text in folded) for word in words)

    return takes


def bounded(value: Any, most: int = MAX_TEXT) -> Any:
    """A value for JSON: short texts of one line without control characters, and times as texts."""
    if isinstance(value, str):
        return plain(value if len(value) <= most else f"{value[: most - 1]}…")
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Mapping):
        return {bounded(str(name)): bounded(one, most) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [bounded(one, most) for one in value]
    return value


def _words(node: Seen) -> list[str]:
    info = node.info
    return [
        info.id,
        info.name,
        info.type,
        info.address,
        node.place,
        str(info.status),
        str(info.health),
        *("/".join(one.key) for one in info.services),
    ]


def _counts(nodes: Sequence[Seen]) -> list[tuple[str, int]]:
    counts = Counter(str(node.info.status) for node in nodes)
    found = [(one, counts[one]) for one in sorted(counts, key=lambda one: (severity(one), one))]
    unhealthy = sum(node.info.health == "unhealthy" for node in nodes)
    return [*found, ("unhealthy", unhealthy)] if unhealthy else found


def _nodes(view: View, nodes: Iterable[Seen]) -> list[dict[str, Any]]:
    return [
        {
            **node_json(node, view.taken_at),
            "services": [str(one) for one in node.info.services[:MAX_LIST]],
            "place": node.place,
            "state": state_of(node),
            "wrong": is_wrong(node),
            "for": age(node.since, view.taken_at),
            "certificate": node.certificate and node.certificate.left(view.taken_at),
            "certificate_state": node.certificate and node.certificate.style(view.taken_at),
            "unanswered": view.unanswered.get(node.id, ""),
        }
        for node in sorted(nodes, key=by_what_is_wrong)
    ]


def state_of(node: Seen) -> str:
    """The status of a node, or what is wrong with one that is alive."""
    alive = str(node.info.status) == "alive"
    return "unhealthy" if alive and node.info.health == "unhealthy" else str(node.info.status)


def _services(
    told: Iterable[Mapping[str, Any]],
    calls: Calls,
    takes: Callable[[Iterable[str]], bool],
    ids: set[str],
) -> list[dict[str, Any]]:
    numbers = calls.by(lambda _key, counts: counts.service)
    known = {one["name"]: one for one in told}
    # A service that nobody provides any more can still be called.
    gone = {"name": "", "ready": 0, "providers": [], "avoided": []}
    rows = []
    for name in {*known, *filter(None, numbers)}:
        one = known.get(name, {**gone, "name": name})
        providers = [provider["id"] for provider in one["providers"]]
        if not takes([name]) and ids.isdisjoint(providers):
            continue
        row = {
            **one,
            "total": len(providers),
            "providers": one["providers"][:MAX_LIST],
            "avoided": one["avoided"][:MAX_LIST],
            **numbers.get(name, Counts()).json(),
        }
        row["wrong"] = not one["ready"] or bool(one["avoided"]) or fails(row["success"])
        rows.append(row)
    return sorted(
        rows, key=lambda row: (row["ready"] > 0, not row["wrong"], row["success"] or 1, row["name"])
    )


def _calls(
    calls: Calls, takes: Callable[[Iterable[str]], bool], ids: set[str]
) -> tuple[list[dict[str, Any]], int]:
    """The first rows, and how many there are: a node may tell of thousands."""
    found = [
        (names, counts)
        for names, counts in calls.by(lambda key, counts: (key[0], counts.service, key[1])).items()
        if names[0] in ids or names[2] in ids or takes(names)
    ]
    found.sort(key=lambda one: (not fails(one[1].success), -one[1].started, one[0]))
    rows = [
        {
            **dict(zip(("caller", "service", "provider"), names, strict=True)),
            **counts.json(),
            "wrong": fails(counts.success),
        }
        for names, counts in found[:MAX_ROWS]
    ]
    return rows, len(found)


def _events(
    view: View, takes: Callable[[Iterable[str]], bool], ids: set[str]
) -> list[dict[str, Any]]:
    rows = []
    for event in reversed(new_events(view.own)):
        by = event.get("by")
        row = {name: text_of(event.get(name)) for name in ("number", "at", "kind", "node_id")}
        row["what"] = text_of(event.get("what"))
        row["by"] = list(map(text_of, by[:8])) if isinstance(by, list) else []  # type: ignore[assignment]  # a list
        if row["node_id"] in ids or takes([row["node_id"], row["kind"], row["what"]]):
            rows.append(row)
    return rows


def _certificate_state(one: Mapping[str, Any]) -> str:
    if one["seconds_left"] <= 0:
        return "expired"
    life = (one["not_after"] - one["not_before"]).total_seconds()
    return "due" if one["seconds_left"] * 3 < life else "ok"


def _problems(
    view: View,
    told: Iterable[Mapping[str, Any]],
    calls: Calls,
    ended: Iterable[Mapping[str, Any]],
    trouble: str,
) -> dict[str, Any]:
    """What is wrong, the worst first: each with a text, and a filter that shows it."""
    found: list[dict[str, Any]] = []

    def add(tab: str, find: str, text: str, *, bad: bool = True) -> None:
        found.append({"tab": tab, "find": find, "text": text, "bad": bad})

    if trouble:  # the identity of the command could not be renewed, and is still valid
        add("certs", "", trouble, bad=False)
    for node in sorted(filter(is_wrong, view.nodes), key=by_what_is_wrong):
        since = age(node.since, view.taken_at)
        by = f", by {', '.join(node.by[:3])}" if node.by else ""
        state = state_of(node)
        text = f"{node.id} is {state}{f' for {since}' if since else ''}{by}"
        add("nodes", node.id, text, bad=state in ("failed", "unhealthy"))
    numbers = calls.by(lambda _key, counts: counts.service)
    for name, counts in sorted(numbers.items()):
        if fails(counts.success):
            text = f"{percent(counts.success or 0)} of the calls of {name or '?'} succeed"
            add("services", name, text)
    for one in told:
        if not one["ready"]:
            add("services", one["name"], f"{one['name']} has no ready provider")
        elif one["avoided"]:
            avoided = defaultdict[str, list[str]](list)
            for pair in one["avoided"]:
                avoided[pair["provider"]].append(pair["caller"])
            names = ", ".join(sorted(avoided)[:3])
            text = f"callers of {one['name']} avoid {names}"
            add("services", one["name"], text, bad=False)
    for node_id, problem in sorted(view.unanswered.items()):
        text = f"{node_id} did not tell its counts: {problem}"
        add("nodes", node_id, text, bad=False)
    for one in ended:
        state = _certificate_state(one)
        if state != "ok":
            left = "has expired" if state == "expired" else f"ends {one['not_after']:%Y-%m-%d}"
            text = f"the certificate of {one['name']} {left}"
            add("certs", one["name"], text, bad=state == "expired")
    found.sort(key=lambda one: not one["bad"])
    return {"listed": found[:MAX_PROBLEMS], "total": len(found)}
