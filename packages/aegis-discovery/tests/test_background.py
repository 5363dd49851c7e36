from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading

import pytest
from aegis_discovery import ClosedError
from aegis_discovery._runtime import fork_guard, signal_waits
from aegis_discovery.background import BackgroundLoop, stacks_of_own_size


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with both loops: as where uvloop is installed, and as where it is not."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    else:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    return str(request.param)


async def double(number: int) -> int:
    return number * 2


def test_the_loop_is_uvloops_where_that_is_installed(kind: str) -> None:
    loop = BackgroundLoop("test")
    assert type(loop.call(asyncio.get_running_loop)).__module__.split(".")[0] == kind
    loop.close()


def test_work_runs_on_the_loop_and_returns_its_result_or_error() -> None:
    loop = BackgroundLoop("test")
    assert loop.run(double(21)) == 42
    assert loop.call(threading.current_thread).name == "test"
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda: 1 // 0)
    loop.close()
    with pytest.raises(ClosedError):
        loop.run(double(1))
    loop.close()


def test_a_blocking_call_on_the_loops_own_thread_raises_instead_of_deadlocking() -> None:
    loop = BackgroundLoop("test")
    with pytest.raises(RuntimeError, match="own thread"):
        loop.call(lambda: loop.run(double(1)))
    loop.close()


def test_a_waiting_thread_is_woken_when_the_loop_is_closed() -> None:
    loop = BackgroundLoop("test")
    waiting = threading.Event()
    ended: list[BaseException] = []

    async def forever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    def wait() -> None:
        try:
            loop.run(forever())
        except BaseException as error:  # noqa: BLE001 - any error ends the wait
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait(10)
    loop.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(ended) == 1


needs_main_thread = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need the main thread"
)


def run_until_a_signal_of_another_thread_is_handled() -> None:
    loop, handled = BackgroundLoop("test"), asyncio.Event()

    async def until_handled() -> None:
        threading.Thread(target=receive).start()
        async with asyncio.timeout(10):
            await handled.wait()

    def receive() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon(handled.set))
    try:
        loop.run(until_handled())
    finally:
        signal.signal(signal.SIGUSR1, before)
        loop.close()


@needs_main_thread
def test_a_signal_that_another_thread_receives_is_handled_while_the_main_thread_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal_waits, "LOOK_FOR_SIGNALS", 60.0)  # the signal wakes it
    run_until_a_signal_of_another_thread_is_handled()
    assert signal.set_wakeup_fd(-1) == -1


@needs_main_thread
def test_it_is_handled_too_where_signals_wake_somebody_else_who_is_woken_again_afterwards() -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        try:
            run_until_a_signal_of_another_thread_is_handled()
        finally:
            assert signal.set_wakeup_fd(-1) == writer.fileno()
        assert reader.recv(1) == bytes([signal.SIGUSR1])


@needs_main_thread
def test_the_main_thread_waits_where_no_descriptor_is_left_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    loop = BackgroundLoop("test")
    monkeypatch.setattr(signal_waits.socket, "socketpair", refuse)
    assert loop.run(double(21)) == 42
    loop.close()


@needs_main_thread
def test_an_error_of_a_signal_handler_ends_the_wait_of_the_main_thread() -> None:
    loop, cancelled = BackgroundLoop("test"), threading.Event()

    main = threading.main_thread().ident
    waits = signal_waits.wait_in_main_thread.__code__

    async def forever() -> None:
        while sys._current_frames()[main].f_code is not waits:  # noqa: ASYNC110 - no event says it
            await asyncio.sleep(0)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    before = signal.signal(signal.SIGUSR1, fail)
    try:
        with pytest.raises(ZeroDivisionError):
            loop.run(forever())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert cancelled.wait(10)
    loop.close()


@pytest.mark.parametrize(("size", "expected"), [(0, fork_guard.STACK_SIZE), (1 << 20, 1 << 20)])
def test_polling_threads_have_stacks_of_their_own_size_unless_the_program_has_set_one(
    size: int, expected: int
) -> None:
    before = threading.stack_size(size)
    try:
        with stacks_of_own_size():
            during = threading.stack_size(size)  # that asks and sets
        after = threading.stack_size(before)
    finally:
        threading.stack_size(before)
    assert (during, after) == (expected, size)


def test_a_failure_leaves_the_default_size_of_stacks() -> None:
    with contextlib.suppress(ZeroDivisionError), stacks_of_own_size():
        raise ZeroDivisionError
    assert threading.stack_size() == 0
