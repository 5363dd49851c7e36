"""The counts of edges: what they hold, and that they stay bounded."""

from __future__ import annotations

import json
import threading

import pytest
from aegis_discovery._runtime.edges import SWEEP_INTERVAL
from aegis_discovery.signals import (
    LATENCY_BOUNDS,
    OTHER,
    EdgeStats,
    EdgeTable,
    LatencyStats,
    busiest_edges,
    edge_to_json,
)


def call(table: EdgeTable, peer: str, *, method: str = "/a.B/C", code: int = 0) -> None:
    edge = table.of("a/v1", method)[peer]
    edge.started += 1
    edge.ended(code, 0.0015)


def test_an_edge_counts_outcomes_and_latency_on_both_sides() -> None:
    client, server = EdgeTable("client"), EdgeTable("server")
    for code in (0, 0, 14):
        call(client, "orders-1", code=code)
    server.of("", "a.B/C")["gateway"].rejected(7)
    (edge,) = client.stats("gateway")
    assert (edge.side, edge.caller, edge.service, edge.method, edge.provider) == (
        "client", "gateway", "a/v1", "a.B/C", "orders-1",
    )  # fmt: skip
    assert (edge.started, edge.codes, edge.seconds.count) == (3, {"OK": 2, "UNAVAILABLE": 1}, 3)
    assert edge.seconds.buckets[LATENCY_BOUNDS.index(0.002)] == 3
    (denied,) = server.stats("orders-1", "a/v1")
    assert (denied.caller, denied.provider, denied.service) == ("gateway", "orders-1", "a/v1")
    assert denied.codes == {"PERMISSION_DENIED": 1}


def test_pending_calls_are_counted_with_the_others() -> None:
    table = EdgeTable("client")
    edge = table.of("a/v1", "/a.B/C")["orders-1"]
    for _ in range(100):
        edge.started += 1
        edge.pending.append(0.0015)
    edge.started += 1
    edge.ended(14, 0.2)
    assert not edge.is_idle
    (stats,) = table.stats("me")
    assert (stats.started, stats.codes) == (101, {"OK": 100, "UNAVAILABLE": 1})
    assert stats.seconds.buckets[LATENCY_BOUNDS.index(0.002)] == 100
    assert stats.seconds.sum == pytest.approx(0.35)
    assert table.stats("me") == (stats,), "nothing is counted twice"


def test_a_full_table_counts_further_edges_as_other() -> None:
    table = EdgeTable("client", max_edges=3)
    for number in range(10):
        call(table, f"node-{number}")
    for number in range(10):
        call(table, "node-0", method=f"/a.B/C{number}")
    stats = {(edge.method, edge.provider): edge.started for edge in table.stats("me")}
    assert len(table) == 3
    assert stats == {("a.B/C", f"node-{n}"): 1 for n in range(3)} | {(OTHER, OTHER): 17}


def test_an_edge_without_calls_makes_room_and_its_counts_stay() -> None:
    now = 0.0
    table = EdgeTable("client", max_edges=2, clock=lambda: now)
    call(table, "gone")
    long_stream = table.of("a/v1", "/a.B/C")["streams"]
    long_stream.started += 1
    call(table, "new")  # full; the first look only notes what there is
    now = SWEEP_INTERVAL
    call(table, "new")
    assert {edge.provider: edge.started for edge in table.stats("me")} == {
        "streams": 1, "new": 1, OTHER: 2,
    }  # fmt: skip


def test_threads_lose_no_count() -> None:
    table = EdgeTable("client", max_edges=4)

    def work() -> None:
        for number in range(2000):
            call(table, f"node-{number % 8}")
            edge = table.of("a/v1", "/a.B/C")["node-0"]
            edge.started += 1
            edge.pending.append(0.5)
            if not number % 16:
                edge.fold()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = table.stats("me")
    assert sum(edge.started for edge in stats) == 16_000
    assert sum(edge.seconds.count for edge in stats) == 16_000
    assert len(stats) == 5


def test_the_json_of_many_edges_has_the_busiest_of_them() -> None:
    def edge(number: int) -> EdgeStats:
        seconds = LatencyStats(number, 1.0, (9,) * 42)
        return EdgeStats("client", "me", "a/v1", "a.B/C", f"n{number}", number, {}, seconds)

    found, left_out = busiest_edges(map(edge, range(5000)), 100_000)
    assert left_out > 0
    assert [one["started"] for one in found] == list(range(4999, left_out - 1, -1))
    assert 90_000 < len(json.dumps(found)) <= 100_000


def test_quantiles_and_the_short_form_of_buckets() -> None:
    table = EdgeTable("client")
    for _ in range(100):
        call(table, "one")
    (edge,) = table.stats("me")
    assert edge.seconds.quantile(0.5) == 0.0015
    assert edge.seconds.quantile(1.0) == 0.002
    assert LatencyStats(0, 0.0, (0,) * 42).quantile(0.5) is None
    assert edge_to_json(edge)["seconds"] == {
        "count": 100, "sum": 0.15, "buckets": [0] * LATENCY_BOUNDS.index(0.002) + [100],
    }  # fmt: skip
