from __future__ import annotations

import time

import pytest
from aegis_discovery._calls.attempt import (
    AttemptResult,
    deadline_of,
    is_not_connected,
    provider_code,
    time_left,
)
from aegis_discovery._calls.endpoint import RESPONSE_TIMEOUT, Endpoint
from aegis_discovery._calls.registry import EndpointRegistry
from aegis_discovery._calls.retry_budget import DEFAULT_POLICY, RetryPolicy
from aegis_discovery._calls.router import Router
from aegis_discovery._calls.waiting import Wait
from aegis_discovery._model import NodeInfo, ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import ClosedError, NoProvidersError
from aegis_discovery.transport import SHED_METADATA
from grpc import StatusCode

UNREACHED = AttemptResult(StatusCode.UNAVAILABLE, False, ())
SHED_END = AttemptResult(StatusCode.RESOURCE_EXHAUSTED, False, (SHED_METADATA,))


def router_of(*node_ids: str) -> Router[object]:
    topology = Topology()
    for node_id in node_ids:
        services = (ServiceInfo("greeter", "v1"),)
        topology.add_node(NodeInfo(node_id, address=f"{node_id}:1", services=services))
    service = EndpointRegistry[object](topology).service("greeter", "v1")
    return Router(service, lambda *args, code=None, **fields: NoProvidersError(*args, **fields))


def pick(router: Router[object]) -> Endpoint[object]:
    return router.pick(time.monotonic())


def retry(
    router: Router[object],
    end: AttemptResult = UNREACHED,
    *,
    policy: RetryPolicy | None = DEFAULT_POLICY,
    deadline: float | None = None,
) -> tuple[Endpoint[object], Endpoint[object] | None]:
    endpoint = pick(router)
    return endpoint, router.pick_retry((endpoint,), end, policy, deadline=deadline)


def test_an_unanswered_call_is_retried_at_another_endpoint() -> None:
    first, second = retry(router_of("a", "b"))
    assert second is not None
    assert second is not first
    assert first.excluded
    assert not second.excluded


def test_a_call_ends_if_it_may_not_be_retried() -> None:
    assert retry(router_of("a", "b"), policy=None)[1] is None, "retries are turned off"
    assert retry(router_of("a"))[1] is None, "there is no other endpoint"
    past, future = time.monotonic() - 1, time.monotonic() + 60
    assert retry(router_of("a", "b"), deadline=past)[1] is None, "the deadline has passed"
    assert retry(router_of("a", "b"), deadline=future)[1] is not None


def test_a_call_has_as_many_attempts_as_the_policy_allows() -> None:
    router = router_of("a", "b", "c", "d")
    tried: tuple[Endpoint[object], ...] = (pick(router),)
    while other := router.pick_retry(tried, UNREACHED, RetryPolicy(attempts=3)):
        tried = (*tried, other)
    assert len(tried) == len(set(tried)) == 3


def test_a_closed_channel_makes_no_retries() -> None:
    router = router_of("a", "b")
    endpoint = pick(router)
    router.closed = True
    assert router.pick_retry((endpoint,), UNREACHED, DEFAULT_POLICY) is None
    with pytest.raises(ClosedError, match="the channel is closed"):
        pick(router)


def test_an_answered_call_is_not_retried_and_does_not_exclude_its_endpoint() -> None:
    for code, answered in (
        (StatusCode.UNAVAILABLE, True),
        (StatusCode.RESOURCE_EXHAUSTED, False),
        (StatusCode.CANCELLED, False),
        (StatusCode.DEADLINE_EXCEEDED, False),
    ):
        endpoint, other = retry(router_of("a", "b"), AttemptResult(code, answered, ()))
        assert other is None
        assert not endpoint.excluded


def test_a_status_from_the_provider_itself_does_not_exclude_it() -> None:
    said = AttemptResult(StatusCode.UNAVAILABLE, False, (("why", "its database is away"),))
    endpoint, other = retry(router_of("a", "b"), said)
    assert other is not None, "the call was not answered"
    assert not endpoint.excluded


