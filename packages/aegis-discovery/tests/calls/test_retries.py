from __future__ import annotations

import json
from typing import Any

import pytest
from aegis_discovery._calls.retry_budget import DEFAULT_POLICY, RetryBudget, RetryPolicy
from aegis_discovery._calls.service_config import MethodConfig, ServiceConfig
from aegis_discovery.errors import DiscoveryError, ServiceConfigError
from grpc import StatusCode


def taken(budget: RetryBudget, calls: int, now: float, asked: int) -> int:
    return sum(budget.take(calls, now) for _ in range(asked))


def test_the_budget_is_a_fifth_of_the_calls_plus_ten() -> None:
    budget = RetryBudget(0.0)
    assert taken(budget, 0, 1.0, 1000) == 10
    assert taken(budget, 500, 2.0, 1000) == 100
    assert taken(budget, 500, 3.0, 1000) == 0


def test_the_reserve_is_not_granted_twice_between_two_windows() -> None:
    budget = RetryBudget(0.0)
    assert taken(budget, 0, 9.99, 50) == 10
    assert taken(budget, 0, 10.0, 50) == 0
    assert taken(budget, 0, 15.0, 50) == 5
    assert taken(budget, 0, 40.0, 50) == 10


def test_a_long_outage_adds_at_most_a_fifth_to_the_load() -> None:
    budget = RetryBudget(0.0)
    calls = retries = 0
    for tick in range(6000):  # ten minutes, ten failing calls in each tenth of a second
        for _ in range(10):
            calls += 1
            retries += budget.take(calls, tick / 10)
    assert retries <= calls * 0.2 + 10 * 60


def test_a_busy_service_can_retry_a_burst_of_calls_when_a_provider_is_killed() -> None:
    budget = RetryBudget(0.0)
    assert taken(budget, 100_000, 100.0, 500) == 500


def test_calls_of_long_ago_do_not_raise_the_budget() -> None:
    budget = RetryBudget(0.0)
    assert taken(budget, 100, 1.0, 1) == 1
    # 10 000 calls in the next 1000 s are 100 in ten seconds.
    assert taken(budget, 10_100, 1001.0, 1000) == 30


def test_the_previous_window_loses_weight_with_time() -> None:
    budget = RetryBudget(0.0)
    assert taken(budget, 1000, 10.0, 0) == 0
    assert budget.take(1000, 10.0)
    assert taken(budget, 1000, 15.0, 1000) == 10 + 100 - 1
    assert taken(budget, 1000, 30.0, 1000) == 10, "only the reserve is left"


def config(*entries: dict[str, Any]) -> ServiceConfig:
    return ServiceConfig({"methodConfig": list(entries)})


POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "aborted", 8],
}


def test_without_a_config_every_method_has_the_defaults() -> None:
    for empty in (None, {}, "{}", {"methodConfig": []}, {"methodConfig": None}):
        assert ServiceConfig(empty).for_method("/any.Service/Method") == MethodConfig()
    assert MethodConfig().retry is DEFAULT_POLICY


def test_a_service_config_may_be_text_or_an_object() -> None:
    entry = {
        "name": [{"service": "shop.Orders", "method": "Place"}],
        "timeout": "1.5s",
        "waitForReady": True,
        "retryPolicy": POLICY,
    }
    codes = {StatusCode.UNAVAILABLE, StatusCode.ABORTED, StatusCode.RESOURCE_EXHAUSTED}
    expected = MethodConfig(RetryPolicy(4, frozenset(codes)), 1.5, True)
    for given in ({"methodConfig": [entry]}, json.dumps({"methodConfig": [entry]})):
        assert ServiceConfig(given).for_method("/shop.Orders/Place") == expected
        assert ServiceConfig(given).for_method("/shop.Orders/Cancel") == MethodConfig()


def test_only_the_most_specific_entry_applies() -> None:
    found = config(
        {"name": [{}], "timeout": "9s"},
        {"name": [{"service": "a.A"}, {"service": "b.B"}], "timeout": "3s", "waitForReady": True},
        {"name": [{"service": "a.A", "method": "M"}], "timeout": "1s"},
    )
    assert found.for_method("/a.A/M") == MethodConfig(timeout=1)
    for method in ("/a.A/N", "/b.B/M"):
        assert found.for_method(method) == MethodConfig(timeout=3, wait_for_ready=True)
    assert found.for_method("/c.C/M") == MethodConfig(timeout=9)


