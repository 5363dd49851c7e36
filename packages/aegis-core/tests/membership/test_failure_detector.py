from __future__ import annotations

import pytest
from aegis_core._membership import failure_detector
from aegis_core._membership.failure_detector import (
    BREAKS_IGNORED,
    FAIL_AFTER_BREAK,
    FAIL_AFTER_SILENCE,
    FLAP_WINDOW,
    REST,
    REVIEW,
    SUSPECT_AFTER,
    FailureDetector,
)
from aegis_discovery.feed import HEARTBEAT
from aegis_discovery.records import Opinion

CLEAR, SUSPECT, FAILED = Opinion.CLEAR, Opinion.SUSPECT, Opinion.FAILED
STEP = 0.1


class DetectorBench:
    """A failure detector with a clock."""

    def __init__(self, *watched: str) -> None:
        self.now = 0.0
        self.detector = FailureDetector(0.0)
        for node_id in watched or ("a",):
            self.detector.watch(node_id, 0.0)

    def wait(self, seconds: float, *, hearing: str = "") -> None:
        end = self.now + seconds
        while self.now < end - STEP / 2:
            self.now += STEP
            for node_id in hearing:
                self.detector.message_received(node_id, self.now)
            self.detector.tick(self.now)

    def lost(self, node_id: str = "a") -> None:
        self.detector.feed_broken(node_id, self.now)

    def fail(self) -> None:
        self.lost()
        self.wait(FAIL_AFTER_BREAK + STEP)
        assert self.opinion[0] is FAILED

    @property
    def opinion(self) -> tuple[Opinion, bool]:
        return self.detector.opinion("a")


def test_a_node_that_sends_messages_is_clear() -> None:
    bench = DetectorBench()
    bench.wait(100, hearing="a")
    assert bench.opinion == (CLEAR, False)


def test_a_silent_node_is_suspected_and_then_fails() -> None:
    bench = DetectorBench()
    bench.wait(SUSPECT_AFTER - STEP)
    assert bench.opinion == (CLEAR, False)
    bench.wait(2 * STEP)
    assert bench.opinion == (SUSPECT, False)
    bench.wait(FAIL_AFTER_SILENCE - 3 * STEP)
    assert bench.opinion == (SUSPECT, False)
    bench.wait(4 * STEP)
    assert bench.opinion == (FAILED, False)


def test_a_node_with_a_broken_feed_is_suspected_at_once_and_fails_soon() -> None:
    bench = DetectorBench()
    bench.lost()
    assert bench.opinion == (SUSPECT, False)
    bench.wait(FAIL_AFTER_BREAK - STEP)
    assert bench.opinion == (SUSPECT, False)
    bench.wait(2 * STEP)
    assert bench.opinion == (FAILED, False)


@pytest.mark.parametrize("seconds", [0.0, FAIL_AFTER_BREAK + 2 * STEP])
def test_a_message_clears_a_suspected_and_a_failed_node(seconds: float) -> None:
    bench = DetectorBench()
    bench.lost()
    bench.wait(seconds)
    bench.detector.message_received("a", bench.now)
    assert bench.opinion == (CLEAR, False)


def test_a_second_failure_within_a_minute_is_held_until_a_minute_without_trouble() -> None:
    bench = DetectorBench()
    bench.fail()
    bench.wait(5, hearing="a")
    bench.fail()
    assert bench.opinion == (FAILED, True)
    bench.wait(FLAP_WINDOW - 1, hearing="a")
    assert bench.opinion == (FAILED, True)
    bench.wait(2, hearing="a")
    assert bench.opinion == (CLEAR, False)


def test_a_node_that_was_never_heard_between_its_failures_is_held_until_it_is_heard() -> None:
    bench = DetectorBench()
    bench.fail()
    # Its answer came through others.
    bench.detector.record_renewed("a", bench.now, alone=False)
    bench.wait(FAIL_AFTER_SILENCE + STEP)
    assert bench.opinion == (FAILED, True)
    bench.detector.record_renewed("a", bench.now, alone=False)
    assert bench.opinion == (FAILED, True)
    bench.wait(1, hearing="a")
    assert bench.opinion == (CLEAR, False)
    bench.fail()
    assert bench.opinion == (FAILED, True)
    bench.wait(FLAP_WINDOW - 1, hearing="a")
    assert bench.opinion == (FAILED, True), "now it comes and goes"


