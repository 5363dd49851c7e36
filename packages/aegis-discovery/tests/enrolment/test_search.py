"""Which issuer is asked next, with virtual time."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from aegis_certs import IssuerAddress
from aegis_discovery.enrolment._search import LONGEST_TIMEOUT, Attempt, IssuerSearch

ISSUERS = [IssuerAddress(f"ca-{number}", f"10.0.0.{number}:1") for number in (1, 2, 3)]


def _search(*, seed: int = 0, **options: float | None) -> IssuerSearch:
    chosen = {"timeout": 60.0, **options}
    return IssuerSearch(ISSUERS, 0.0, rng=random.Random(seed), **chosen)  # type: ignore[arg-type]


def _attempts(search: IssuerSearch, now: float = 0.0) -> list[tuple[float, Attempt]]:
    """Lets every attempt fail after its timeout; returns each with the time at which it began."""
    found = []
    while (step := search.next(now)) is not None:
        if isinstance(step, Attempt):
            found.append((now, step))
            search.failed(step.issuer, "it did not answer")
            now += step.timeout
        else:
            assert step > 0
            now += step
    return found


def test_each_issuer_is_asked_once_before_one_is_asked_again() -> None:
    order = [attempt.issuer for _, attempt in _attempts(_search())]
    assert set(order[:3]) == set(order[3:6]) == set(ISSUERS)


def test_a_silent_issuer_delays_the_others_by_seconds_only() -> None:
    began = [now for now, _ in _attempts(_search())]
    assert began[:3] == [0.0, 5.0, 10.0]


def test_the_first_one_is_chosen_at_random_so_that_the_load_is_spread() -> None:
    first = Counter(
        step.issuer
        for seed in range(300)
        if isinstance(step := _search(seed=seed).next(0.0), Attempt)
    )
    assert min(first.values()) > 60


def test_it_ends_in_time_and_no_attempt_reaches_beyond() -> None:
    attempts = _attempts(_search(timeout=20.0))
    assert all(now + attempt.timeout <= 20.0 for now, attempt in attempts)


def test_a_single_issuer_has_long_to_answer() -> None:
    search = IssuerSearch(ISSUERS[:1], 0.0, timeout=100.0)
    step = search.next(0.0)
    assert isinstance(step, Attempt)
    assert step.timeout == LONGEST_TIMEOUT


def test_one_that_refuses_is_not_asked_again_and_all_who_refuse_end_it() -> None:
    search = _search()
    first = search.next(0.0)
    assert isinstance(first, Attempt)
    search.refused(first.issuer, "no")
    assert not search.is_refused
    others = {attempt.issuer for _, attempt in _attempts(search, 1.0)}
    assert others == set(ISSUERS) - {first.issuer}
    again = _search()
    while isinstance(step := again.next(0.0), Attempt):
        again.refused(step.issuer, "no")
    assert step is None
    assert again.is_refused
    assert len(again.causes) == 3


def test_rounds_limit_how_often_each_is_asked() -> None:
    assert len(_attempts(_search(rounds=1))) == 3
    assert len(_attempts(_search(rounds=2))) == 6


@pytest.mark.parametrize("issuers", [[], ISSUERS[:1] * 5])
def test_none_and_equal_ones(issuers: list[IssuerAddress]) -> None:
    search = IssuerSearch(issuers, 0.0, timeout=60.0, rounds=1)
    assert len(_attempts(search)) == len(set(issuers))
    assert not search.is_refused


def test_an_issuer_is_not_asked_again_when_no_time_is_left_for_its_answer() -> None:
    search = IssuerSearch(ISSUERS[:1], 0.0, timeout=10.0)
    assert isinstance(search.next(0.0), Attempt)
    search.failed(ISSUERS[0], "it refused the connection")
    assert search.next(9.95) is None
    assert list(search.causes.values()) == ["it refused the connection"]
    assert isinstance(IssuerSearch(ISSUERS[:1], 0.0, timeout=0.05).next(0.0), Attempt)
