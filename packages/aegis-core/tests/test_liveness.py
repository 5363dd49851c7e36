from __future__ import annotations

from aegis_core._liveness import SILENCE, STALL, SUSPICION, Liveness
from aegis_discovery import NodeStatus

ALIVE, SUSPECTED, FAILED = NodeStatus.ALIVE, NodeStatus.SUSPECTED, NodeStatus.FAILED
TICK = 0.2


class Script:
    """Drives a liveness with virtual time, a tick at a time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.liveness = Liveness(self.now)
        self.liveness.watch("a", self.now)

    def run(self, seconds: float, *, heartbeats: bool = False) -> NodeStatus:
        end = self.now + seconds
        status = self.liveness.tick(self.now)["a"]
        while self.now < end:
            self.now += TICK
            if heartbeats:
                self.liveness.heard("a", self.now)
            status = self.liveness.tick(self.now)["a"]
        return status


def test_a_node_that_is_heard_stays_alive() -> None:
    assert Script().run(60, heartbeats=True) is ALIVE


def test_a_broken_feed_makes_a_suspect_at_once_and_a_failure_after_the_suspicion() -> None:
    script = Script()
    script.liveness.lost("a", script.now)
    assert script.run(SUSPICION - 2 * TICK) is SUSPECTED
    assert script.run(3 * TICK) is FAILED


def test_silence_makes_a_suspect_and_then_a_failure() -> None:
    script = Script()
    assert script.run(SILENCE - 2 * TICK) is ALIVE
    assert script.run(3 * TICK) is SUSPECTED
    assert script.run(SUSPICION + TICK) is FAILED


def test_a_suspect_that_is_heard_again_is_alive() -> None:
    script = Script()
    script.liveness.lost("a", script.now)
    script.run(TICK)
    script.liveness.heard("a", script.now)
    assert script.run(TICK) is ALIVE


def test_a_failed_node_that_publishes_a_record_is_alive() -> None:
    script = Script()
    script.liveness.lost("a", script.now)
    script.run(2 * SUSPICION)
    script.liveness.renewed("a", script.now)
    assert script.run(TICK) is ALIVE


def test_losing_a_suspect_again_does_not_give_it_more_time() -> None:
    script = Script()
    script.liveness.lost("a", script.now)
    script.run(SUSPICION / 2)
    script.liveness.lost("a", script.now)
    assert script.run(SUSPICION / 2 + TICK) is FAILED


def test_time_in_which_this_process_stood_still_counts_against_nobody() -> None:
    script = Script()
    script.run(TICK)
    script.now += 30 * STALL
    assert script.liveness.tick(script.now)["a"] is ALIVE
    assert script.run(SILENCE - 3 * TICK) is ALIVE
    assert script.run(SILENCE + SUSPICION) is FAILED


def test_a_node_that_nobody_watches_is_not_judged() -> None:
    script = Script()
    script.liveness.forget("a")
    script.liveness.lost("a", script.now)
    script.liveness.heard("a", script.now)
    assert script.liveness.tick(script.now) == {}
    assert repr(script.liveness) == "<Liveness nobody>"