def test_failures_more_than_a_minute_apart_are_not_held() -> None:
    bench = DetectorBench()
    bench.fail()
    bench.wait(FLAP_WINDOW, hearing="a")
    bench.fail()
    assert bench.opinion == (FAILED, False)


@pytest.mark.parametrize("disorder", ["silence", "break"])
def test_trouble_restarts_the_minute(disorder: str) -> None:
    bench = DetectorBench()
    bench.fail()
    bench.wait(1, hearing="a")
    bench.fail()
    bench.wait(FLAP_WINDOW - 5, hearing="a")
    if disorder == "break":
        bench.lost()
    else:
        bench.wait(SUSPECT_AFTER + STEP)
    bench.wait(FLAP_WINDOW - 1, hearing="a")
    assert bench.opinion == (FAILED, True)
    bench.wait(2, hearing="a")
    assert bench.opinion == (CLEAR, False)


def test_a_wrong_accusation_is_followed_by_longer_and_longer_pauses() -> None:
    bench = DetectorBench()
    quiet = SUSPECT_AFTER
    for _ in range(3):
        bench.lost()
        assert bench.opinion == (SUSPECT, False)
        bench.detector.record_renewed("a", bench.now, alone=True)
        quiet *= 2
        bench.lost()
        bench.wait(quiet - STEP)
        assert bench.opinion == (CLEAR, False)
        bench.wait(2 * STEP)
        assert bench.opinion == (SUSPECT, False)
        bench.detector.message_received("a", bench.now)


def test_a_new_record_of_a_node_that_others_accuse_restarts_the_suspicion() -> None:
    bench = DetectorBench()
    bench.fail()
    bench.detector.record_renewed("a", bench.now, alone=False)
    assert bench.opinion == (SUSPECT, False)
    bench.wait(FAIL_AFTER_SILENCE + STEP)
    assert bench.opinion[0] is FAILED


def test_a_new_record_does_not_clear_a_held_node() -> None:
    bench = DetectorBench()
    bench.detector.watch("a", 0.0, opinion=FAILED, held=True)
    bench.detector.record_renewed("a", bench.now, alone=True)
    assert bench.opinion == (FAILED, True)


def test_a_new_record_of_a_clear_node_counts_as_a_message() -> None:
    bench = DetectorBench()
    bench.wait(SUSPECT_AFTER - STEP)
    bench.detector.record_renewed("a", bench.now, alone=True)
    bench.wait(SUSPECT_AFTER - STEP)
    assert bench.opinion == (CLEAR, False)


def test_its_own_pause_accuses_no_node() -> None:
    bench = DetectorBench()
    bench.wait(STEP)
    bench.now += 30
    bench.detector.tick(bench.now)
    assert bench.opinion == (CLEAR, False)
    bench.wait(1)
    assert bench.opinion == (CLEAR, False)


def test_its_own_pause_does_not_shorten_a_suspicion() -> None:
    bench = DetectorBench()
    bench.lost()
    bench.wait(STEP)
    bench.now += 30
    bench.detector.tick(bench.now)
    assert bench.opinion == (SUSPECT, False)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_feed_that_breaks_right_after_its_own_pause_counts_as_silent(is_first: bool) -> None:
    bench = DetectorBench()
    bench.wait(STEP)
    bench.now += 30
    if is_first:
        bench.lost()  # before the tick that notices the pause
    bench.detector.tick(bench.now)
    bench.wait(STEP)
    bench.lost()  # the attempt to open it again failed
    bench.wait(STEP)
    assert bench.opinion == (CLEAR, False)
    bench.wait(SUSPECT_AFTER * 2 + FAIL_AFTER_SILENCE * 2)
    assert bench.opinion == (FAILED, False), "it is gone"


