"""Who calls whom how often: what nodes have counted, joined to the edges of a mesh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from aegis_discovery.signals import LATENCY_BOUNDS, LatencyStats

from aegis_cli._view.model import Stats, View, items_of, number_of, text_of, time_of

BUCKETS = len(LATENCY_BOUNDS) + 1

Key = tuple[str, str, str]
"""The caller, the provider and the method of an edge."""

_Side = tuple[str, Key]


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
        rate: Calls a second, since each process that counted them started, or in the time that the
            counts are about.
    """

    service: str = ""
    started: float = 0
    ok: float = 0
    ended: float = 0
    buckets: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)
    codes: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0

    @property
    def success(self) -> float | None:
        """The share of ended calls that ended with OK."""
        return self.ok / self.ended if self.ended else None

    def quantile(self, share: float) -> float | None:
        """The seconds within which a share of the calls ended."""
        whole = tuple(int(one) for one in self.buckets)
        return LatencyStats(sum(whole), 0.0, whole).quantile(share)

    def json(self) -> dict[str, Any]:
        """For machines."""
        p50, p99 = map(self.quantile, (0.5, 0.99))
        return {
            "calls_per_second": round(self.rate, 3),
            "success": None if self.success is None else round(self.success, 6),
            "p50_ms": None if p50 is None else round(p50 * 1000, 3),
            "p99_ms": None if p99 is None else round(p99 * 1000, 3),
            "calls": int(self.started),
            "failed": {code: int(count) for code, count in sorted(self.codes.items())},
        }

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
            add(self.rate, other.rate),
        )


def edges_of(view: View) -> dict[Key, Counts]:
    """The edges of a mesh since its nodes started, each counted once.

    Both ends count a call. The caller's end is taken, which sees the whole time of a call and
    failures of the way too, unless it counted clearly less: it is a client, which nobody can ask,
    or has restarted. The ends are not asked at the same moment, so they differ a little always.
    """
    counted = [_counted(stats) for stats in view.stats.values()]
    for stats, edges in zip(view.stats.values(), counted, strict=True):
        began = time_of(stats.get("started_at"))
        if began is not None:
            _set_rates(edges.values(), max((view.taken_at - began).total_seconds(), 1.0))
    return _joined(counted, view)


def _set_rates(edges: Iterable[Counts], seconds: float) -> None:
    for counts in edges:
        counts.rate = counts.started / seconds


class RecentEdges:
    """The edges of the last seconds, from views one after another.

    Each node is compared with what the same process told before. Calls of a process that started
    in the meantime are all recent; of one that told nothing before, none are known to be.

    Args:
        seconds: How far back to look; 0 for the last view only.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._readings: list[_Reading] = []

    def add(self, view: View) -> tuple[dict[Key, Counts], float] | None:
        """Returns the edges, and the seconds that they are about; None for the first view."""
        now = _Reading(
            view.taken_at,
            {node: text_of(stats.get("started_at")) for node, stats in view.stats.items()},
            {node: _counted(stats) for node, stats in view.stats.items()},
        )
        self._readings.append(now)
        oldest = now.taken_at - timedelta(seconds=self._seconds)
        while len(self._readings) > 2 and self._readings[1].taken_at <= oldest:
            del self._readings[0]
        before = self._readings[:-1]
        if not before:
            return None
        changes = [_change(node, counted, now, before) for node, counted in now.counted.items()]
        seconds = max((now.taken_at - before[0].taken_at).total_seconds(), 0.001)
        joined = _joined(changes, view)
        _set_rates(joined.values(), seconds)
        return joined, seconds


@dataclass(frozen=True, slots=True)
class _Reading:
    taken_at: datetime
    started: Mapping[str, str]
    counted: Mapping[str, Mapping[_Side, Counts]]


def _change(
    node: str, counted: Mapping[_Side, Counts], now: _Reading, before: Sequence[_Reading]
) -> dict[_Side, Counts]:
    """What a node has counted since the first of these readings that has the same process."""
    started = now.started[node]
    base = next((one.counted[node] for one in before if one.started.get(node) == started), None)
    if base is None:
        began = time_of(started)
        base = counted if began is None or began < before[0].taken_at else {}
    return {
        side: counts.plus(base[side], -1) if side in base else counts
        for side, counts in counted.items()
    }


def _counted(stats: Stats) -> dict[_Side, Counts]:
    """The edges that a node has counted, by the end of the calls at which it was."""
    found: dict[_Side, Counts] = {}
    for edge in items_of(stats.get("edges")):
        end = text_of(edge.get("side"))
        if end not in ("client", "server"):
            continue
        caller, provider, method = (
            text_of(edge.get(name)) for name in ("caller", "provider", "method")
        )
        side, counts = (end, (caller, provider, method)), _counts(edge)
        found[side] = found[side].plus(counts) if side in found else counts
    return found


def _joined(counted: Iterable[Mapping[_Side, Counts]], view: View) -> dict[Key, Counts]:
    """Each edge once, by the end that `edges_of` takes."""
    sides: dict[str, dict[Key, Counts]] = {"client": {}, "server": {}}
    for one in counted:
        for (end, key), counts in one.items():
            found = sides[end]
            found[key] = found[key].plus(counts) if key in found else counts
    client, server = sides["client"], sides["server"]
    joined = {}
    for key in {*client, *server}:
        mine, theirs = client.get(key), server.get(key)
        if mine is None or (theirs is not None and _is_clearly_more(theirs, mine)):
            assert theirs is not None  # noqa: S101 - the key is of one of the two
            service = theirs.service or (mine.service if mine else "") or _service_of(key, view)
            joined[key] = replace(theirs, service=service)
        else:
            joined[key] = mine
    return joined


def _is_clearly_more(theirs: Counts, mine: Counts) -> bool:
    return theirs.started > mine.started * 1.1 + 5


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
