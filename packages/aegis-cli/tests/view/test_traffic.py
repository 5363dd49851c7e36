from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from aegis_certs.cli._output import UNLIMITED
from aegis_cli._view.edges import BUCKETS, RecentEdges
from aegis_cli._view.graph import graph
from aegis_cli._view.model import Filter
from aegis_cli._view.policies import policies
from aegis_cli._view.traffic import Traffic, percent
from aegis_discovery import NodeStatus, ServiceInfo

from .conftest import NOW

ALL = Filter()
EVIL = (
    "<script>alert(1)</script>",
    '"]; click n0 href "javascript:alert(1)"',
    "\x1b[2J\x1b]0;x\x07",
    'a\\\\"}; evil [label=1',
    "]]>--><!ENTITY x>&lt;",
    "end\n%%{init: {}}%%\nsubgraph x",
)


def edge(caller: str, provider: str, ok: int, **changes: Any) -> dict[str, Any]:
    buckets = [0] * 10 + [ok]
    return {
        "side": "client",
        "caller": caller,
        "service": "orders/v1",
        "method": "orders.v1.Orders/Get",
        "provider": provider,
        "started": ok,
        "codes": {"OK": ok},
        "seconds": {"count": ok, "sum": 0.1, "buckets": buckets},
        **changes,
    }


def shown(answer: Any, width: int = UNLIMITED) -> str:
    return "\n".join(answer.lines(width, colors=False))


def test_each_call_is_counted_once(node, view) -> None:
    orders = node("orders-1", services=(ServiceInfo("orders", "v1"),))
    server = [
        edge("front", "orders-1", 8, side="server", service=""),
        edge("laptop", "orders-1", 5, side="server", service=""),
    ]
    client = [edge("front", "orders-1", 8, started=10, codes={"OK": 8, "UNAVAILABLE": 2})]
    mesh = view(
        node("front"), orders, stats={"orders-1": {"edges": server}, "front": {"edges": client}}
    )
    lines = Traffic(ALL, over=False).edges(mesh).json["lines"]
    assert [(one["caller"], one["service"], one["calls"]) for one in lines] == [
        ("front", "orders/v1", 10),
        ("laptop", "orders/v1", 5),
    ]
    assert (lines[0]["success"], lines[0]["failed"]) == (0.8, {"UNAVAILABLE": 2})
    top = Traffic(ALL, over=False).top(mesh)
    assert [one["calls"] for one in top.json["lines"]] == [15]
    assert top.wrong == 1


def test_latencies_are_those_of_the_caller_though_the_provider_was_asked_later(node, view) -> None:
    def p50(seen_by_provider: int) -> float:
        fast = {"count": 1, "sum": 0.1, "buckets": [seen_by_provider]}
        server = edge("front", "orders-1", seen_by_provider, side="server", seconds=fast)
        client = edge("front", "orders-1", 100)
        stats = {"front": {"edges": [client]}, "orders-1": {"edges": [server]}}
        mesh = view(node("front"), node("orders-1"), stats=stats)
        (line,) = Traffic(ALL, over=False).edges(mesh).json["lines"]
        return float(line["p50_ms"])

    assert p50(103) == p50(100) > 10 * p50(200)


def test_the_calls_of_each_node_are_divided_by_its_own_time(node, view) -> None:
    """A node that has just started calls much, though another one has run for days."""
    mesh = view(node("old"), node("new"), node("orders-1"))
    started = {"old": timedelta(days=10), "new": timedelta(seconds=10)}
    stats = {
        name: {
            "started_at": f"{mesh.taken_at - ago:%Y-%m-%dT%H:%M:%SZ}",
            "edges": [edge(name, "orders-1", 1000)],
        }
        for name, ago in started.items()
    }
    mesh = view(*mesh.nodes, stats=stats, taken_at=mesh.taken_at)
    lines = {one["caller"]: one for one in Traffic(ALL, over=False).edges(mesh).json["lines"]}
    assert lines["new"]["calls_per_second"] == 100
    assert 0 < lines["old"]["calls_per_second"] < 0.01
    shown_lines = shown(Traffic(ALL, over=False).edges(mesh))
    assert "<0.1" in shown_lines
    (service,) = Traffic(ALL, over=False).top(mesh).json["lines"]
    assert service["calls_per_second"] == pytest.approx(100, abs=0.1)
    (drawn,) = (one for one in graph(mesh, ALL, "dot").json["edges"] if one["caller"] == "new")
    assert drawn["calls_per_second"] == 100


def test_workers_that_call_are_one_point_and_no_clients(node, view) -> None:
    workers = [node(f"front#{number}", services=()) for number in (0, 1)]
    edges = [edge(worker.id, "orders-1", 5) for worker in workers]
    mesh = view(*workers, node("orders-1"), stats={"orders-1": {"edges": edges}})
    drawn = graph(mesh, ALL, "terminal")
    assert [(one["id"], one["state"]) for one in drawn.json["nodes"]] == [
        ("front", "alive"),
        ("orders-1", "alive"),
    ]
    assert len(drawn.json["edges"]) == 1
    assert "  front  [(2 workers)]" in shown(drawn)