def test_one_attempt_turns_retries_off() -> None:
    found = config({"name": [{"service": "pay.Payments"}], "retryPolicy": {"maxAttempts": 1}})
    assert found.for_method("/pay.Payments/Charge").retry is None
    assert found.for_method("/other.Service/Method").retry is DEFAULT_POLICY


def test_more_than_five_attempts_count_as_five() -> None:
    found = config({"name": [{}], "retryPolicy": {**POLICY, "maxAttempts": 50}})
    assert found.for_method("/a.A/M").retry.attempts == 5  # type: ignore[union-attr]  # it has one


@pytest.mark.parametrize(
    ("given", "path", "reason"),
    [
        ("{", "", "not JSON"),
        ([], "", "must be an object"),
        ("[1]", "", "must be an object"),
        ({"methodConfig": {}}, "methodConfig", "must be a list"),
        ({"methodConfig": {"name": []}}, "methodConfig", "must be a list"),
        ({"methodConfigs": []}, "methodConfigs", "is not known here"),
        ({"loadBalancingConfig": [{"round_robin": {}}]}, "loadBalancingConfig", "balancers"),
        ({"retryThrottling": {}}, "retryThrottling", "budget"),
        ({"methodConfig": [1]}, "methodConfig[0]", "must be an object"),
        ({"methodConfig": [{"hedgingPolicy": {}}]}, "methodConfig[0].hedgingPolicy", "at once"),
        ({"methodConfig": [{"name": [{"method": "M"}]}]}, "methodConfig[0].name[0]", "its service"),
        ({"methodConfig": [{"name": [{"service": 1}]}]}, "methodConfig[0].name[0]", "text"),
        ({"methodConfig": [{"name": [{}, {}]}]}, "methodConfig[0].name[1]", "before"),
        ({"methodConfig": [{"timeout": 1}]}, "methodConfig[0].timeout", "duration"),
        ({"methodConfig": [{"timeout": "0s"}]}, "methodConfig[0].timeout", "duration"),
        ({"methodConfig": [{"timeout": "1m"}]}, "methodConfig[0].timeout", "duration"),
        ({"methodConfig": [{"waitForReady": 1}]}, "methodConfig[0].waitForReady", "true or false"),
    ],
)
def test_an_unsupported_config_is_refused_with_its_path(given: Any, path: str, reason: str) -> None:
    with pytest.raises(ServiceConfigError, match=reason) as caught:
        ServiceConfig(given)
    assert caught.value.path == path
    assert isinstance(caught.value, DiscoveryError)


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"maxAttempts": 0}, "maxAttempts", "all attempts"),
        ({"maxAttempts": True}, "maxAttempts", "all attempts"),
        ({"maxAttempts": None}, "maxAttempts", "all attempts"),
        ({"initialBackoff": 1}, "initialBackoff", "duration"),
        ({"maxBackoff": "soon"}, "maxBackoff", "duration"),
        ({"backoffMultiplier": -1}, "backoffMultiplier", "positive"),
        ({"retryableStatusCodes": []}, "retryableStatusCodes", "must name a status"),
        (
            {"retryableStatusCodes": ["NO_SUCH"]},
            "retryableStatusCodes",
            "'NO_SUCH' is not a",
        ),
        ({"retryableStatusCodes": ["OK"]}, "retryableStatusCodes", "ended OK cannot"),
        ({"retryableStatusCodes": [1]}, "retryableStatusCodes", "ended CANCELLED cannot"),
        ({"retryableStatusCodes": [[]]}, "retryableStatusCodes", "is not a status"),
        ({"perAttemptRecvTimeout": "1s"}, "perAttemptRecvTimeout", "not known"),
    ],
)
def test_an_invalid_retry_policy_is_refused(changes: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(ServiceConfigError, match=reason) as caught:
        config({"name": [{}], "retryPolicy": {**POLICY, **changes}})
    assert caught.value.path == f"methodConfig[0].retryPolicy.{key}"
