"""What a supervisor decides, in virtual time."""

from __future__ import annotations

import logging
import math

import pytest
from aegis_certs import MAX_WORKERS
from aegis_core._node.workers.supervision import (
    FIRST_BACKOFF,
    MAX_BACKOFF,
    STABLE_AFTER,
    START_ATTEMPTS,
    STOP_MARGIN,
    USAGE,
    State,
    Supervision,
)

GRACE = 5.0


class Shell:
    """Processes that do what a test says."""

    def __init__(self, count: int) -> None:
        self.now = 100.0
        self.log: list[str] = []
        self.running: set[int] = set()
        self.workers = Supervision("a", count, self, grace=GRACE)
        self.due = self.workers.tick(self.now)

    def spawn(self, number: int) -> None:
        assert number not in self.running, "each number has one process"
        assert 0 <= number < MAX_WORKERS
        self.running.add(number)
        self.log.append(f"spawn {number}")

    def stop(self, number: int) -> None:
        self.log.append(f"stop {number}")

    def kill(self, number: int) -> None:
        self.log.append(f"kill {number}")

    def serves(self, *numbers: int) -> None:
        for number in numbers:
            self.workers.serves(number, self.now)
            self.tick()

    def ends(self, number: int, code: int = 1) -> None:
        self.running.remove(number)
        self.workers.ended(number, code, self.now)
        self.tick()

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.due = self.workers.tick(self.now)

    def took(self) -> list[str]:
        log, self.log = self.log, []
        return log


def started(count: int) -> Shell:
    shell = Shell(count)
    shell.serves(*range(count))
    shell.took()
    assert shell.workers.state is State.READY
    return shell


def test_the_first_worker_starts_alone_and_the_others_when_it_serves() -> None:
    shell = Shell(3)
    assert shell.took() == ["spawn 0"]
    shell.serves(0)
    assert shell.took() == ["spawn 1", "spawn 2"]
    shell.serves(2)
    assert shell.workers.state is State.STARTING, "not all are up"
    shell.serves(1)
    assert shell.workers.state is State.READY
    assert (shell.took(), shell.due) == ([], math.inf)


def test_a_worker_that_ends_is_started_again_at_once_and_later_with_growing_pauses() -> None:
    shell = started(2)
    shell.ends(1, -9)
    assert shell.took() == ["spawn 1"]
    pauses = []
    for _ in range(10):
        shell.serves(1)
        shell.ends(1)
        pauses.append(shell.due - shell.now)
        shell.tick(pauses[-1])
        assert shell.took() == ["spawn 1"]
    assert pauses[:4] == [FIRST_BACKOFF, 2 * FIRST_BACKOFF, 4 * FIRST_BACKOFF, 8 * FIRST_BACKOFF]
    assert pauses[-1] == MAX_BACKOFF
    shell.serves(1)
    shell.tick(STABLE_AFTER)
    shell.ends(1, 0)
    assert shell.took() == ["spawn 1"], "it served for long, so it is started at once"
    assert shell.workers.state is State.READY


def test_workers_that_never_serve_make_the_supervisor_give_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shell = Shell(4)
    for attempt in range(START_ATTEMPTS):
        assert shell.took() == ["spawn 0"]
        shell.ends(0, 7)
        if attempt + 1 < START_ATTEMPTS:
            shell.tick(shell.due - shell.now)
    assert (shell.took(), shell.workers.is_done, shell.workers.exit_code) == ([], True, 7)
    assert "a#0 ended before it served (exit code 7); it is started again" in caplog.text


def test_settings_that_cannot_work_are_tried_once() -> None:
    shell = Shell(4)
    shell.ends(0, USAGE)
    assert (shell.workers.is_done, shell.workers.exit_code) == (True, USAGE)


