from __future__ import annotations

import logging

import pytest
from aegis_discovery._runtime.log_limiter import MAX_KINDS, MAX_SOURCES
from aegis_discovery.feed import LogLimiter


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def complaints(clock: Time) -> LogLimiter:
    return LogLimiter(logging.getLogger("aegis.test"), clock=clock)


def test_the_same_is_said_once_a_minute_with_how_often_it_was(
    complaints: LogLimiter, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(121):
        clock.now = float(second)
        complaints.warn("liar", f"it is {second} s ahead", "%s: %d s ahead", "liar", second)
    more = "(and 59 more like it since the last such line)"
    assert [record.message for record in caplog.records] == [
        "liar: 0 s ahead",
        f"liar: 60 s ahead {more}",
        f"liar: 120 s ahead {more}",
    ]


def test_other_sources_and_other_reasons_are_said_on_their_own(
    complaints: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        for source in ("a", "b"):
            for reason in ("it is too old", "it is too new"):
                complaints.warn(source, reason, "%s: %s", source, reason)
    assert len(caplog.records) == 4


def test_reasons_and_sources_without_end_are_neither_said_nor_kept(
    complaints: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for word in range(1000):
        reason = "reason " + "x" * (word % 70) + "y" * (word // 70)
        complaints.warn("liar", reason, "%s", "liar")
    assert len(complaints) == len(caplog.records) == MAX_KINDS + 1
    for number in range(2 * MAX_SOURCES):
        complaints.warn(f"node-{number}", "reason", "%s", number)
    assert len(complaints) <= MAX_SOURCES


def test_a_fault_of_ours_is_said_once_with_its_traceback(
    complaints: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        complaints.warn("a", "fault", "watching %s failed", "a", error=ZeroDivisionError("why"))
    assert caplog.text.count("watching a failed") == 1
    assert "ZeroDivisionError: why" in caplog.text