@pytest.mark.parametrize("form", ["terminal", "svg", "mermaid", "dot"])
def test_each_region_is_a_group_of_its_nodes_and_clients_are_the_last_one(
    node, view, form: str
) -> None:
    regions = ("eu", "us", "asia")
    nodes = [node(f"{region}-{number}", region=region) for region in regions for number in (1, 2)]
    edges = [edge("eu-1", "us-2", 5), edge("web", "asia-1", 2, side="server")]
    mesh = view(*nodes, stats={"eu-1": {"edges": edges}})
    text = shown(graph(mesh, ALL, form))
    groups = {
        "terminal": r"^(\w+)$",
        "svg": r'class="s" x="18"[^>]*>(\w+)<',
        "mermaid": r'subgraph g\d\["(\w+)"\]',
        "dot": r'^    label="(\w+)";',
    }[form]
    found = list(re.finditer(groups, text, re.MULTILINE))
    assert [match[1] for match in found] == ["asia", "eu", "us", "clients"]
    if form == "svg":  # boxes are inside of their bands
        root = ElementTree.fromstring(text)  # noqa: S314 - our own picture
        rects = [one for one in root.iter() if one.tag.endswith("rect")]
        bands = [one for one in rects if one.get("class") == "g"]
        boxes = [one for one in rects if one.get("class", "").startswith("b")]
        assert (len(bands), len(boxes)) == (4, 7)
        for box in boxes:
            assert sum(_encloses(band, box) for band in bands) == 1
        return
    ends = [match.start() for match in found[1:]] + [len(text)]
    for match, end in zip(found, ends, strict=True):
        named = re.findall(r"\b(\w+-[12]|web)\b", _declared(text[match.end() : end], form))
        wanted = ["web"] if match[1] == "clients" else [f"{match[1]}-1", f"{match[1]}-2"]
        assert named == wanted


def _encloses(band: Any, box: Any) -> bool:
    (left, top, wide, high), (x, y, w, h) = (
        [float(one.get(name)) for name in ("x", "y", "width", "height")] for one in (band, box)
    )
    return left <= x and top <= y and x + w <= left + wide and y + h <= top + high


def _declared(text: str, form: str) -> str:
    """The part of a group that names its nodes, without the edges."""
    marks = {"terminal": r"^    .*", "mermaid": r"^  end(.|\n)*", "dot": r"^  }(.|\n)*"}
    return re.sub(marks[form], "", text, flags=re.MULTILINE)


def test_a_live_table_is_of_what_happened_since_the_last_one(node, view) -> None:
    def at(seconds: int, ok: int, ended: int | None = None) -> Any:
        one = edge("a", "b", ok if ended is None else ended, started=ok)
        seen = view(node("a"), node("b"), stats={"a": {"edges": [one]}})
        return view(
            *seen.nodes, stats=seen.stats, taken_at=seen.taken_at + timedelta(seconds=seconds)
        )

    traffic = Traffic(ALL, over=True)
    assert "since each node started" in shown(traffic.top(at(0, 100)))
    (line,) = traffic.top(at(2, 130, 127)).json["lines"]
    assert (line["calls_per_second"], line["calls"], line["running"]) == (15.0, 30, 3)
    assert traffic.top(at(4, 130)).json["lines"] == []
    (restarted,) = traffic.top(at(6, 5)).json["lines"] or [None]
    assert restarted is None or restarted["calls"] >= 0


def test_calls_of_a_window_are_those_of_the_same_processes(node, view) -> None:
    recent = RecentEdges(10.0)

    def calls(seconds: int, ok: int | None, started: int = -3600) -> float | None:
        at = NOW + timedelta(seconds=seconds)
        told = {"started_at": f"{NOW + timedelta(seconds=started):%Y-%m-%dT%H:%M:%SZ}"}
        stats = {} if ok is None else {"a": {**told, "edges": [edge("a", "b", ok)]}}
        found = recent.add(view(node("a"), node("b"), stats=stats, taken_at=at))
        return found and sum(counts.started for counts in found[0].values())

    assert calls(0, 1000) is None
    assert (calls(5, 1010), calls(10, 1020), calls(15, 1040)) == (10, 20, 30)
    assert (calls(20, None), calls(25, None), calls(30, None)) == (0, 0, 0)
    assert calls(35, 2000) == 0, "nobody knows how many of these are recent"
    assert calls(40, 2007) == 7
    assert calls(45, 3, started=42) == 3, "all are of the process that has just started"


