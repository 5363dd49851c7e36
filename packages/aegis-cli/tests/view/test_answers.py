from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from aegis_certs.cli._output import UNLIMITED
from aegis_cli._view.certificates import certificates
from aegis_cli._view.difference import Held, difference
from aegis_cli._view.events import event_lines, new_events, why
from aegis_cli._view.model import Filter, Reply, items_of, number_of, parse_span, time_of
from aegis_cli._view.nodes import nodes
from aegis_cli._view.services import services
from aegis_cli._view.status import status
from aegis_discovery import HealthStatus, NodeStatus, ServiceInfo

from .conftest import NOW

ALL = Filter()


def shown(answer, width: int = UNLIMITED) -> str:
    return "\n".join(answer.lines(width, colors=False))


def test_what_is_wrong_is_first_with_since_when_and_by_whom(node, view) -> None:
    failed = node(
        "z",
        status=NodeStatus.FAILED,
        since=NOW - timedelta(minutes=3),
        by=("a", "b", "c", "d"),
    )
    ill = node("y", health=HealthStatus.UNHEALTHY)
    answer = status(view(node("a"), ill, failed), ALL)
    head, source, _, _, *rows = shown(answer).splitlines()
    assert head == "3 nodes: 1 failed, 2 alive, 1 unhealthy"
    assert source.startswith("seed says so, 2026-11-23 12:00:00 UTC; version 7")
    assert [row.split()[0] for row in rows] == ["z", "y", "a"]
    assert "failed 3m, by a, b, c +1" in rows[0]
    assert "alive 1h" in rows[2]
    assert answer.wrong == 2


def test_a_region_that_is_silent_as_a_whole_is_shown_and_counts_as_wrong(node, view) -> None:
    silent = [node(f"us-{n}", region="us", status=NodeStatus.UNREACHABLE) for n in (1, 2)]
    answer = status(view(node("eu-1", region="eu"), *silent), ALL, wide=True)
    head, _, _, _, *rows = shown(answer, 200).splitlines()
    assert head == "3 nodes: 2 unreachable, 1 alive"
    assert [row.split()[0] for row in rows[:3]] == ["us-1", "us-2", "eu-1"]
    assert "unreachable" in rows[0]
    assert "us" in rows[0].split()
    assert answer.wrong == 2


@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_a_terminal_gets_lines_that_fit(node, view, width: int) -> None:
    long = node("a-node-with-quite-a-long-name-eu-west-1", region="eu-west-1", zone="a")
    failed = node("b", status=NodeStatus.FAILED, by=("observer-one", "observer-two", "three"))
    for wide in (False, True):
        lines = status(view(long, failed), ALL, wide=wide).lines(width, colors=False)
        assert all(len(line) <= width for line in lines)
        assert all(word in "\n".join(lines) for word in ("greeter/v1", "healthy", "failed"))


def test_a_narrow_terminal_names_the_columns_that_it_leaves_out(node, view) -> None:
    text = shown(status(view(node("orders-1")), ALL, wide=True), 60)
    assert "A wider terminal also shows: " in text
    assert "A wider terminal" not in shown(status(view(node("orders-1")), ALL), 80)


def test_workers_of_an_identity_are_one_line_with_their_worst_state(node, view) -> None:
    workers = [node("a#0"), node("a#10"), node("a#2", status=NodeStatus.SUSPECTED), node("b")]
    folded = shown(status(view(*workers), ALL))
    assert "a (3 workers)" in folded
    assert "1 of 3 suspected" in folded
    each = shown(status(view(*workers), ALL, workers=True)).splitlines()[4:8]
    assert [line.split()[0] for line in each] == ["a#2", "a#0", "a#10", "b"]


@pytest.mark.parametrize(
    ("days", "cell", "wrong"), [(60, "60d", 0), (0.5, "12h", 0), (-1, "expired", 1)]
)
def test_a_certificate_is_shown_by_what_is_left_of_it(
    node, view, certificate, days: float, cell: str, wrong: int
) -> None:
    answer = status(view(node("a", certificate=certificate(days))), ALL)
    assert shown(answer).splitlines()[4].split()[-1] == cell
    assert answer.wrong == wrong


def test_filters_take_services_places_and_states(node, view) -> None:
    mesh = view(
        node("a", region="eu", zone="1"),
        node("b", region="us", services=(ServiceInfo("pay", "v2", "region"),)),
        node("c", region="eu", status=NodeStatus.FAILED),
    )

    def ids(**parts: tuple[str, ...]) -> list[str]:
        return [one["id"] for one in status(mesh, Filter(**parts)).json["nodes"]]

    assert ids(services=("pay",)) == ids(services=("pay/v2",)) == ["b"]
    assert ids(regions=("eu",)) == ["c", "a"]
    assert ids(zones=("1",)) == ["a"]
    assert ids(statuses=("failed",)) == ["c"]
    assert ids(statuses=("healthy",), regions=("us",)) == ["b"]
    assert "1 of 3 nodes: 1 failed" in shown(status(mesh, Filter(statuses=("failed",))))
    nowhere = status(mesh, Filter(regions=("eu", "asia"), zones=("9",)))
    assert "no node is in region 'asia'\nno node is in zone '9'" in shown(nowhere)
    assert nowhere.wrong == 2


def test_a_stale_view_says_so(node, view) -> None:
    assert "STALE: seed sent nothing for 9s" in shown(status(view(node("a"), silent_for=9.0), ALL))
    old = view(node("a"), silent_for=70.0, trouble="it went away")
    assert "STALE for 1m: it went away" in shown(status(old, ALL))
    assert status(old, ALL).wrong == 1


