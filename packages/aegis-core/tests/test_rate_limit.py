from __future__ import annotations

from aegis_core._rate_limit import FEEDS, PRUNE_ABOVE, READS, RateLimiter, TokenBucket


def test_open_feeds_are_limited_for_each_caller() -> None:
    rate_limiter = RateLimiter(FEEDS)
    refusals = [rate_limiter.enter("a", 100.0 * n) for n in range(FEEDS.open + 1)]
    assert refusals[:-1] == [""] * FEEDS.open
    assert refusals[-1] == f"a has {FEEDS.open} feeds open here, the limit is {FEEDS.open}"
    assert rate_limiter.enter("b", 0) == ""
    rate_limiter.leave("a")
    assert rate_limiter.enter("a", 1e6) == ""


def test_a_caller_that_opens_and_closes_for_ever_is_limited_to_a_rate() -> None:
    rate_limiter = RateLimiter(FEEDS)
    opened = 0
    for step in range(10_000):
        if not rate_limiter.enter("a", step / 1000):
            opened += 1
            rate_limiter.leave("a")
    assert FEEDS.burst + 10 * FEEDS.per_second - 1 <= opened <= FEEDS.burst + 10 * FEEDS.per_second
    assert "opens more than 20 feeds a second" in rate_limiter.enter("a", 9.9991)


def test_500_nodes_that_restart_at_once_are_all_accepted() -> None:
    rate_limiter = RateLimiter(FEEDS)
    tries = [rate_limiter.enter(f"node-{n}", 0.001 * n) for n in range(500) for _ in range(3)]
    assert set(tries) == {""}


def test_the_state_of_idle_callers_is_dropped() -> None:
    rate_limiter = RateLimiter(FEEDS)
    assert rate_limiter.enter("held", 0) == ""
    for number in range(10 * PRUNE_ABOVE):
        assert rate_limiter.enter(f"client-{number}", float(number)) == ""
        rate_limiter.leave(f"client-{number}")
    assert len(rate_limiter) <= PRUNE_ABOVE
    assert [rate_limiter.enter("held", 1e6) for _ in range(FEEDS.open)].count("") == FEEDS.open - 1


def test_the_refusal_names_what_is_limited() -> None:
    rate_limiter = RateLimiter(READS)
    for _ in range(int(READS.burst)):
        assert rate_limiter.enter("a", 0) == ""
        rate_limiter.leave("a")
    assert (
        rate_limiter.enter("a", 0)
        == "a opens more than 5 reads of the topology a second; wait a little"
    )
    assert rate_limiter.enter("a", 0.2) == ""


def test_a_token_bucket_returns_the_wait_and_ignores_a_clock_that_goes_back() -> None:
    bucket = TokenBucket(burst=1, per_second=0.5, now=10)
    assert bucket.wait(10) == 0
    assert bucket.take(10)
    assert not bucket.take(11)
    assert bucket.wait(11) == 1
    assert bucket.wait(5) == 1
    assert bucket.take(6)


def test_the_limits_of_an_identity_are_those_of_all_its_live_workers() -> None:
    rate_limiter = RateLimiter(FEEDS)
    refusals = [rate_limiter.enter("a", 100.0 * n, workers=3) for n in range(3 * FEEDS.open + 1)]
    assert refusals[:-1] == [""] * 3 * FEEDS.open
    assert refusals[-1] == f"a has {3 * FEEDS.open} feeds open here, the limit is {3 * FEEDS.open}"
    for _ in range(3 * FEEDS.open):
        rate_limiter.leave("a")
    opened = 0
    for step in range(10_000):
        if not rate_limiter.enter("a", 1e6 + step / 1000, workers=2):
            opened += 1
            rate_limiter.leave("a")
    limit = 2 * (FEEDS.burst + 10 * FEEDS.per_second)
    assert limit - 1 <= opened <= limit


def test_workers_that_come_and_go_bring_no_further_feeds() -> None:
    rate_limiter = RateLimiter(FEEDS)
    opened = 0
    for workers in (1, 64) * 200:
        if not rate_limiter.enter("a", 0.0, workers=workers):
            opened += 1
            rate_limiter.leave("a")
    assert opened == FEEDS.burst