@pytest.mark.parametrize(
    "end",
    [
        AttemptResult(StatusCode.DEADLINE_EXCEEDED, False, ()),
        AttemptResult(StatusCode.UNAVAILABLE, True, ()),
        AttemptResult(StatusCode.UNAVAILABLE, False, (("why", "as you wish"),)),
    ],
)
def test_five_failures_in_a_row_eject_a_provider(end: AttemptResult) -> None:
    router = router_of("a", "b")
    endpoint = pick(router)
    outs = []
    for _ in range(5):
        router.record(endpoint, end, 100.0)
        outs.append(endpoint.ejected)
    assert outs == [False] * 4 + [True]


def test_an_answer_resets_the_count_of_failures() -> None:
    router = router_of("a", "b")
    endpoint = pick(router)
    for code in [StatusCode.DEADLINE_EXCEEDED] * 4 + [StatusCode.NOT_FOUND]:
        router.record(endpoint, AttemptResult(code, False, ()), 100.0)
    router.record(endpoint, AttemptResult(StatusCode.DEADLINE_EXCEEDED, False, ()), 100.0)
    assert not endpoint.excluded


def test_a_shed_call_is_retried_and_does_not_count_as_a_failure() -> None:
    router = router_of("a", "b")
    for _ in range(8):
        endpoint, other = retry(router, SHED_END)
        assert other is not None
        assert other is not endpoint
        assert not endpoint.has_failed
    assert "sheds=8" in repr(router.service.stats())
    assert retry(router, SHED_END, policy=None)[1] is None


def test_the_mark_of_a_shed_call_counts_only_with_resource_exhausted() -> None:
    assert SHED_END.is_shed
    assert not AttemptResult(StatusCode.RESOURCE_EXHAUSTED, False, ()).is_shed
    assert not AttemptResult(
        StatusCode.RESOURCE_EXHAUSTED, False, ((SHED_METADATA[0], "0"),)
    ).is_shed
    assert not AttemptResult(StatusCode.INTERNAL, False, (SHED_METADATA,)).is_shed


def test_a_call_that_a_stopping_server_reset_counts_as_unreached() -> None:
    assert provider_code(StatusCode.CANCELLED, "CANCELLED") is StatusCode.UNAVAILABLE
    for details in ("Locally cancelled by application!", "Channel closed!", "", None):
        assert provider_code(StatusCode.CANCELLED, details) is StatusCode.CANCELLED
    assert provider_code(StatusCode.ABORTED, "CANCELLED") is StatusCode.ABORTED


def test_a_policy_names_the_statuses_that_are_retried() -> None:
    policy = RetryPolicy(2, frozenset({StatusCode.ABORTED}))
    assert retry(router_of("a", "b"), policy=policy)[1] is None
    assert retry(router_of("a", "b"), AttemptResult(StatusCode.ABORTED, False, ()), policy=policy)[
        1
    ]
    assert retry(router_of("a", "b"), SHED_END, policy=policy)[1], "the call did not run"


@pytest.mark.parametrize(
    ("code", "ends_it"),
    [
        (StatusCode.NOT_FOUND, True),
        (StatusCode.CANCELLED, False),
        (StatusCode.DEADLINE_EXCEEDED, False),
    ],
)
def test_only_a_status_from_the_provider_itself_ends_the_exclusion(
    code: StatusCode, ends_it: bool
) -> None:
    router = router_of("a")
    endpoint, _ = retry(router)
    assert endpoint.excluded
    router.record(endpoint, AttemptResult(code, False, ()), time.monotonic())
    assert (not endpoint.excluded) is ends_it


def test_a_call_that_waits_gets_an_endpoint_once_one_is_in_use_or_an_error() -> None:
    router = router_of("a")
    now = time.monotonic()
    wait = Wait(router, now, now + 60)
    endpoint = wait.try_pick(now)
    assert endpoint is not None
    endpoint.connection_failed(now)
    wait = Wait(router, now, now + 60)
    assert wait.try_pick(now) is None
    assert wait.time_left(now) == pytest.approx(0.25)
    endpoint.call_succeeded()
    assert wait.try_pick(now) is endpoint
    endpoint.connection_failed(now)
    with pytest.raises(NoProvidersError, match="until its deadline and could not reach a;"):
        Wait(router, now, now).try_pick(now)
    router.close()
    with pytest.raises(NoProvidersError, match="until its channel was closed"):
        wait.try_pick(now)


