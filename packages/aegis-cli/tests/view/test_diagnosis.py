from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aegis_cli._view.diagnosis import Diagnosis, examine_view, report
from aegis_cli._view.model import CertificateSeen, Reply, Seen, View
from aegis_discovery import NodeInfo, NodeStatus

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
LEAF = CertificateSeen("x", "ca", NOW - timedelta(days=1), NOW + timedelta(days=89))
CA = CertificateSeen("Aegis CA", "Aegis CA", NOW - timedelta(days=1), NOW + timedelta(days=364))


def seen(number: int, **changes: object) -> Seen:
    info = NodeInfo(f"n-{number}", address=f"10.0.0.{number}:50051", trust_bundle="aa")
    node = Seen(info, certificate=LEAF, reply=Reply("healthy", "", "", 0.001))
    return node._replace(**changes)


def view_of(*nodes: Seen, **changes: object) -> View:
    stats = {n.id: {"topology_nodes": len(nodes), "versions": {"aegis-core": "1"}} for n in nodes}
    made = View(NOW, "n-1", 1, "d", NOW, nodes, stats, authorities=[CA])
    return made._replace(**changes)


def wrong(view: View) -> list[Diagnosis]:
    return [one for one in examine_view(view) if one.level != "ok"]


def test_nothing_is_wrong_with_a_mesh_that_is_well() -> None:
    found = list(examine_view(view_of(seen(1), seen(2), seen(3))))
    assert {one.level for one in found} == {"ok"}
    assert {one.topic for one in found} >= {"reachability", "clock", "addresses", "certificates"}


@pytest.mark.parametrize(
    ("changes", "topic", "level", "text"),
    [
        ({"reply": None, "problem": "refused"}, "reachability", "problem", "refused; check that"),
        (
            {"reply": None, "problem": "is it on?"},
            "reachability",
            "problem",
            "is it on? check that",
        ),
        (
            {"reply": Reply("unhealthy", "", "no database", 0.1)},
            "health",
            "problem",
            "n-3 is unhealthy: no database",
        ),
        ({"reply": Reply("healthy", "", "", 0.1, 30.0)}, "clock", "warning", "30s ahead of"),
        ({"reply": Reply("healthy", "", "", 0.1, -900.0)}, "clock", "problem", "15m behind"),
        ({"certificate": LEAF._replace(not_after=NOW)}, "certificates", "problem", "certs token"),
        (
            {"certificate": LEAF._replace(not_after=NOW + timedelta(hours=1))},
            "certificates",
            "warning",
            "less than a third",
        ),
    ],
)
def test_what_is_wrong_with_a_node_is_named_with_what_to_do(
    changes: dict[str, object], topic: str, level: str, text: str
) -> None:
    (found,) = wrong(view_of(seen(1), seen(2), seen(3, **changes)))
    assert (found.topic, found.level, list(found.nodes)) == (topic, level, ["n-3"])
    assert text in found.text


def test_a_failed_node_can_be_forgotten() -> None:
    node = seen(3, reply=None, problem="refused")
    failed = node._replace(info=replace(node.info, status=NodeStatus.FAILED))
    (found,) = wrong(view_of(seen(1), seen(2), failed))
    assert "aegis mesh forget n-3" in found.text


def test_a_clock_that_differs_from_most_is_this_machines() -> None:
    late = Reply("healthy", "", "", 0.1, -400.0)
    (found,) = wrong(view_of(*(seen(n, reply=late) for n in range(1, 4))))
    assert (found.topic, found.level) == ("clock", "problem")
    assert "its own clock is probably wrong" in found.text


@pytest.mark.parametrize(
    ("address", "level", "text"),
    [
        ("10.0.0.1:50051", "problem", "all say that they are at 10.0.0.1:50051"),
        ("0.0.0.0:50051", "problem", "set --advertise"),
        ("127.0.0.1:50051", "warning", "from their own machine only"),
    ],
)
def test_addresses_that_others_cannot_use(address: str, level: str, text: str) -> None:
    node = seen(3)
    (found,) = wrong(
        view_of(seen(1), seen(2), node._replace(info=replace(node.info, address=address)))
    )
    assert (found.topic, found.level) == ("addresses", level)
    assert text in found.text


def test_mixed_versions_bundles_and_views_are_warnings() -> None:
    node = seen(3)
    odd = node._replace(info=replace(node.info, trust_bundle="bb"))
    view = view_of(seen(1), seen(2), odd)
    view = view._replace(
        stats={**view.stats, "n-3": {"topology_nodes": 2, "versions": {"aegis-core": "2"}}},
        authorities=[
            CA._replace(not_before=NOW - timedelta(days=335), not_after=NOW + timedelta(days=30))
        ],
    )
    found = wrong(view)
    assert [one.topic for one in found] == ["CA", "trust bundle", "versions", "views"]
    assert {one.level for one in found} == {"warning"}
    assert "n-3" in found[1].text


def test_many_silent_nodes_make_few_lines_and_junk_in_statistics_none() -> None:
    nodes = [seen(n, reply=None, problem="refused") for n in range(2, 200)]
    view = view_of(seen(1), *nodes)
    view = view._replace(stats={"n-1": {"versions": ["\x1b[31m"], "topology_nodes": "many"}})
    silent = [one for one in wrong(view) if one.topic == "reachability"]
    assert len(silent) == 6
    assert silent[-1].text == "193 more nodes do not answer"


def test_a_report_has_what_is_wrong_first_and_counts_problems() -> None:
    found = [
        Diagnosis("a", "ok", "1"),
        Diagnosis("b", "problem", "\x1b[31m"),
        Diagnosis("c", "warning", "3"),
    ]
    answer = report(found, NOW)
    assert answer.wrong == 1
    assert [one["level"] for one in answer.json["findings"]] == ["problem", "warning", "ok"]
    lines = answer.lines(80, colors=False)
    assert lines[0] == "1 problem, 1 warning"
    assert "\x1b" not in "".join(lines)
