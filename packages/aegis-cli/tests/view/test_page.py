"""What the page of `aegis ui` is told: bounded, folded, harmless, and with what is wrong first."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from aegis_cli._view.page import MAX_PROBLEMS, MAX_ROWS, Page, matcher
from aegis_discovery import HealthStatus, NodeStatus, ServiceInfo

from .conftest import NOW
from .test_traffic import EVIL, edge, evil_mesh

SECOND = timedelta(seconds=1)


def page_of(*views: Any) -> Page:
    page = Page("aegis")
    for view in views:
        page.add(view)
    return page


def state_of(*views: Any, query: str = "", now: Any = NOW) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.dumps(page_of(*views).state(query, now)))
    return state


def shop(node: Any, view: Any, **changes: Any) -> Any:
    orders, pay = ((ServiceInfo(name, "v1"),) for name in ("orders", "pay"))
    return view(
        node("front", services=(), region="eu"),
        node("orders-1", services=orders, region="eu", zone="a"),
        node("orders-2", services=orders, region="us"),
        node("pay-1", services=pay, region="us"),
        **{"stats": {"front": {"edges": [edge("front", "orders-1", 60)]}}, **changes},
    )


def test_a_small_mesh_is_drawn_node_by_node_with_its_calls(node, view) -> None:
    state = state_of(shop(node, view))
    points = {one["key"]: one for one in state["picture"]["points"]}
    assert [one["title"] for one in points.values()] == ["front", "orders-1", "orders-2", "pay-1"]
    (line,) = state["picture"]["lines"]
    assert (points[line["from"]]["title"], points[line["to"]]["title"]) == ("front", "orders-1")
    assert (line["success"], line["wrong"], state["picture"]["folded"]) == (1, False, False)
    assert state["counts"] == [["alive", 4]]
    assert (state["problems"]["total"], state["stale_since"], state["seconds"]) == (0, None, None)


def test_calls_are_those_of_the_last_seconds(node, view) -> None:
    def at(seconds: int, ok: int, bad: int) -> Any:
        one = edge("front", "orders-1", ok, started=ok + bad, codes={"OK": ok, "UNAVAILABLE": bad})
        return shop(node, view, stats={"front": {"edges": [one]}}, taken_at=NOW + seconds * SECOND)

    state = state_of(at(0, 1000, 0), at(5, 1080, 20), now=NOW + 5 * SECOND)
    (line,) = state["calls"]
    assert (line["calls_per_second"], line["success"], line["failed"]) == (
        20,
        0.8,
        {"UNAVAILABLE": 20},
    )
    assert (state["seconds"], state["services"][0]["name"]) == (5, "orders/v1")
    assert "80% of the calls of orders/v1 succeed" in state["problems"]["listed"][0]["text"]


def test_what_is_wrong_is_first_and_named(node, view, certificate) -> None:
    mesh = view(
        node("a"),
        node("b", health=HealthStatus.UNHEALTHY),
        node("c", status=NodeStatus.FAILED, since=NOW - timedelta(minutes=3), by=("a", "b")),
        node("d", services=(ServiceInfo("dead", "v1"),), status=NodeStatus.FAILED),
        node("e", certificate=certificate(3, "e")),
        unanswered={"a": "it hangs"},
    )
    state = state_of(mesh)
    assert [one["id"] for one in state["nodes"]] == ["c", "d", "b", "a", "e"]
    assert state["services"][0]["name"] == "dead/v1"
    assert state["certificates"][0]["name"] == "e"
    texts = [one["text"] for one in state["problems"]["listed"]]
    assert texts[0] == "c is failed for 3m, by a, b"
    assert {"dead/v1 has no ready provider", "a did not tell its counts: it hangs"} <= {*texts}
    assert any(text.startswith("the certificate of e ends ") for text in texts)


def test_what_is_old_says_since_when(node, view) -> None:
    def stale(now: Any = NOW, **changes: Any) -> tuple[Any, str]:
        state = state_of(shop(node, view, **changes), now=now)
        return state["stale_for"], state["trouble"]

    assert stale() == (None, "")
    assert stale(silent_for=9.0) == (9, "")
    assert stale(now=NOW + 70 * SECOND) == (70, "")
    mesh = shop(node, view)
    again = mesh._replace(trouble="it is gone", silent_for=70.0)
    state = state_of(mesh, again, now=NOW + 70 * SECOND)
    assert (state["stale_for"], state["trouble"]) == (70, "it is gone")


def test_an_identity_that_cannot_be_renewed_is_a_problem_and_not_yet_stale(node, view) -> None:
    mesh = shop(node, view)
    trouble = f"no CA key in {'x' * 150}; make a token"
    state = state_of(mesh, mesh._replace(trouble=trouble, taken_at=NOW + SECOND), now=NOW)
    assert (state["stale_since"], state["problems"]["listed"][0]["text"]) == (None, trouble)


def test_many_nodes_are_folded_and_a_filter_unfolds_them(node, view) -> None:
    names = ("orders", "pay", "stock")
    nodes = [
        node(
            f"n-{number}",
            services=(ServiceInfo(names[number % 3], "v1"),),
            region=("eu", "us")[number % 2],
            **({"status": NodeStatus.FAILED} if number == 6 else {}),
        )
        for number in range(200)
    ]
    stats = {"n-0": {"edges": [edge("n-0", "n-1", 5), edge("n-0", "n-7", 7)]}}
    mesh = view(*nodes, stats=stats)
    drawn = state_of(mesh)["picture"]
    assert drawn["folded"]
    assert [(one["title"], one["group"], one["nodes"]) for one in drawn["points"]][:2] == [
        ("orders/v1", "eu", 34),
        ("pay/v1", "eu", 33),
    ]
    assert [one["wrong"] for one in drawn["points"]] == [1, 0, 0, 0, 0, 0]
    assert [one["calls"] for one in drawn["lines"]] == [12]
    opened = state_of(mesh, query=drawn["points"][0]["find"])["picture"]
    titles = [one["title"] for one in opened["points"] if one["services"] == ["orders/v1"]]
    assert len(titles) == 34
    assert "n-0" in titles
    assert {one["title"] for one in opened["points"]} - {*titles} == {"n-1", "n-7"}
    again = state_of(view(*reversed(nodes), stats=stats))["picture"]
    assert again["points"] == drawn["points"], "the order of a picture is always the same"


def test_a_mesh_of_any_size_fits_into_one_answer(node, view) -> None:
    wide = "x" * 500
    services = tuple(ServiceInfo(f"{wide}{number}", "v1") for number in range(30))
    nodes = [
        node(f"n-{number}", services=services, name=wide, region=f"{number}", by=(wide,) * 20)
        for number in range(500)
    ]
    edges = [edge(f"client-{one}", f"n-{one % 500}", one, service=wide) for one in range(1, 5000)]
    events = [{"number": one, "what": wide, "kind": wide, "by": [wide] * 99} for one in range(5000)]
    stats = {"n-0": {"edges": edges}, "seed": {"events": events}}
    state = page_of(view(*nodes, stats=stats)).state("", NOW)
    assert len(json.dumps(state)) < 4_000_000
    assert len(state["picture"]["points"]) <= 61
    assert {len(state[name]) for name in ("nodes", "calls", "events")} == {MAX_ROWS}
    assert state["rows"]["calls"] == 4999, "the others are counted"
    assert len(state["problems"]["listed"]) <= MAX_PROBLEMS


def test_no_name_brings_control_characters_or_changes_the_form(node, view) -> None:
    state = page_of(evil_mesh(node, view)).state("", NOW)
    usual = page_of(shop(node, view)).state("", NOW)
    assert state.keys() == usual.keys()

    def texts(value: Any) -> Any:
        if isinstance(value, dict):
            for name, one in value.items():
                yield name
                yield from texts(one)
        elif isinstance(value, list):
            for one in value:
                yield from texts(one)
        elif isinstance(value, str):
            yield value

    found = list(texts(state))
    assert all(text.isprintable() and len(text) <= 400 for text in found)
    assert EVIL[0] in found, "it is data, which the page shows as text"
    keys = [one["key"] for one in state["picture"]["points"]]
    assert all(len(key) == 16 and key.isalnum() for key in keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("value", [None, 7, "x", [7, None, {"by": 3}], {"a": 1}])
def test_nonsense_of_a_node_is_left_out(node, view, value: Any) -> None:
    told = dict.fromkeys(("edges", "events", "pool", "started_at", "edges_left_out"), value)
    state = state_of(view(node("seed"), stats={"seed": told}))
    assert state["calls"] == []
    assert len(state["events"]) <= 1


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["front", "orders-1", "orders-2", "pay-1"]),
        ("ORDERS eu/a", ["orders-1"]),
        ("us alive", ["orders-2", "pay-1"]),
        ("nothing", []),
    ],
)
def test_a_filter_takes_what_has_all_its_words(node, view, query: str, ids: list[str]) -> None:
    assert [one["id"] for one in state_of(shop(node, view), query=query)["nodes"]] == ids


def test_a_filter_is_bounded() -> None:
    assert matcher("a" * 1_000_000)(["a" * 200])
