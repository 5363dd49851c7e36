from __future__ import annotations

import pytest
from aegis_discovery._calls.endpoint import FAILURES, MAX_PAUSE, Standing


def out_at(standing: Standing, now: float) -> bool:
    """Tells whether it is out at this time, and neither a probe nor a call brought it back."""
    return standing.out and not standing.take_probe(now)


def test_one_that_a_call_did_not_reach_is_left_alone_at_once() -> None:
    standing = Standing()
    standing.unreached(10.0)
    assert standing.out
    assert not standing.ejected
    assert standing.pause == 0.25


def test_calls_that_fail_together_count_as_one_failure() -> None:
    standing = Standing()
    for _ in range(100):
        standing.unreached(1.0)
    assert standing.pause == 0.25


def test_only_one_looks_whether_it_is_back_and_not_before_its_pause_is_over() -> None:
    standing = Standing()
    standing.unreached(1.0)
    assert [standing.take_probe(now) for now in (1.1, 1.2)] == [False, False]
    assert [standing.take_probe(1.3) for _ in range(3)] == [True, False, False]
    standing.probed(False, 1.4)
    assert standing.pause == 0.5
    assert not standing.take_probe(1.8)
    assert standing.take_probe(1.9)


@pytest.mark.parametrize(
    ("ejected", "pauses"),
    [(False, [0.25, 0.5, 1, 2, 4, 8, 10, 10]), (True, [1, 2, 4, 8, 10, 10])],
)
def test_the_pause_doubles_to_a_limit(ejected: bool, pauses: list[float]) -> None:
    standing = Standing()
    now, seen = 0.0, []
    if ejected:
        standing.eject(now)
    else:
        standing.unreached(now)
    for _ in pauses:
        seen.append(standing.pause)
        now += standing.pause
        assert standing.take_probe(now)
        standing.probed(False, now)
    assert seen == pauses
    assert standing.pause == MAX_PAUSE


def test_a_probe_that_is_answered_takes_it_back_but_only_a_call_clears_its_past() -> None:
    standing = Standing()
    standing.eject(1.0)
    assert standing.take_probe(2.0)
    standing.probed(True, 2.1)
    assert not standing.out
    standing.eject(3.0)
    assert standing.pause == 2, "it was no better for being there"
    standing.take_probe(5.0)
    standing.probed(True, 5.1)
    standing.answered(5.1, 5.2)
    assert not standing.troubled
    standing.eject(6.0)
    assert standing.pause == 1


def test_an_answer_to_an_earlier_call_takes_it_back_whatever_the_probe_says_later() -> None:
    standing = Standing()
    standing.eject(1.0)
    assert standing.take_probe(2.0)
    standing.succeeded()
    standing.probed(False, 3.0)
    assert not standing.out


def test_it_fails_too_often_after_five_failures_in_a_row() -> None:
    standing = Standing()
    assert [standing.failed() for _ in range(FAILURES - 1)] == [False] * (FAILURES - 1)
    standing.succeeded()
    assert [standing.failed() for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    standing.reset_failures()
    assert not standing.failed()


def test_it_is_silent_when_calls_wait_and_none_was_answered_for_a_second() -> None:
    standing = Standing()
    assert not standing.silent(100.0), "nobody asked it anything"
    standing.asked(100.0, object())
    assert not standing.silent(100.9)
    assert standing.silent(101.0)
    standing.answered(100.0, 101.0)
    assert not standing.silent(101.9), "it answered another call meanwhile"
    assert standing.silent(102.0)
    standing.waiting.pop()
    assert not standing.silent(200.0)


def test_calls_that_just_began_are_no_sign_of_silence_however_long_it_was_idle() -> None:
    standing = Standing()
    standing.answered(1.0, 1.1)
    standing.asked(500.0, object())
    assert not standing.silent(500.5)


def test_calls_that_are_given_up_one_by_one_do_not_hide_that_none_is_answered() -> None:
    standing = Standing()
    standing.asked(1.0, object())
    for tenth in range(10):
        standing.asked(1.0 + tenth / 10, object())
        standing.waiting.pop()
    assert standing.silent(2.0)


def test_streams_may_be_silent() -> None:
    standing = Standing()
    standing.streaming.add(object())
    assert not standing.silent(100.0)
    assert standing.under_way == 1


def test_one_whose_answers_take_long_is_given_longer() -> None:
    standing = Standing()
    for began in range(0, 100, 10):
        standing.answered(began, began + 10.0)
    standing.asked(100.0, object())
    assert not standing.silent(130.0)
    assert standing.silent(140.5)


def test_one_that_was_frozen_is_taken_for_quick_again_after_some_quick_answers() -> None:
    standing = Standing()
    for _ in range(5):
        standing.answered(0.0, 10.0)
    for number in range(20):
        standing.answered(10.0 + number, 10.01 + number)
    standing.asked(50.0, object())
    assert standing.silent(51.0)


def test_callers_who_waited_in_vain_for_a_second_show_a_provider_that_is_silent() -> None:
    standing = Standing()
    due = [standing.given_up(tenth / 4, tenth / 4 + 0.25) for tenth in range(4)]
    assert due == [False, False, False, True]


def test_those_who_wait_in_vain_at_the_same_time_wait_once() -> None:
    standing = Standing()
    assert not any(standing.given_up(1.0 + number / 100, 1.5) for number in range(50))
    assert not standing.given_up(1.2, 1.75)
    assert standing.given_up(1.6, 2.0)


def test_an_answer_makes_up_for_waits_in_vain() -> None:
    standing = Standing()
    assert not standing.given_up(1.0, 1.9)
    standing.answered(1.9, 1.95)
    standing.succeeded()
    assert not standing.given_up(2.0, 2.9)
