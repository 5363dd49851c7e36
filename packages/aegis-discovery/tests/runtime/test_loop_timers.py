"""Timers outside an event loop: it has none itself, and each fires once, in time."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from typing import Any

import pytest
from aegis_discovery._runtime import loop_timers
from aegis_discovery._runtime.loop_timers import timeout
from aegis_discovery.background import call_later, sleep, timers_outside_loop


def timers_of(loop: Any) -> list[Any]:
    """Returns the timers that a loop of asyncio has itself."""
    return [timer for timer in loop._scheduled if not timer.cancelled()]


async def test_the_loop_has_no_timer_and_they_fire_in_their_order_and_in_time() -> None:
    loop, fired = asyncio.get_running_loop(), list[float]()
    with timers_outside_loop():
        began = time.monotonic()
        for seconds in (0.06, 0.02, 0.04):
            call_later(seconds, lambda seconds=seconds: fired.append(seconds))
        call_later(0.03, lambda: fired.append(-1)).cancel()
        assert timers_of(loop) == []
        await sleep(0.08)
        assert 0.079 < time.monotonic() - began < 1
        assert fired == [0.02, 0.04, 0.06]


async def test_a_timer_that_fails_is_reported_and_the_others_fire() -> None:
    reported: list[dict[str, Any]] = []
    loop, fired = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    with timers_outside_loop():
        call_later(0, lambda: 1 / 0)
        call_later(0, fired.set)
        async with asyncio.timeout(5):
            await fired.wait()
        assert isinstance(reported[0]["exception"], ZeroDivisionError)
        async with asyncio.timeout(5):
            await sleep(0.001)
    assert len(reported) == 1


async def test_a_timer_that_another_one_cancels_does_not_fire() -> None:
    fired: list[str] = []
    with timers_outside_loop():
        timers = loop_timers._timers[asyncio.get_running_loop()]
        call_later(0, lambda: later.cancel())
        later = call_later(0, lambda: fired.append("cancelled"))
        await sleep(0.01)
        assert not fired
        assert timers.cancelled == 0


async def test_otherwise_the_loop_has_the_timers() -> None:
    timer = call_later(60, lambda: None)
    assert len(timers_of(asyncio.get_running_loop())) == 1
    timer.cancel()


async def test_what_is_left_at_the_end_fires_all_the_same() -> None:
    with timers_outside_loop(), timers_outside_loop():
        sleeping = asyncio.create_task(sleep(0.02))
        cancelled = asyncio.create_task(sleep(60))
        await asyncio.sleep(0)
    cancelled.cancel()
    async with asyncio.timeout(5):
        await sleeping
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_the_descriptor_is_closed_with_its_last_user() -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with timers_outside_loop(), timers_outside_loop():
            await sleep(0.001)
            assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_a_time_that_has_passed_is_due_at_once() -> None:
    with timers_outside_loop():
        async with asyncio.timeout(5):
            await asyncio.gather(sleep(-1e9), sleep(0), sleep(-1))


async def test_a_limit_of_time_ends_a_block_and_else_leaves_nothing_behind() -> None:
    with timers_outside_loop():
        with pytest.raises(TimeoutError):
            await limited(0.01)
        async with timeout(60):
            await sleep(0.001)
        task = asyncio.create_task(limited(60))
        await asyncio.sleep(0)
        assert not timers_of(asyncio.get_running_loop())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def limited(seconds: float) -> None:
    async with timeout(seconds):
        await asyncio.Event().wait()


def test_the_descriptor_is_closed_with_a_loop_that_nobody_tidied() -> None:
    async def leave() -> None:
        timers_outside_loop().__enter__()

    gc.collect()  # what other tests have left
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        asyncio.run(leave())
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_without_the_system_s_help_the_loop_has_the_timers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_timers.sys, "platform", "darwin")
    with timers_outside_loop():
        sleeping = asyncio.create_task(sleep(0.01))
        await asyncio.sleep(0)
        assert len(timers_of(asyncio.get_running_loop())) == 1
        await sleeping


async def test_cancelled_timers_are_not_kept_until_their_time() -> None:
    with timers_outside_loop():
        timers = loop_timers._timers[asyncio.get_running_loop()]
        for _ in range(20 * loop_timers.PRUNE_ABOVE):
            call_later(3600, lambda: None).cancel()
        assert len(timers._due) <= loop_timers.PRUNE_ABOVE + 2