def test_nodes_say_themselves_how_they_are(node, view) -> None:
    mesh = view(
        node("a", reply=Reply("healthy", "", "", 0.0123)),
        node("b", reply=Reply("unhealthy", "1 of 1 failed", "disk: full", 0.001)),
        node("c", problem="it went\naway"),
        stats={"a": {"topology_nodes": 3, "calls": {"running": 5}, "started_at": "nonsense"}},
    )
    answer = nodes(mesh, ALL)
    rows = shown(answer).splitlines()[4:]
    assert [row.split()[0] for row in rows] == ["c", "b", "a"]
    assert "no answer: it went" in shown(answer)
    assert "unhealthy: disk: full" in rows[2 if rows[1].startswith(" ") else 1]
    assert {"12.3", "5", "3"} <= set(rows[-1].split())
    assert answer.wrong == 2


def test_a_service_without_a_ready_provider_is_first_and_ejections_are_shown(node, view) -> None:
    pay = (ServiceInfo("pay", "v1"),)
    endpoint = {"node_id": "b", "state": "ejected", "address": "b:1", "under_way": 0}
    pool = {"services": [{"name": "pay", "version": "v1", "endpoints": [endpoint, "nonsense"]}]}
    mesh = view(
        node("a", services=(ServiceInfo("dead", "v1"),), status=NodeStatus.FAILED),
        node("b", services=pay),
        stats={"front": {"pool": pool}, "liar": {"pool": {"services": 7}}},
    )
    answer = services(mesh, ALL)
    first, second = shown(answer).splitlines()[4:]
    assert first.split() == ["dead/v1", "0", "of", "1", "a", "(failed)", "-"]
    assert "b ejected by front" in second
    assert answer.wrong == 2


def test_certificates_are_listed_by_what_ends_next(node, view, certificate) -> None:
    mesh = view(
        node("a", certificate=certificate(50, "a")),
        node("b", certificate=certificate(3, "b")),
        node("go-1", certificate=None, vouched_by="a"),
        authorities=(certificate(40, "Aegis CA"),),
    )
    rows = shown(certificates(mesh, ALL)).splitlines()[4:7]
    assert [row.split()[0] for row in rows] == ["b", "CA", "a"]
    assert "Not seen, since others vouch for them: go-1." in shown(certificates(mesh, ALL))
    within = certificates(mesh, ALL, within=14 * 86400.0)
    assert ([one["name"] for one in within.json["certificates"]], within.wrong) == (["b"], 1)
    assert certificates(mesh, ALL, within=86400.0).wrong == 0


def test_events_are_shown_once_and_since_a_time() -> None:
    told = {
        "events": [
            {"number": 1, "at": "2026-11-23T11:00:00Z", "kind": "joined", "node_id": "a"},
            {
                "number": 2,
                "at": "2026-11-23T11:59:00Z",
                "kind": "failed",
                "node_id": "a",
                "by": ["b"],
            },
            "nonsense",
        ]
    }
    assert len(new_events(told)) == 2
    (late,) = new_events(told, after=1)
    assert [late] == new_events(told, since=NOW - timedelta(minutes=5))
    assert event_lines([late])[0].text == "2026-11-23 11:59:00  failed     a  by b"
    assert event_lines([{}])[0].text.startswith("?" * 19)


def test_why_says_whose_verdicts_count() -> None:
    verdict = {"accuser": "b", "opinion": "failed", "counts": True, "at": "2026-11-23T11:59:00Z"}
    told = {
        "node_id": "a",
        "asked": "seed",
        "known": True,
        "status": "failed",
        "since": "2026-11-23T11:58:00Z",
        "by": ["b", "c"],
        "observers": ["b", "c", "seed"],
        "watches": [],
        "verdicts": [verdict, {**verdict, "accuser": "stranger", "counts": False}],
        "events": [],
    }
    text = shown(why(told, "it refused the connection", NOW))
    assert "a is failed for 2m, since 2026-11-23 11:58:00 UTC, says seed" in text
    assert "1 of 3 observers say failed now" in text
    assert "it does not answer here: it refused the connection" in text
    assert [line.split()[2] for line in text.splitlines() if "  failed  " in line] == ["yes", "no"]
    assert why({"node_id": "x", "asked": "seed", "known": False}, None, NOW).wrong == 1


def test_two_views_are_compared_in_words() -> None:
    facts = {"status": "alive", "record": "1"}
    one = Held("a", "ab", {"x": facts, "y": facts}, {"policy": 1}, ["file ab"])
    assert difference(one, replace(one, node_id="b")).wrong == 0
    other = Held("b", "cd", {"x": {**facts, "status": "failed"}}, {}, [])
    answer = difference(one, other)
    assert [tuple(line.values()) for line in answer.json["differences"]] == [
        ("x: status", "alive", "failed"),
        ("y", "known", "not known"),
        ("document policy", "1", "-"),
        ("policies", "file ab", "none"),
    ]
    assert answer.wrong == 4


@pytest.mark.parametrize("text", ["90s", "1.5m", "90", "2h", "14d"])
def test_lengths_of_time_are_read(text: str) -> None:
    assert parse_span(text) > 0


@pytest.mark.parametrize("text", ["", "d", "-1d", "1w", "nan", "inf", "1e99d"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - float raises it with texts of its own
        parse_span(text)


def test_statistics_may_hold_anything() -> None:
    for value in (None, "x", [], {}, float("nan"), True, 10**400):
        assert number_of(value) == 0
        assert time_of(value) is None
        assert items_of(value) == []
