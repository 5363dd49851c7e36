from __future__ import annotations

from aegis_core._rate_limit import FEEDS, PRUNE_ABOVE, READS, RateLimiter, TokenBucket


def test_a_caller_holds_so_many_feeds_and_another_one_its_own() -> None:
    gate = RateLimiter(FEEDS)
    refusals = [gate.enter("a", 100.0 * n) for n in range(FEEDS.open + 1)]
    assert refusals[:-1] == [""] * FEEDS.open
    assert refusals[-1] == f"a has {FEEDS.open} feeds open here, the limit is {FEEDS.open}"
    assert gate.enter("b", 0) == ""
    gate.leave("a")
    assert gate.enter("a", 1e6) == ""


def test_who_opens_and_closes_without_end_is_held_to_a_rate() -> None:
    gate = RateLimiter(FEEDS)
    opened = 0
    for step in range(10_000):
        if not gate.enter("a", step / 1000):
            opened += 1
            gate.leave("a")
    assert FEEDS.burst + 10 * FEEDS.per_second - 1 <= opened <= FEEDS.burst + 10 * FEEDS.per_second
    assert "opens more than 20 feeds a second" in gate.enter("a", 9.9991)


def test_500_nodes_that_restart_at_once_are_all_let_in() -> None:
    gate = RateLimiter(FEEDS)
    tries = [gate.enter(f"node-{n}", 0.001 * n) for n in range(500) for _ in range(3)]
    assert set(tries) == {""}


def test_callers_of_whom_there_is_nothing_to_know_are_forgotten() -> None:
    gate = RateLimiter(FEEDS)
    assert gate.enter("held", 0) == ""
    for number in range(10 * PRUNE_ABOVE):
        assert gate.enter(f"client-{number}", float(number)) == ""
        gate.leave(f"client-{number}")
    assert len(gate) <= PRUNE_ABOVE
    assert [gate.enter("held", 1e6) for _ in range(FEEDS.open)].count("") == FEEDS.open - 1


def test_what_is_counted_is_named_when_it_is_too_many() -> None:
    gate = RateLimiter(READS)
    for _ in range(int(READS.burst)):
        assert gate.enter("a", 0) == ""
        gate.leave("a")
    assert gate.enter("a", 0) == "a opens more than 5 reads of the topology a second; wait a little"
    assert gate.enter("a", 0.2) == ""


def test_an_allowance_says_how_long_to_wait_and_a_clock_that_goes_back_takes_nothing() -> None:
    allowance = TokenBucket(burst=1, per_second=0.5, now=10)
    assert allowance.wait(10) == 0
    assert allowance.take(10)
    assert not allowance.take(11)
    assert allowance.wait(11) == 1
    assert allowance.wait(5) == 1
    assert allowance.take(6)