def test_the_endpoint_of_a_call_that_goes_out_once_answers_a_probe_first() -> None:
    router = router_of("a", "b")
    probes: list[Endpoint[object]] = []
    router.service._pool.probe = probes.append
    now = time.monotonic()
    wait = Wait(router, now, None, once=True)
    for _ in range(3):
        assert wait.try_pick(now) is None
    (first,) = probes
    assert wait.time_left(now) == RESPONSE_TIMEOUT, "then another one is tried"
    later = now + RESPONSE_TIMEOUT
    assert wait.try_pick(later) is None
    _, second = probes
    assert second is not first
    second.probe_ended(False, later)
    second.connection_failed(later)
    first.probe_ended(True, later)
    assert wait.try_pick(later) is None, "that was before"
    assert probes[2:] == [first]
    first.probe_ended(True, later + 0.1)
    assert wait.try_pick(later + 0.2) is first


@pytest.mark.parametrize("unsent", [True, False])
def test_all_retries_are_charged(unsent: bool) -> None:
    router = router_of("a", "b")
    endpoint = pick(router)
    end = UNREACHED._replace(no_connection="failed to connect to all addresses" * unsent)
    for _ in range(100):
        router.pick_retry((endpoint,), end, DEFAULT_POLICY)
    stats = router.service.stats()
    assert (stats.retries, stats.retries_refused) == (10, 90)


def test_only_details_from_grpc_itself_are_interpreted() -> None:
    no_one = "failed to connect to all addresses; last error: UNKNOWN: connection refused"
    assert is_not_connected(StatusCode.UNAVAILABLE, no_one)
    assert not is_not_connected(StatusCode.UNAVAILABLE, "my database is away")
    assert not is_not_connected(StatusCode.UNAVAILABLE, None)
    assert not is_not_connected(StatusCode.INTERNAL, no_one)
    own_fault = "Exception serializing request!"
    assert provider_code(StatusCode.INTERNAL, own_fault) is StatusCode.CANCELLED
    assert provider_code(StatusCode.INTERNAL, "a bug") is StatusCode.INTERNAL


def test_the_error_without_providers_names_the_service_and_the_known_nodes() -> None:
    with pytest.raises(NoProvidersError, match=r"no live node provides greeter/v1 \(0 nodes"):
        pick(router_of())


def test_a_deadline_is_never_extended() -> None:
    assert deadline_of(None) is None
    assert time_left(None) is None
    deadline = deadline_of(60)
    left = time_left(deadline)
    assert left is not None
    assert 0 < left <= 60
    assert time_left(time.monotonic() - 1) == 0


@pytest.mark.parametrize(
    ("address", "details", "unsent"),
    [
        ("10.0.0.1:5", "last error: UNKNOWN: ipv4:10.0.0.1:5: Connection refused", True),
        ("10.0.0.1:5", "last error: UNKNOWN: ipv4:10.0.0.2:5: Connection refused", False),
        ("10.0.0.1:5", "last error: UNKNOWN: ipv4:10.0.0.1:50: Connection refused", False),
        ("[::1]:5", "last error: UNKNOWN: ipv6:%5B::1%5D:5: Connection refused", True),
        ("[::1]:5", "last error: UNKNOWN: ipv6:%5B::2%5D:5: Connection refused", False),
        ("a.test:5", "last error: UNKNOWN: ipv4:10.0.0.1:5: Connection refused", True),
        ("a.test:5", "last error: UNKNOWN: ipv4:10.0.0.1:6: Connection refused", False),
        ("a.test:5", "errors resolving a.test:5: not found", True),
        ("a.test:5", "errors resolving b.test:5: not found", False),
        ("10.0.0.1:5", "", False),
    ],
)
def test_what_a_provider_failed_to_connect_to_is_not_taken_for_the_provider(
    address: str, details: str, unsent: bool
) -> None:
    result = UNREACHED._replace(no_connection=details)
    assert result.was_not_sent_to(address) is unsent
