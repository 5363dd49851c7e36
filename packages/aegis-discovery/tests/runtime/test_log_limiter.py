from __future__ import annotations

import logging
import math

import pytest
from aegis_discovery._runtime.log_limiter import MAX_KINDS, MAX_SOURCES
from aegis_discovery.signals import LogLimiter

LOG = logging.getLogger("aegis.test")


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def limiter(clock: Time) -> LogLimiter:
    return LogLimiter(LOG, clock=clock)


def test_similar_lines_are_logged_once_a_minute_with_their_number(
    limiter: LogLimiter, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(121):
        clock.now = float(second)
        limiter.warn("liar", f"it is {second} s ahead", "%s: %d s ahead", "liar", second)
    more = "(59 similar lines were suppressed)"
    assert [record.message for record in caplog.records] == [
        "liar: 0 s ahead",
        f"liar: 60 s ahead {more}",
        f"liar: 120 s ahead {more}",
    ]


def test_the_number_of_suppressed_lines_is_optional_and_the_caller_may_give_the_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = LogLimiter(LOG, period=5, counts=False)
    for second in range(6):
        limiter.warn("liar", "lie", "at %d s", second, now=second)
    assert [record.message for record in caplog.records] == ["at 0 s", "at 5 s"]


def test_each_source_and_each_kind_of_reason_is_logged_separately(
    limiter: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        for source in ("a", "b"):
            for reason in ("it is too old", "it is too new"):
                limiter.warn(source, reason, "%s: %s", source, reason)
    assert len(caplog.records) == 4


def test_the_numbers_of_kinds_and_sources_are_bounded(
    limiter: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for word in range(1000):
        reason = "reason " + "x" * (word % 70) + "y" * (word // 70)
        limiter.warn("liar", reason, "%s", "liar")
    assert len(limiter) == len(caplog.records) == MAX_KINDS + 1
    for number in range(2 * MAX_SOURCES):
        limiter.warn(f"node-{number}", "reason", "%s", number)
        limiter.log_change(logging.INFO, (number,), "reason", "%s", number)
    assert len(limiter) <= MAX_SOURCES


def test_an_exception_is_logged_once_with_its_traceback(
    limiter: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        limiter.warn("a", "fault", "watching %s failed", "a", error=ZeroDivisionError("why"))
    assert caplog.text.count("watching a failed") == 1
    assert "ZeroDivisionError: why" in caplog.text


def test_a_source_that_was_forgotten_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    limiter = LogLimiter(LOG, period=math.inf)
    for forget in (lambda: limiter.forget("b"), lambda: limiter.forget("a"), limiter.clear):
        limiter.warn("a", "reason", "a line")
        forget()
    limiter.warn("a", "reason", "a line")
    assert len(caplog.records) == 3


def test_a_change_is_logged_when_the_reason_is_another_than_before(
    limiter: LogLimiter, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    logged = []
    for reason in ("down", "down", "refused 1", "refused 2", "down", "down"):
        clock.now += 1000
        logged.append(limiter.log_change(logging.ERROR, "peer", reason, "%s", reason))
    assert logged == [True, False, True, True, True, False]
    assert [record.message for record in caplog.records] == [
        "down",
        "refused 1",
        "refused 2",
        "down",
    ]
    assert {record.levelname for record in caplog.records} == {"ERROR"}
