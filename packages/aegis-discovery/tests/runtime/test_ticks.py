from __future__ import annotations

import pytest
from aegis_discovery._runtime.ticks import TICK, Ticks


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.999])
def test_all_that_waits_for_whole_seconds_is_due_at_the_same_times(phase: float) -> None:
    ticks = Ticks(phase)
    for step in range(200):
        now = 1000 + step / 37
        for seconds in (TICK, 2 * TICK, 30 * TICK):
            due = ticks.after(now, seconds)
            assert (due - phase) % 1 == pytest.approx(0, abs=1e-9) or (due - phase) % 1 > 1 - 1e-9
            assert now + seconds - TICK < due <= now + seconds + 0.05 * TICK


def test_a_timer_that_fires_a_little_early_does_not_fire_twice() -> None:
    assert Ticks(0.5).after(10.499) == pytest.approx(11.5)


def test_shorter_times_are_not_rounded() -> None:
    assert Ticks(0.5).after(10.0, 0.01) == 10.01


def test_a_period_of_several_ticks_is_kept_from_any_moment() -> None:
    ticks = Ticks(0.5, 2.0)
    assert [ticks.after(at, 2.0) for at in (10.0, 10.5, 11.0, 12.4)] == [10.5, 12.5, 12.5, 12.5]
