"""`mesh top` and `mesh edges`: calls a second, success and latency, by service or by edge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table
from aegis_cli._view.edges import Counts, Key, RecentEdges, edges_of
from aegis_cli._view.model import Filter, Seen, View, number_of, span
from aegis_cli._view.status import head

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


class Traffic:
    """Makes answers of one view after another; from the second one on, of what is between them."""

    def __init__(self, chosen: Filter, *, over: bool) -> None:
        self._chosen = chosen
        self._over = over
        self._recent = RecentEdges()
        self._since_start: dict[Key, Counts] = {}

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
        self._since_start = found = edges_of(view)
        seconds, what = None, "since each node started"
        if self._over and (recent := self._recent.add(view)):
            found, seconds = recent
            what = f"in the last {span(round(seconds))}"
        kept = {
            key: counts for key, counts in found.items() if takes(self._chosen, view, key, counts)
        }
        return kept, seconds, what

    def _answer(
        self,
        view: View,
        groups: Mapping[tuple[str, ...], Counts],
        names: Sequence[str],
        columns: Sequence[Column],
        seconds: float | None,
        what: str,
    ) -> Answer:
        running = _running(self._since_start, groups, names)
        lines = [
            _Line(key, counts, running.get(key, 0.0))
            for key, counts in groups.items()
            if counts.started or running.get(key)
        ]
        lines.sort(key=_worst_first)
        nodes: list[Seen] = [node for node in view.nodes if self._chosen.takes(node)]
        total = sum(line.counts.rate for line in lines)
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
            wrong=sum(1 for line in lines if line.is_wrong) + len(self._chosen.missing(view)),
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


@dataclass(frozen=True, slots=True)
class _Line:
    key: tuple[str, ...]
    counts: Counts
    running: float

    @property
    def is_wrong(self) -> bool:
        return fails(self.counts.success)

    def cells(self) -> list[Cell]:
        success = self.counts.success
        style = "" if success is None else "red" if self.is_wrong else "green"
        return [
            *(Cell(name or "-") for name in self.key),
            Cell(rate_text(self.counts.rate)),
            Cell("-" if success is None else percent(success), style),
            Cell(seconds_text(self.counts.quantile(0.5))),
            Cell(seconds_text(self.counts.quantile(0.99))),
            Cell(f"{self.counts.started:.0f}"),
            Cell(f"{self.running:.0f}"),
        ]

    def json(self, names: Sequence[str]) -> dict[str, Any]:
        return {
            **dict(zip(names, self.key, strict=True)),
            **self.counts.json(),
            "running": int(self.running),
        }


def _worst_first(line: _Line) -> tuple[bool, float, tuple[str, ...]]:
    return not line.is_wrong, -line.counts.rate, line.key


def fails(success: float | None) -> bool:
    """Whether too few calls succeed."""
    return success is not None and success < SERVICE_WRONG


def percent(share: float) -> str:
    """A share; only a whole is shown as 100 %."""
    return "100%" if share == 1 else f"{min(share * 100, 99.99):.2f}".rstrip("0").rstrip(".") + "%"


def rate_text(rate: float) -> str:
    """Calls a second; few are not shown as none."""
    return "<0.1" if 0 < rate < 0.05 else f"{rate:.1f}"


def seconds_text(seconds: float | None) -> str:
    """A latency in the unit that fits."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
