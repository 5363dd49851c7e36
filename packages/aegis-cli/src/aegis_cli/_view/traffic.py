"""`mesh top` and `mesh edges`: calls a second, success and latency, by service or by edge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aegis_discovery.signals import LATENCY_BOUNDS, LatencyStats

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table
from aegis_cli._view.model import Filter, Seen, View, items_of, number_of, span, text_of, time_of
from aegis_cli._view.status import head

BUCKETS = len(LATENCY_BOUNDS) + 1
SERVICE_WRONG = 0.99
"""The share of calls that succeed below which a line counts as wrong."""

_NUMBERS = (
    Column("CALLS/S", right=True),
    Column("SUCCESS", right=True),
    Column("P50", right=True),
    Column("P99", right=True),
    Column("CALLS", right=True, optional=1),
    Column("RUNNING", right=True, optional=2),
)

Key = tuple[str, str, str]
"""The caller, the provider and the method of an edge."""


@dataclass(slots=True)
class Counts:
    """Calls of one edge, or of several.

    Attributes:
        service: The service.
        started: Calls that began.
        ok: Calls that ended with OK.
        ended: Calls that ended.
        buckets: How many took how long, by `LATENCY_BOUNDS`.
        codes: How many ended with each status but OK.
    """

    service: str = ""
    started: float = 0
    ok: float = 0
    ended: float = 0
    buckets: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)
    codes: dict[str, float] = field(default_factory=dict)

    @property
    def success(self) -> float | None:
        """The share of ended calls that ended with OK."""
        return self.ok / self.ended if self.ended else None

    def quantile(self, share: float) -> float | None:
        """The seconds within which a share of the calls ended."""
        whole = tuple(int(one) for one in self.buckets)
        return LatencyStats(sum(whole), 0.0, whole).quantile(share)

    def plus(self, other: Counts, sign: int = 1) -> Counts:
        """The sum, or with `sign` -1 the difference, which is never below 0."""

        def add(a: float, b: float) -> float:
            return max(0.0, a + sign * b)

        return Counts(
            self.service or other.service,
            add(self.started, other.started),
            add(self.ok, other.ok),
            add(self.ended, other.ended),
            [add(a, b) for a, b in zip(self.buckets, other.buckets, strict=True)],
            {
                code: count
                for code in {**self.codes, **other.codes}
                if (count := add(self.codes.get(code, 0), other.codes.get(code, 0)))
            },
        )


def edges_of(view: View) -> dict[Key, Counts]:
    """The edges of a mesh, each counted once.

    Both ends count a call. Of each edge the end that counted more is taken: the caller's, which
    sees failures of the way too, unless it is a client, which nobody can ask.
    """
    sides: dict[str, dict[Key, Counts]] = {"client": {}, "server": {}}
    for stats in view.stats.values():
        for edge in items_of(stats.get("edges")):
            found = sides.get(text_of(edge.get("side")))
            if found is None:
                continue
            names = (text_of(edge.get(name)) for name in ("caller", "provider", "method"))
            key: Key = tuple(names)  # type: ignore[assignment]  # three of them
            counts = _counts(edge)
            found[key] = found[key].plus(counts) if key in found else counts
    client, server = sides["client"], sides["server"]
    joined = {}
    for key in {*client, *server}:
        mine, theirs = client.get(key), server.get(key)
        if mine is None or (theirs is not None and theirs.started > mine.started):
            assert theirs is not None  # noqa: S101 - the key is of one of the two
            service = mine.service if mine else ""
            theirs.service = theirs.service or service or _service_of(key, view)
            joined[key] = theirs
        else:
            joined[key] = mine
    return joined


def _counts(edge: Mapping[str, Any]) -> Counts:
    codes, seconds = edge.get("codes"), edge.get("seconds")
    by_code = {
        text_of(code, 32): number_of(count)
        for code, count in (list(codes.items())[:32] if isinstance(codes, dict) else [])
    }
    listed = seconds.get("buckets") if isinstance(seconds, dict) else None
    buckets = [number_of(one) for one in listed[:BUCKETS]] if isinstance(listed, list) else []
    ok = by_code.pop("OK", 0.0)
    return Counts(
        text_of(edge.get("service")),
        number_of(edge.get("started")),
        ok,
        ok + sum(by_code.values()),
        buckets + [0.0] * (BUCKETS - len(buckets)),
        by_code,
    )


def _service_of(key: Key, view: View) -> str:
    """The service of an edge that only a provider of several services counted."""
    _, provider, method = key
    node = view.get(provider)
    services = node.info.services if node else ()
    return "/".join(services[0].key) if len(services) == 1 else method.rpartition("/")[0]


class Traffic:
    """Makes answers of one view after another; from the second one on, of what is between them."""

    def __init__(self, chosen: Filter, *, over: bool) -> None:
        self._chosen = chosen
        self._over = over
        self._last: tuple[datetime, dict[Key, Counts]] | None = None

    def top(self, view: View) -> Answer:
        """Calls by service."""
        edges, seconds, what = self._edges(view)
        by_service: dict[tuple[str, ...], Counts] = defaultdict(Counts)
        for counts in edges.values():
            by_service[(counts.service,)] = by_service[(counts.service,)].plus(counts)
        columns = (Column("SERVICE", folds=True), *_NUMBERS)
        return self._answer(view, by_service, ("service",), columns, seconds, what)

    def edges(self, view: View) -> Answer:
        """Calls by who calls whom."""
        edges, seconds, what = self._edges(view)
        by_edge: dict[tuple[str, ...], Counts] = defaultdict(Counts)
        for (caller, provider, _), counts in edges.items():
            names = (caller, counts.service, provider)
            by_edge[names] = by_edge[names].plus(counts)
        columns = (
            Column("CALLER", folds=True),
            Column("SERVICE", folds=True),
            Column("PROVIDER", folds=True),
            *_NUMBERS,
        )
        names = ("caller", "service", "provider")
        return self._answer(view, by_edge, names, columns, seconds, what)

    def _edges(self, view: View) -> tuple[dict[Key, Counts], float | None, str]:
        """The edges, the seconds that they are about (None: since the start), and both in words."""
        now = edges_of(view)
        kept = {
            key: counts for key, counts in now.items() if takes(self._chosen, view, key, counts)
        }
        last, self._last = self._last, (view.taken_at, now)
        if not self._over or last is None:
            return kept, None, "since the nodes started"
        seconds = max((view.taken_at - last[0]).total_seconds(), 0.001)
        changed = {
            key: counts.plus(last[1][key], -1) if key in last[1] else counts
            for key, counts in kept.items()
        }
        return changed, seconds, f"in the last {span(round(seconds))}"

    def _answer(
        self,
        view: View,
        groups: Mapping[tuple[str, ...], Counts],
        names: Sequence[str],
        columns: Sequence[Column],
        seconds: float | None,
        what: str,
    ) -> Answer:
        running = _running(self._last[1] if self._last else {}, groups, names)
        up = uptime(view)
        lines = [
            _Line(key, counts, running.get(key, 0.0), counts.started / (seconds or up))
            for key, counts in groups.items()
            if counts.started or running.get(key)
        ]
        lines.sort(key=_worst_first)
        nodes: list[Seen] = [node for node in view.nodes if self._chosen.takes(node)]
        total = sum(line.rate for line in lines)
        notes = [
            Cell(f"{node_id} is not counted: {problem}", "yellow")
            for node_id, problem in sorted(view.unanswered.items())
        ]
        left_out = sum(number_of(one.get("edges_left_out")) for one in view.stats.values())
        if left_out:
            notes.append(Cell(f"{left_out:.0f} edges with few calls are left out.", "dim"))
        return Answer(
            {
                "taken_at": view.taken_at,
                "seconds": seconds,
                "unanswered": dict(view.unanswered),
                "lines": [line.json(names) for line in lines],
            },
            [
                *head(view, nodes, self._chosen),
                Cell(f"{total:.1f} calls a second {what}" if lines else f"no calls {what}", "bold"),
            ],
            Table(columns, [line.cells() for line in lines]),
            notes,
            wrong=sum(1 for line in lines if line.is_wrong),
        )


def takes(chosen: Filter, view: View, key: Key, counts: Counts) -> bool:
    """Whether a filter takes an edge: by its service, and by where its provider is."""
    if chosen.services:
        names = {counts.service, counts.service.partition("/")[0]}
        if names.isdisjoint(chosen.services):
            return False
    places = Filter((), chosen.regions, chosen.zones, chosen.statuses)
    node = view.get(key[1]) if places else None
    return not places or (node is not None and places.takes(node))


def _running(
    edges: Mapping[Key, Counts], groups: Iterable[tuple[str, ...]], names: Sequence[str]
) -> dict[tuple[str, ...], float]:
    """Calls that run now: those that began since the nodes started, and have not ended."""
    pick: Callable[[Key, Counts], tuple[str, ...]] = (
        (lambda _, counts: (counts.service,))
        if len(names) == 1
        else (lambda key, counts: (key[0], counts.service, key[1]))
    )
    wanted, found = set(groups), defaultdict[tuple[str, ...], float](float)
    for key, counts in edges.items():
        name = pick(key, counts)
        if name in wanted:
            found[name] += max(0.0, counts.started - counts.ended)
    return found


def uptime(view: View) -> float:
    """Seconds since the first of the nodes that answered started."""
    starts = [time_of(one.get("started_at")) for one in view.stats.values()]
    known = [one for one in starts if one]
    return max((view.taken_at - min(known)).total_seconds(), 1.0) if known else 1.0


@dataclass(frozen=True, slots=True)
class _Line:
    key: tuple[str, ...]
    counts: Counts
    running: float
    rate: float

    @property
    def is_wrong(self) -> bool:
        success = self.counts.success
        return success is not None and success < SERVICE_WRONG

    def cells(self) -> list[Cell]:
        success = self.counts.success
        style = "" if success is None else "red" if self.is_wrong else "green"
        return [
            *(Cell(name or "-") for name in self.key),
            Cell(f"{self.rate:.1f}"),
            Cell("-" if success is None else percent(success), style),
            Cell(seconds_text(self.counts.quantile(0.5))),
            Cell(seconds_text(self.counts.quantile(0.99))),
            Cell(f"{self.counts.started:.0f}"),
            Cell(f"{self.running:.0f}"),
        ]

    def json(self, names: Sequence[str]) -> dict[str, Any]:
        success, p50, p99 = self.counts.success, *map(self.counts.quantile, (0.5, 0.99))
        return {
            **dict(zip(names, self.key, strict=True)),
            "calls_per_second": round(self.rate, 3),
            "success": None if success is None else round(success, 6),
            "p50_ms": None if p50 is None else round(p50 * 1000, 3),
            "p99_ms": None if p99 is None else round(p99 * 1000, 3),
            "calls": int(self.counts.started),
            "running": int(self.running),
            "failed": {code: int(count) for code, count in sorted(self.counts.codes.items())},
        }


def _worst_first(line: _Line) -> tuple[bool, float, tuple[str, ...]]:
    return not line.is_wrong, -line.rate, line.key


def percent(share: float) -> str:
    """A share; only a whole is shown as 100 %."""
    return "100%" if share == 1 else f"{min(share * 100, 99.99):.2f}".rstrip("0").rstrip(".") + "%"


def seconds_text(seconds: float | None) -> str:
    """A latency in the unit that fits."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
