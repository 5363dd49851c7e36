from __future__ import annotations

from collections import Counter

import pytest
from aegis_discovery import LeastRequests
from aegis_discovery._calls.endpoint import Endpoint


def endpoints_with(*under_way: int) -> list[Endpoint[object]]:
    endpoints = [Endpoint[object](f"n{number}", "a:1") for number in range(len(under_way))]
    for endpoint, calls in zip(endpoints, under_way, strict=True):
        endpoint.waiting.update(object() for _ in range(calls))
    return endpoints


def test_the_endpoint_with_fewer_calls_is_picked() -> None:
    endpoints = endpoints_with(3, 2)
    assert {LeastRequests().pick(endpoints).node_id for _ in range(50)} == {"n1"}


def test_the_busiest_endpoint_is_never_picked_and_the_others_by_their_load() -> None:
    endpoints = endpoints_with(9, 2, 1)
    counts = Counter(LeastRequests().pick(endpoints).node_id for _ in range(3000))
    assert set(counts) == {"n1", "n2"}
    assert counts["n2"] == pytest.approx(2000, rel=0.15)


def test_equally_busy_endpoints_are_picked_equally_often() -> None:
    endpoints = endpoints_with(1, 1, 1, 1)
    counts = Counter(LeastRequests().pick(endpoints).node_id for _ in range(8000))
    assert all(count == pytest.approx(2000, rel=0.15) for count in counts.values())


def test_a_single_endpoint_is_picked() -> None:
    endpoints = endpoints_with(5)
    assert LeastRequests().pick(endpoints) is endpoints[0]


def test_streams_count_as_calls_under_way() -> None:
    endpoints = endpoints_with(0, 1)
    endpoints[0].streaming.update([object(), object()])
    assert LeastRequests().pick(endpoints) is endpoints[1]
