"""Memory that was freed goes back to the system, once there is much of it."""

from __future__ import annotations

from aegis_core._server.memory import MUCH, SLACK, FreedMemory, resident_bytes

MB = 1_000_000


def test_growth_is_worth_a_look_and_what_remains_then_is_in_use() -> None:
    freed = FreedMemory()
    assert freed.may_be_returned(70 * MB)  # after the start
    freed.note_returned(60 * MB)
    assert not freed.may_be_returned(60 * MB + SLACK)
    assert freed.may_be_returned(61 * MB + SLACK)
    freed.note_returned(80 * MB)
    assert not freed.may_be_returned(80 * MB + SLACK)
    assert freed.may_be_returned(81 * MB + SLACK)


def test_memory_that_went_back_by_itself_lowers_the_floor() -> None:
    freed = FreedMemory()
    freed.note_returned(200 * MB)
    assert not freed.may_be_returned(70 * MB)
    assert freed.may_be_returned(71 * MB + SLACK)


def test_much_growth_is_noticed_since_the_first_look_the_least_one_and_the_last_return() -> None:
    freed = FreedMemory()
    assert not freed.has_grown(60 * MB)
    assert not freed.has_grown(60 * MB + MUCH)
    assert freed.has_grown(61 * MB + MUCH)
    assert not freed.has_grown(40 * MB)
    assert freed.has_grown(41 * MB + MUCH)
    freed.note_returned(90 * MB)
    assert not freed.has_grown(90 * MB + MUCH)
    assert freed.has_grown(91 * MB + MUCH)


def test_the_memory_of_this_process_is_plausible() -> None:
    resident = resident_bytes()
    assert resident is None or 10 * MB < resident < 100_000 * MB


def test_memory_that_was_in_use_at_the_last_return_is_returned_later() -> None:
    freed = FreedMemory()
    assert freed.may_be_returned(300 * SLACK, 200 * SLACK)
    freed.note_returned(300 * SLACK, 200 * SLACK)
    assert not freed.may_be_returned(300 * SLACK, 200 * SLACK - 1)
    assert freed.may_be_returned(300 * SLACK, 100 * SLACK)
    freed.note_returned(150 * SLACK, 100 * SLACK)
    assert not freed.may_be_returned(150 * SLACK, 100 * SLACK)