@pytest.mark.parametrize(
    "value", [None, 7, [7], [{"side": "client", "codes": 3, "seconds": {"buckets": "x" * 9}}]]
)
def test_nonsense_of_a_node_is_left_out(node, view, value: Any) -> None:
    answer = Traffic(ALL, over=False).edges(view(node("a"), stats={"a": {"edges": value}}))
    assert answer.json["lines"] == []
    assert BUCKETS > 40


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100%"), (0.99999, "99.99%"), (0.5, "50%"), (0, "0%")]
)
def test_only_a_whole_is_shown_as_a_whole(share: float, text: str) -> None:
    assert percent(share) == text


def evil_mesh(node: Any, view: Any) -> Any:
    nodes = [
        node(f"n-{number}", region=text, services=(ServiceInfo(text, text),), name=text, type=text)
        for number, text in enumerate(EVIL)
    ]
    edges = [
        edge(text, f"n-{number}", 3, service=text, method=f"{text}/{text}")
        for number, text in enumerate(EVIL)
    ]
    edges.append(edge("n-0", "n-1", 1, started=2, codes={"OK": 1, EVIL[0]: 1}))
    return view(*nodes, stats={"n-0": {"edges": edges}})


def test_svg_has_only_what_we_draw_whatever_peers_are_called(node, view) -> None:
    text = shown(graph(evil_mesh(node, view), ALL, "svg"))
    root = ElementTree.fromstring(text)  # noqa: S314 - our own picture
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "title", "style", "rect", "text", "path", "g"}
    names = {name for element in root.iter() for name in element.attrib}
    assert not any(name.startswith("on") or "href" in name for name in names)
    assert any("<script>" in (element.text or "") for element in root.iter())  # as text


def test_mermaid_has_only_what_we_draw(node, view) -> None:
    lines = shown(graph(evil_mesh(node, view), ALL, "mermaid")).splitlines()
    known = re.compile(
        r"flowchart LR|  end|  classDef wrong [^<>]*"
        r"|  linkStyle \d+ stroke:#\w+,stroke-width:[\d.]+px"
        r'|  subgraph g\d+\["[^"<>\[\]]*"\]|    n\d+\["[^"<>\[\]]*"\](:::wrong)?'
        r'|  n\d+ -->\|"[^"<>|\[\]]*"\| n\d+'
    )
    assert [line for line in lines if not known.fullmatch(line)] == []


def test_dot_has_only_what_we_draw(node, view) -> None:
    lines = shown(graph(evil_mesh(node, view), ALL, "dot")).splitlines()
    text = r'"(?:[^"\\]|\\.)*"'
    forms = (
        r"digraph mesh \{",
        r"  rankdir=.*",
        r"  subgraph cluster_\d+ \{",
        rf"    label={text};",
        r" *\}",
        rf"    n\d+ \[label={text}, color=\w+\];",
        rf"  n\d+ -> n\d+ \[label={text}, color=\w+, penwidth=[\d.]+\];",
    )
    known = re.compile("|".join(forms))
    assert [line for line in lines if not known.fullmatch(line)] == []
    if shutil.which("dot"):
        subprocess.run(
            ["dot", "-Tsvg"], input="\n".join(lines), text=True, check=True, capture_output=True
        )


def test_no_table_or_terminal_picture_can_write_control_characters(node, view) -> None:
    mesh = evil_mesh(node, view)
    traffic = Traffic(ALL, over=False)
    for answer in (graph(mesh, ALL, "terminal"), traffic.top(mesh), traffic.edges(mesh)):
        for line in answer.lines(80, colors=False):
            assert line.isprintable()
        json.dumps(answer.json, default=str)


def test_a_picture_shows_regions_traffic_and_failures(node, view) -> None:
    mesh = view(
        node("front", region="eu"),
        node("orders-1", region="eu", status=NodeStatus.FAILED),
        stats={
            "front": {
                "started_at": "2026-11-23T11:59:59Z",
                "edges": [edge("front", "orders-1", 1, started=2, codes={"OK": 1, "UNKNOWN": 1})],
            }
        },
    )
    text = shown(graph(mesh, ALL, "terminal"))
    assert re.search(
        r"^eu\n  front .*\n    └─> orders-1  2.0/s, 50%  FAILS\n  orders-1 .*failed!$", text
    )
    assert 'class="f"' in shown(graph(mesh, ALL, "svg"))


def test_a_node_without_the_newest_policy_is_first(node, view) -> None:
    def has(sequence: int | None, source: str = "published") -> Any:
        one = {"source": source, "sha256": "ab" * 32, "sequence": sequence, "call_rules": 2}
        return {"policies": [one]}

    mesh = view(
        *map(node, "abc"),
        stats={"a": has(1_800_000_000_000), "b": has(1_700_000_000_000), "c": has(None, "file")},
    )
    answer = policies(mesh, ALL)
    assert [one["id"] for one in answer.json["nodes"]] == ["b", "c", "a"]
    assert answer.wrong == 2
    assert "2027-01-15 08:00:00" in shown(answer)
    assert "file abababababab" in shown(answer)