def test_a_feed_that_breaks_later_after_its_own_pause_shows_a_failure() -> None:
    bench = DetectorBench()
    bench.wait(STEP)
    bench.now += 30
    bench.detector.tick(bench.now)
    bench.wait(BREAKS_IGNORED)
    bench.lost()
    assert bench.opinion == (SUSPECT, False)


@pytest.mark.parametrize("pause", [0.5, 1.0, 1.5, 1.8, 2.5])
def test_a_pause_of_its_own_between_two_heartbeats_makes_no_node_silent(pause: float) -> None:
    bench = DetectorBench()
    due = bench.detector.tick(0.0)
    while due < 30:
        bench.now = due
        bench.detector.message_received("a", max(0.0, due - HEARTBEAT))
        due = bench.detector.tick(due)
    bench.detector.tick(bench.now + pause)
    assert bench.opinion == (CLEAR, False)


def test_it_ticks_once_a_second_while_all_is_well_and_more_often_during_a_suspicion() -> None:
    bench = DetectorBench("a", "b")
    for second in range(10):
        bench.detector.message_received("a", second)
        bench.detector.message_received("b", second)
        assert bench.detector.tick(second) == second + REST
    bench.now = 10.5
    bench.detector.message_received("b", bench.now)
    assert bench.detector.tick(bench.now) == bench.now + REST
    assert bench.detector.tick(11.2) == 11.2 + REST
    assert bench.detector.tick(12.2) == 9 + SUSPECT_AFTER
    bench.now = 11.5
    bench.lost("b")
    assert bench.detector.tick(12.2) == 12.2 + REVIEW
    assert bench.detector.tick(12.4) == bench.now + FAIL_AFTER_BREAK


@pytest.mark.parametrize("doubts", range(6))
def test_faults_of_its_own_lengthen_its_delays_up_to_a_limit(doubts: int) -> None:
    bench = DetectorBench()
    for _ in range(doubts):
        bench.detector.penalize_own_health(0.0)
    bench.lost()
    slowness = 1 + min(doubts, failure_detector.MAX_HEALTH_PENALTY)
    bench.wait(FAIL_AFTER_BREAK * slowness - STEP)
    assert bench.opinion == (SUSPECT, False)
    bench.wait(2 * STEP)
    assert bench.opinion[0] is FAILED


def test_a_fault_of_its_own_is_forgotten_after_a_while() -> None:
    bench = DetectorBench()
    bench.detector.penalize_own_health(0.0)
    bench.wait(failure_detector.HEALTH_RECOVERY + STEP, hearing="a")
    bench.lost()
    bench.wait(FAIL_AFTER_BREAK + STEP)
    assert bench.opinion[0] is FAILED


def test_it_starts_from_the_opinion_that_it_published_before() -> None:
    bench = DetectorBench()
    bench.detector.watch("a", 0.0, opinion=SUSPECT)
    assert bench.opinion == (SUSPECT, False)
    bench.wait(FAIL_AFTER_SILENCE + STEP)
    assert bench.opinion == (FAILED, False)


def test_it_ignores_nodes_that_it_does_not_watch() -> None:
    bench = DetectorBench()
    bench.detector.message_received("b", 0.0)
    bench.detector.feed_broken("b", 0.0)
    bench.detector.record_renewed("b", 0.0, alone=True)
    bench.detector.forget("a")
    assert repr(bench.detector) == "<FailureDetector without nodes>"
    assert list(bench.detector) == []


def test_an_isolated_node_does_not_hold_its_verdicts() -> None:
    bench = DetectorBench("a", "b", "c")
    for _ in range(3):
        bench.wait(SUSPECT_AFTER + FAIL_AFTER_SILENCE + 2 * STEP)
        assert bench.opinion == (FAILED, False)
        bench.wait(STEP, hearing="abc")
        assert bench.opinion == (CLEAR, False)
