"""`mesh graph`: the topology as a picture, for a terminal, Mermaid, DOT or SVG.

Workers of an identity are one node of the picture, and regions are groups. An edge is as wide as
its traffic, and red where calls fail.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aegis_certs import owner_of

from aegis_cli._output.answer import Answer
from aegis_cli._output.escape import for_dot, for_mermaid, for_xml, label
from aegis_cli._output.table import Cell
from aegis_cli._view.edges import Counts, edges_of
from aegis_cli._view.model import Filter, Seen, View, by_what_is_wrong, is_wrong
from aegis_cli._view.traffic import fails, percent, rate_text, takes

CLIENTS = "clients"
"""The group of callers that are not nodes."""

_CELL, _ROW, _LEFT, _TOP, _BOX = 230, 62, 24, 34, (170, 44)


@dataclass(frozen=True, slots=True)
class Point:
    """A node of the picture.

    Attributes:
        name: The identity.
        group: Its region; empty if it has none.
        words: Its services.
        state: Its status, or `client`.
        wrong: Whether it is not as it should be.
    """

    name: str
    group: str
    words: str
    state: str
    wrong: bool


@dataclass(frozen=True, slots=True)
class Line:
    """An edge of the picture.

    Attributes:
        caller: Where it begins.
        provider: Where it ends.
        rate: Calls a second since each node started.
        success: The share that ended with OK; None if none ended.
    """

    caller: str
    provider: str
    rate: float
    success: float | None

    @property
    def wrong(self) -> bool:
        return fails(self.success)

    @property
    def words(self) -> str:
        success = "" if self.success is None else f", {percent(self.success)}"
        return f"{rate_text(self.rate)}/s{success}"


@dataclass(frozen=True, slots=True)
class Picture:
    """Points and lines, in a fixed order."""

    points: Sequence[Point]
    lines: Sequence[Line]

    @property
    def groups(self) -> dict[str, list[Point]]:
        """The points by their group; clients are the last group."""
        found: dict[str, list[Point]] = defaultdict(list)
        for point in sorted(self.points, key=lambda one: (one.group == CLIENTS, one.group)):
            found[point.group].append(point)
        return found


def picture(view: View, chosen: Filter) -> Picture:
    """The nodes that a filter takes, who calls them, and whom they call."""
    members: dict[str, list[Seen]] = defaultdict(list)
    for node in sorted(filter(chosen.takes, view.nodes), key=lambda one: one.id):
        members[owner_of(node.id)].append(node)
    points = {name: _point(name, nodes) for name, nodes in members.items()}
    known = {owner_of(node.id) for node in view.nodes}
    joined: dict[tuple[str, str], Counts] = defaultdict(Counts)
    for key, counts in edges_of(view).items():
        caller, provider = owner_of(key[0]), owner_of(key[1])
        if provider in points and takes(chosen, view, key, counts):
            joined[caller, provider] = joined[caller, provider].plus(counts)
            if caller not in points:
                state = "client" if caller not in known else "elsewhere"
                points[caller] = Point(caller, CLIENTS, "", state, wrong=False)
    lines = [
        Line(caller, provider, counts.rate, counts.success)
        for (caller, provider), counts in sorted(joined.items())
    ]
    return Picture([points[name] for name in sorted(points)], lines)


def _point(name: str, nodes: Sequence[Seen]) -> Point:
    worst = min(nodes, key=by_what_is_wrong)
    services = sorted({str(one) for node in nodes for one in node.info.services})
    state = str(worst.info.status)
    if state == "alive" and worst.info.health == "unhealthy":
        state = "unhealthy"
    words = [", ".join(services), f"({len(nodes)} workers)" if len(nodes) > 1 else ""]
    return Point(
        name, worst.info.region, " ".join(filter(None, words)), state, any(map(is_wrong, nodes))
    )


def graph(view: View, chosen: Filter, form: str) -> Answer:
    """The picture in one of its forms: `terminal`, `mermaid`, `dot` or `svg`."""
    drawn = picture(view, chosen)
    if form == "terminal":
        return Answer(_json(drawn), list(as_text(drawn)))
    draw = {"mermaid": as_mermaid, "dot": as_dot, "svg": as_svg}[form]
    return Answer(_json(drawn), text=list(draw(drawn)))


def _json(drawn: Picture) -> dict[str, Any]:
    return {
        "nodes": [
            {"id": one.name, "region": one.group, "services": one.words, "state": one.state}
            for one in drawn.points
        ],
        "edges": [
            {
                "caller": one.caller,
                "provider": one.provider,
                "calls_per_second": round(one.rate, 3),
                "success": one.success,
            }
            for one in drawn.lines
        ],
    }


def as_text(drawn: Picture) -> Iterable[Cell]:
    """For a terminal: each node with those that it calls below it."""
    calls = _by_caller(drawn)
    for group, points in drawn.groups.items():
        yield Cell(label(group or "(no region)"), "bold")
        for point in points:
            state = "" if point.state in ("alive", "client", "elsewhere") else f"  {point.state}!"
            words = f"  [{label(point.words)}]" if point.words else ""
            yield Cell(f"  {label(point.name)}{words}{state}", "red" if point.wrong else "")
            lines = calls.get(point.name, ())
            for at, line in enumerate(lines):
                corner = "└" if at == len(lines) - 1 else "├"
                mark = "  FAILS" if line.wrong else ""
                yield Cell(
                    f"    {corner}─> {label(line.provider)}  {line.words}{mark}",
                    "red" if line.wrong else "",
                )


def _by_caller(drawn: Picture) -> Mapping[str, list[Line]]:
    found: dict[str, list[Line]] = defaultdict(list)
    for line in drawn.lines:
        found[line.caller].append(line)
    return found


def _ids(drawn: Picture) -> dict[str, str]:
    """Names that need no escape: n0, n1 and so on."""
    return {point.name: f"n{number}" for number, point in enumerate(drawn.points)}


def as_mermaid(drawn: Picture) -> Iterable[str]:
    """For Markdown pages."""
    ids = _ids(drawn)
    yield "flowchart LR"
    for number, (group, points) in enumerate(drawn.groups.items()):
        yield f"  subgraph g{number}[{for_mermaid(group or '(no region)')}]"
        for point in points:
            text = f"{point.name}: {point.words}" if point.words else point.name
            yield f"    {ids[point.name]}[{for_mermaid(text)}]{':::wrong' * point.wrong}"
        yield "  end"
    for line in drawn.lines:
        arrow = f"-->|{for_mermaid(line.words)}|"
        yield f"  {ids[line.caller]} {arrow} {ids[line.provider]}"
    for number, line in enumerate(drawn.lines):
        color = "#c62828" if line.wrong else "#57606a"
        yield f"  linkStyle {number} stroke:{color},stroke-width:{_width(line):.1f}px"
    yield "  classDef wrong stroke:#c62828,stroke-width:3px"


def as_dot(drawn: Picture) -> Iterable[str]:
    """For Graphviz."""
    ids = _ids(drawn)
    yield "digraph mesh {"
    yield '  rankdir=LR; node [shape=box, fontname="sans-serif"]; edge [fontname="sans-serif"];'
    for number, (group, points) in enumerate(drawn.groups.items()):
        yield f"  subgraph cluster_{number} {{"
        yield f"    label={for_dot(group or '(no region)')};"
        for point in points:
            text = f"{point.name}: {point.words}" if point.words else point.name
            color = "red" if point.wrong else "black"
            yield f"    {ids[point.name]} [label={for_dot(text)}, color={color}];"
        yield "  }"
    for line in drawn.lines:
        color = "red" if line.wrong else "gray30"
        yield (
            f"  {ids[line.caller]} -> {ids[line.provider]} "
            f"[label={for_dot(line.words)}, color={color}, penwidth={_width(line):.1f}];"
        )
    yield "}"


def _width(line: Line) -> float:
    return 1 + min(5.0, math.log10(1 + line.rate) * 1.5)


def as_svg(drawn: Picture) -> Iterable[str]:
    """A picture of its own, without scripts and links; light and dark."""
    at, bands, width, height = _places(drawn)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13" role="img">'
    )
    yield (
        "<title>The mesh</title><style>"
        "svg{--ink:#1b1f24;--soft:#57606a;--paper:#fff;--box:#e7eefb;--bad:#c62828}"
        "@media (prefers-color-scheme:dark){svg{--ink:#e6edf3;--soft:#9aa4af;--paper:#0d1117;"
        "--box:#1c2c48;--bad:#ff7b72}}.p{fill:var(--paper)}.b{fill:var(--box);stroke:var(--soft)}"
        ".g{fill:none;stroke:var(--soft);stroke-dasharray:4}.x{stroke:var(--bad);stroke-width:3}"
        ".e{fill:none;stroke:var(--soft)}.f{fill:none;stroke:var(--bad)}text{fill:var(--ink)}"
        ".s{fill:var(--soft);font-size:11px}</style>"
    )
    yield f'<rect class="p" width="{width}" height="{height}"/>'
    for group, (top, size) in bands.items():
        yield f'<rect class="g" x="8" y="{top}" width="{width - 16}" height="{size}" rx="8"/>'
        yield f'<text class="s" x="18" y="{top + 18}">{for_xml(group or "(no region)")}</text>'
    for line in drawn.lines:
        (x1, y1), (x2, y2) = at[line.caller], at[line.provider]
        start, end = (x1 + _BOX[0], x2) if x1 < x2 else (x1 + _BOX[0], x2 + _BOX[0])
        middle, bend = _BOX[1] // 2, 60
        far = end - bend if x1 < x2 else end + bend
        yield (
            f'<path class="{"f" if line.wrong else "e"}" stroke-width="{_width(line):.1f}" '
            f'd="M{start} {y1 + middle}C{start + bend} {y1 + middle} {far} {y2 + middle} '
            f'{end} {y2 + middle}"><title>'
            f"{for_xml(f'{line.caller} to {line.provider}: {line.words}')}</title></path>"
        )
    for point in drawn.points:
        x, y = at[point.name]
        wrong = " x" if point.wrong else ""
        yield (
            f"<g><title>{for_xml(f'{point.name} is {point.state}')}</title>"
            f'<rect class="b{wrong}" x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="6"/>'
            f'<text x="{x + 10}" y="{y + 18}">{for_xml(_short(point.name))}</text>'
            f'<text class="s" x="{x + 10}" y="{y + 35}">{for_xml(_short(point.words, 27))}</text>'
            "</g>"
        )
    yield "</svg>"


def _short(text: str, length: int = 22) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _places(
    drawn: Picture,
) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]], int, int]:
    """Where each point is: callers at the left of those that they call, each region a band."""
    ranks = _ranks(drawn)
    at: dict[str, tuple[int, int]] = {}
    bands: dict[str, tuple[int, int]] = {}
    top = 8
    for group, points in drawn.groups.items():
        used: dict[int, int] = defaultdict(int)
        for point in points:
            rank = ranks[point.name]
            at[point.name] = (_LEFT + rank * _CELL, top + _TOP + used[rank] * _ROW)
            used[rank] += 1
        size = _TOP + max(used.values(), default=1) * _ROW
        bands[group] = (top, size)
        top += size + 12
    width = 2 * _LEFT + max(ranks.values(), default=0) * _CELL + _BOX[0] + 40
    return at, bands, width, top


def _ranks(drawn: Picture) -> dict[str, int]:
    """The column of each point: one more than that of its callers, without going in circles."""
    callers: dict[str, set[str]] = defaultdict(set)
    for line in drawn.lines:
        if line.caller != line.provider:
            callers[line.provider].add(line.caller)
    ranks = dict.fromkeys((point.name for point in drawn.points), 0)
    for _ in range(min(len(ranks), 4)):  # a circle would go on for ever, and 5 columns are enough
        ranks = {
            name: max((ranks[one] + 1 for one in sorted(callers[name]) if one in ranks), default=0)
            for name in ranks
        }
        ranks = {name: min(rank, 4) for name, rank in ranks.items()}
    return ranks