def test_a_worker_that_cannot_start_is_tried_for_ever_while_another_one_serves() -> None:
    shell = Shell(2)
    shell.serves(0)
    for _ in range(3 * START_ATTEMPTS):
        shell.ends(1, USAGE)
        shell.tick(shell.due - shell.now)
    assert shell.took() == ["spawn 0", *["spawn 1"] * (3 * START_ATTEMPTS + 1)]
    assert shell.workers.exit_code is None
    shell.ends(1)
    shell.ends(0, -11)
    for attempt in range(START_ATTEMPTS):
        assert shell.workers.exit_code is None, "none serves, but one may start again"
        shell.ends(0, attempt)
        shell.tick(FIRST_BACKOFF * 2**attempt)
    assert shell.workers.exit_code == START_ATTEMPTS - 1


def test_a_reload_starts_each_new_worker_before_an_old_one_leaves() -> None:
    shell = started(2)
    shell.workers.reload(shell.now)
    assert shell.took() == ["spawn 2"]
    assert shell.workers.state is State.RELOADING
    shell.serves(2)
    assert shell.took() == ["stop 0"], "one by one"
    shell.ends(0, 0)
    assert shell.took() == ["spawn 0"]
    shell.serves(0)
    assert shell.took() == ["stop 1"]
    shell.ends(1, 0)
    assert shell.workers.state is State.READY
    assert (shell.took(), shell.running) == ([], {0, 2})
    shell.workers.reload(shell.now)
    assert shell.took() == ["spawn 1"]


def test_a_reload_during_a_reload_replaces_the_new_workers_too() -> None:
    shell = started(1)
    for _ in range(2):
        shell.workers.reload(shell.now)
    assert shell.took() == ["spawn 1"], "it has the latest code already"
    shell.workers.reload(shell.now)
    shell.serves(1)
    shell.ends(0, 0)
    assert shell.took() == ["stop 0", "spawn 0"]
    shell.serves(0)
    shell.ends(1, 0)
    assert (shell.workers.state, shell.running) == (State.READY, {0})


def test_a_new_worker_that_does_not_start_leaves_the_old_ones_in_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shell = started(2)
    shell.workers.reload(shell.now)
    shell.ends(2, USAGE)
    assert (shell.took(), shell.workers.state) == (["spawn 2"], State.READY)
    assert "the running workers continue with the old code" in caplog.text
    shell.workers.reload(shell.now)
    shell.serves(2)
    assert shell.took() == ["spawn 2", "stop 0"]


def test_a_worker_that_dies_during_a_reload_is_not_counted_twice() -> None:
    shell = started(2)
    shell.workers.reload(shell.now)
    shell.serves(2)
    shell.ends(1, -9)
    shell.ends(0, 0)
    assert shell.took() == ["spawn 2", "stop 0", "spawn 1"]
    shell.serves(1)
    assert (shell.workers.state, shell.running) == (State.READY, {1, 2})


def test_without_a_free_number_an_old_worker_leaves_first() -> None:
    shell = started(MAX_WORKERS)
    shell.workers.reload(shell.now)
    assert shell.took() == ["stop 0"]
    shell.ends(0, 0)
    assert shell.took() == ["spawn 0"]
    shell.serves(0)
    assert shell.took() == ["stop 1"]


def test_all_workers_stop_together_and_those_that_do_not_end_are_killed() -> None:
    shell = started(3)
    shell.workers.reload(shell.now)
    shell.took()
    shell.workers.stop(shell.now)
    shell.workers.stop(shell.now)
    shell.workers.reload(shell.now)
    assert shell.took() == ["stop 0", "stop 1", "stop 2", "stop 3"]
    assert shell.workers.state is State.STOPPING
    for number in (0, 1, 3):
        shell.ends(number, 0)
    shell.tick(GRACE + STOP_MARGIN - 0.1)
    assert shell.took() == []
    shell.tick(0.1)
    assert shell.took() == ["kill 2"]
    assert not shell.workers.is_done
    shell.ends(2, -9)
    assert (shell.workers.is_done, shell.workers.exit_code, shell.took()) == (True, None, [])


def test_a_stop_before_anything_serves_starts_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    shell = Shell(2)
    shell.workers.stop(shell.now)
    shell.serves(0)
    shell.ends(0, -15)
    assert shell.took() == ["spawn 0", "stop 0"]
    assert shell.workers.is_done
    assert caplog.text == ""
