from __future__ import annotations

import time

import pytest
from aegis_discovery._endpoints import Endpoint, Endpoints
from aegis_discovery._model import NodeInfo, ServiceInfo
from aegis_discovery._routing import Router, deadline_of, time_left
from aegis_discovery._topology import Topology
from aegis_discovery.errors import ClosedError, NoProvidersError
from grpc import StatusCode


def router_of(*node_ids: str, retry: bool = True) -> Router[object]:
    topology = Topology()
    for node_id in node_ids:
        services = (ServiceInfo("greeter", "v1"),)
        topology.add_node(NodeInfo(node_id, address=f"{node_id}:1", services=services))
    service = Endpoints[object](topology).service("greeter", "v1")
    return Router(service, NoProvidersError, retry=retry)


def after(
    router: Router[object],
    code: StatusCode = StatusCode.UNAVAILABLE,
    *,
    answered: bool = False,
    deadline: float | None = None,
    again: bool = True,
) -> tuple[Endpoint[object], Endpoint[object] | None]:
    endpoint = router.pick()
    return endpoint, router.after(endpoint, code, answered=answered, deadline=deadline, again=again)


def test_a_call_that_nobody_answered_goes_on_at_another_endpoint() -> None:
    first, second = after(router_of("a", "b"))
    assert second is not None
    assert second is not first
    assert first.backoff
    assert not second.backoff


def test_it_ends_where_it_may_not_go_on() -> None:
    assert after(router_of("a", "b"), again=False)[1] is None, "it was tried again already"
    assert after(router_of("a", "b", retry=False))[1] is None, "the user wants no retries"
    assert after(router_of("a"))[1] is None, "there is nobody else"
    past, future = time.monotonic() - 1, time.monotonic() + 60
    assert after(router_of("a", "b"), deadline=past)[1] is None, "its time is up"
    assert after(router_of("a", "b"), deadline=future)[1] is not None


def test_a_closed_channel_sends_nothing_elsewhere() -> None:
    router = router_of("a", "b")
    endpoint = router.pick()
    router.closed = True
    assert router.after(endpoint, StatusCode.UNAVAILABLE, answered=False, again=True) is None
    with pytest.raises(ClosedError, match="the channel is closed"):
        router.pick()


def test_an_answer_of_any_kind_is_no_reason_to_go_elsewhere_or_to_stay_away() -> None:
    for code, answered in (
        (StatusCode.UNAVAILABLE, True),
        (StatusCode.RESOURCE_EXHAUSTED, False),
        (StatusCode.CANCELLED, False),
        (StatusCode.DEADLINE_EXCEEDED, False),
    ):
        endpoint, other = after(router_of("a", "b"), code, answered=answered)
        assert other is None
        assert not endpoint.backoff


@pytest.mark.parametrize(
    ("code", "ends_backoff"),
    [
        (StatusCode.OK, True),
        (StatusCode.NOT_FOUND, True),
        (StatusCode.CANCELLED, False),
        (StatusCode.DEADLINE_EXCEEDED, False),
    ],
)
def test_only_what_the_provider_said_itself_ends_its_backoff(
    code: StatusCode, ends_backoff: bool
) -> None:
    router = router_of("a")
    endpoint, _ = after(router)
    assert endpoint.backoff
    router.after(endpoint, code, answered=False)
    assert (not endpoint.backoff) is ends_backoff


def test_a_first_attempt_waits_for_readiness_only_where_there_is_no_choice() -> None:
    for router, waits in (
        (router_of("a"), True),
        (router_of("a", "b"), False),
        (router_of("a", "b", retry=False), True),
    ):
        router.pick()
        assert router.first_wait(True) is waits
        assert router.first_wait(None) is None
        assert router.first_wait(False) is False


def test_nobody_to_go_to_is_told_with_what_is_known() -> None:
    with pytest.raises(NoProvidersError, match=r"no live node provides greeter/v1 \(0 nodes"):
        router_of().pick()


def test_deadlines_only_ever_shrink() -> None:
    assert deadline_of(None) is None
    assert time_left(None) is None
    deadline = deadline_of(60)
    left = time_left(deadline)
    assert left is not None
    assert 0 < left <= 60
    assert time_left(time.monotonic() - 1) == 0
