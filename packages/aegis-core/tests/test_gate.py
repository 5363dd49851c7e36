from __future__ import annotations

from aegis_core._gate import BURST, MAX_FEEDS, OPENS_PER_SECOND, PRUNE_ABOVE, FeedGate


def test_a_caller_holds_so_many_feeds_and_another_one_its_own() -> None:
    gate = FeedGate()
    refusals = [gate.enter("a", 100.0 * n) for n in range(MAX_FEEDS + 1)]
    assert refusals[:-1] == [""] * MAX_FEEDS
    assert refusals[-1] == f"a has {MAX_FEEDS} feeds open here, the limit is {MAX_FEEDS}"
    assert gate.enter("b", 0) == ""
    gate.leave("a")
    assert gate.enter("a", 1e6) == ""


def test_who_opens_and_closes_without_end_is_held_to_a_rate() -> None:
    gate = FeedGate()
    opened = 0
    for step in range(10_000):
        if not gate.enter("a", step / 1000):
            opened += 1
            gate.leave("a")
    assert BURST + 10 * OPENS_PER_SECOND - 1 <= opened <= BURST + 10 * OPENS_PER_SECOND
    assert "opens more than 20 feeds a second" in gate.enter("a", 9.9991)


def test_500_nodes_that_restart_at_once_are_all_let_in() -> None:
    gate = FeedGate()
    tries = [gate.enter(f"node-{n}", 0.001 * n) for n in range(500) for _ in range(3)]
    assert set(tries) == {""}


def test_callers_of_whom_there_is_nothing_to_know_are_forgotten() -> None:
    gate = FeedGate()
    assert gate.enter("held", 0) == ""
    for number in range(10 * PRUNE_ABOVE):
        assert gate.enter(f"client-{number}", float(number)) == ""
        gate.leave(f"client-{number}")
    assert len(gate) <= PRUNE_ABOVE
    assert [gate.enter("held", 1e6) for _ in range(MAX_FEEDS)].count("") == MAX_FEEDS - 1
