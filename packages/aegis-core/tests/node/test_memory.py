"""Memory that was freed goes back to the system, once there is much of it."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from aegis_core._server import memory
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


async def test_memory_is_returned_soon_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    if resident_bytes() is None:
        pytest.skip("this system does not tell what a process has")
    loop, returned = asyncio.get_running_loop(), asyncio.Event()
    give_back = memory.return_freed_memory

    def noted() -> None:
        give_back()
        loop.call_soon_threadsafe(returned.set)

    monkeypatch.setattr(memory, "return_freed_memory", noted)
    monkeypatch.setattr(memory, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(memory, "FIRST_RETURN", 0.02)
    task = asyncio.create_task(memory.watch_memory())
    async with asyncio.timeout(10):  # the next one is due after 30 s
        await returned.wait()
    task.cancel()


def test_a_system_that_does_not_tell_has_no_memory_to_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_STATM", "/nowhere/statm")
    assert resident_bytes() is None
    assert memory.memory_now()[0] == 0


_ALLOCATING = """
import ctypes, sys, threading
from aegis_core._server.memory import share_arena

share_arena()
libc = ctypes.CDLL(None)
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
all_started = threading.Barrier(9)

def allocate():
    libc.malloc(ctypes.c_size_t(100_000))
    all_started.wait(30)

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
all_started.wait(30)
out = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_ARENA_MAX": "4"}])
def test_threads_share_an_arena_unless_the_user_chose_something_else(
    chosen: dict[str, str], tmp_path: Path
) -> None:
    environment = {name: text for name, text in os.environ.items() if "MALLOC" not in name}
    info = tmp_path / "info.xml"
    subprocess.run(
        [sys.executable, "-c", _ALLOCATING, str(info)],
        env={**environment, **chosen},
        check=True,
        timeout=60,
    )
    assert info.read_text().count("<heap nr=") == (4 if chosen else 1)
