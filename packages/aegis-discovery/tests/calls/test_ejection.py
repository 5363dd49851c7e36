from __future__ import annotations

import pytest
from aegis_discovery._calls.endpoint import MAX_BACKOFF, MAX_FAILURES, OutlierState


def test_an_endpoint_that_a_call_did_not_reach_is_excluded_at_once() -> None:
    state = OutlierState()
    state.connection_failed(10.0)
    assert state.excluded
    assert not state.ejected
    assert state.backoff == 0.25


def test_calls_that_fail_together_count_as_one_failure() -> None:
    state = OutlierState()
    for _ in range(100):
        state.connection_failed(1.0)
    assert state.backoff == 0.25


def test_one_probe_runs_at_a_time_and_only_after_the_backoff() -> None:
    state = OutlierState()
    state.connection_failed(1.0)
    assert [state.claim_probe(now) for now in (1.1, 1.2)] == [False, False]
    assert [state.claim_probe(1.3) for _ in range(3)] == [True, False, False]
    state.probe_ended(False, 1.4)
    assert state.backoff == 0.5
    assert not state.claim_probe(1.8)
    assert state.claim_probe(1.9)


@pytest.mark.parametrize(
    ("ejected", "pauses"),
    [(False, [0.25, 0.5, 1, 2, 4, 8, 10, 10]), (True, [1, 2, 4, 8, 10, 10])],
)
def test_the_backoff_doubles_up_to_a_limit(ejected: bool, pauses: list[float]) -> None:
    state = OutlierState()
    now, seen = 0.0, []
    if ejected:
        state.eject(now)
    else:
        state.connection_failed(now)
    for _ in pauses:
        seen.append(state.backoff)
        now += state.backoff
        assert state.claim_probe(now)
        state.probe_ended(False, now)
    assert seen == pauses
    assert state.backoff == MAX_BACKOFF


def test_an_answered_probe_ends_the_exclusion_and_an_answered_call_resets_the_backoff() -> None:
    state = OutlierState()
    state.eject(1.0)
    assert state.claim_probe(2.0)
    state.probe_ended(True, 2.1)
    assert not state.excluded
    state.eject(3.0)
    assert state.backoff == 2, "an answered probe does not reset it"
    state.claim_probe(5.0)
    state.probe_ended(True, 5.1)
    state.call_answered(5.1, 5.2)
    assert not state.has_failed
    state.eject(6.0)
    assert state.backoff == 1


def test_the_answer_to_an_earlier_call_ends_the_exclusion_even_if_the_probe_fails_later() -> None:
    state = OutlierState()
    state.eject(1.0)
    assert state.claim_probe(2.0)
    state.call_succeeded()
    state.probe_ended(False, 3.0)
    assert not state.excluded


def test_five_failures_in_a_row_are_enough_for_an_ejection() -> None:
    state = OutlierState()
    allowed = [False] * (MAX_FAILURES - 1)
    assert [state.call_failed() for _ in allowed] == allowed
    state.call_succeeded()
    assert [state.call_failed() for _ in range(MAX_FAILURES)] == [*allowed, True]
    state.reset_failures()
    assert not state.call_failed()


def test_it_is_unresponsive_when_calls_wait_for_a_second_without_any_response() -> None:
    state = OutlierState()
    assert not state.is_unresponsive(100.0), "no call waits"
    state.call_started(100.0, object())
    assert not state.is_unresponsive(100.9)
    assert state.is_unresponsive(101.0)
    state.call_answered(100.0, 101.0)
    assert not state.is_unresponsive(101.9), "it answered another call"
    assert state.is_unresponsive(102.0)
    state.waiting.pop()
    assert not state.is_unresponsive(200.0)


def test_an_idle_endpoint_is_not_unresponsive_when_calls_begin() -> None:
    state = OutlierState()
    state.call_answered(1.0, 1.1)
    state.call_started(500.0, object())
    assert not state.is_unresponsive(500.5)


def test_abandoned_calls_do_not_extend_the_response_timeout() -> None:
    state = OutlierState()
    state.call_started(1.0, object())
    for tenth in range(10):
        state.call_started(1.0 + tenth / 10, object())
        state.waiting.pop()
    assert state.is_unresponsive(2.0)


def test_streams_do_not_make_an_endpoint_unresponsive() -> None:
    state = OutlierState()
    state.streaming.add(object())
    assert not state.is_unresponsive(100.0)
    assert state.under_way == 1


def test_a_slow_endpoint_has_a_longer_response_timeout() -> None:
    state = OutlierState()
    for began in range(0, 100, 10):
        state.call_answered(began, began + 10.0)
    state.call_started(100.0, object())
    assert not state.is_unresponsive(130.0)
    assert state.is_unresponsive(140.5)


def test_fast_responses_shorten_the_response_timeout_again() -> None:
    state = OutlierState()
    for _ in range(5):
        state.call_answered(0.0, 10.0)
    for number in range(20):
        state.call_answered(10.0 + number, 10.01 + number)
    state.call_started(50.0, object())
    assert state.is_unresponsive(51.0)


def test_a_second_of_abandoned_waiting_is_enough_for_an_ejection() -> None:
    state = OutlierState()
    due = [state.call_abandoned(tenth / 4, tenth / 4 + 0.25) for tenth in range(4)]
    assert due == [False, False, False, True]


def test_abandoned_waiting_at_the_same_time_counts_once() -> None:
    state = OutlierState()
    assert not any(state.call_abandoned(1.0 + number / 100, 1.5) for number in range(50))
    assert not state.call_abandoned(1.2, 1.75)
    assert state.call_abandoned(1.6, 2.0)


def test_an_answer_resets_the_abandoned_waiting() -> None:
    state = OutlierState()
    assert not state.call_abandoned(1.0, 1.9)
    state.call_answered(1.9, 1.95)
    state.call_succeeded()
    assert not state.call_abandoned(2.0, 2.9)
