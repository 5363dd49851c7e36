from __future__ import annotations

import datetime as dt
import random
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, KeyType, RenewalSchedule

MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


class FixedRandom(random.Random):
    """A random generator that always returns the same number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.fixture
def ca(directory: Path) -> CertificateAuthority:
    return CertificateAuthority.create(directory, key_type=KeyType.P256, at=NOW - DAY)


def schedule(ca: CertificateAuthority, days: float, value: float = 0.0) -> RenewalSchedule:
    tls = ca.issue_in_memory("node-1", days=days, at=NOW)
    return RenewalSchedule(tls.certificate, random=FixedRandom(value))


@pytest.mark.parametrize("days", [90, 1, 3 / 24 / 60])
def test_two_thirds_are_counted_from_the_time_of_issue(
    ca: CertificateAuthority, days: float
) -> None:
    due = schedule(ca, days).due_at
    assert abs(due - (NOW + dt.timedelta(days=days) * 2 / 3)) <= dt.timedelta(seconds=1)
    assert due > NOW


def test_jitter_is_subtracted_and_is_at_most_a_twentieth_of_the_life(
    ca: CertificateAuthority,
) -> None:
    latest, earliest = schedule(ca, 60).due_at, schedule(ca, 60, 1.0).due_at
    assert abs(latest - earliest - 3 * DAY) < MINUTE
    real = [
        RenewalSchedule(ca.issue_in_memory(f"n-{i}x", days=60, at=NOW).certificate).due_at
        for i in range(5)
    ]
    assert len(set(real)) == 5
    assert all(earliest - MINUTE <= due <= latest + MINUTE for due in real)


def test_the_wait_until_renewal_is_never_negative(ca: CertificateAuthority) -> None:
    plan = schedule(ca, 90)
    assert plan.seconds_until_due(plan.due_at - MINUTE) == 60
    assert plan.seconds_until_due(plan.due_at + 100 * DAY) == 0
    assert repr(plan).startswith("RenewalSchedule(due_at=20")


@pytest.mark.parametrize(
    ("days", "failures", "seconds"),
    [
        *((90, 1, 1), (90, 2, 2), (90, 5, 16), (90, 12, 2048), (90, 13, 3600), (90, 9999, 3600)),
        *((1 / 24, 8, 100), (0.0001, 8, 1)),
    ],
)
def test_retries_back_off_to_a_part_of_the_last_third_and_never_stop(
    ca: CertificateAuthority, days: float, failures: int, seconds: float
) -> None:
    wait = schedule(ca, days, 0.5).retry_after(failures)
    assert wait == pytest.approx(seconds)
