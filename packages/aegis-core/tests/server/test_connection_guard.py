"""What a node does while connections arrive faster than their handshakes are taken up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
from aegis_core._server import caller_sockets
from aegis_core._server.caller_sockets import ACKNOWLEDGES, CallerSockets
from aegis_core._server.connection_guard import (
    ACCEPTED_UNSEEN,
    MAX_CLOSING,
    QUEUE,
    SHUT,
    ConnectionGuard,
)
from aegis_core._server.connection_limits import FEW, MAX_SILENT, ConnectionLimits
from aegis_core._server.held.channelz import ServerCounts
from aegis_core._server.held.long_headers import CALM, MAX_DELAY, UNSEEN_HEADERS
from aegis_core._server.held.unseen_calls import UnseenCalls
from aegis_core._server.memory import allocated_bytes

Until = Callable[[Callable[[], object]], Awaitable[None]]
HOST = "127.0.0.1"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is of Linux")


def longest_queue(listener: socket.socket) -> int:
    """Returns how many connections may wait to be accepted: tcpi_sacked of one that listens."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    return int.from_bytes(info[28:32], sys.byteorder)


def guard_of(sockets: CallerSockets) -> ConnectionGuard:
    """Returns a guard of a server of which gRPC knows nothing."""
    return ConnectionGuard(ConnectionLimits(), sockets, ServerCounts(0), UnseenCalls())


async def test_no_more_connections_are_accepted_before_those_before_them_were_looked_at() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0), backlog=16))
        port = server.getsockname()[1]
        sockets = CallerSockets(port)
        guard = guard_of(sockets)
        # As gRPC does it, on one thread; the event loop has no turn meanwhile.
        for _ in range(FEW + MAX_SILENT + 3 * ACCEPTED_UNSEEN):
            stack.enter_context(socket.create_connection((HOST, port)))
            stack.enter_context(server.accept()[0])
            guard.note_accepted()
            assert len(sockets.find()) <= FEW + MAX_SILENT + ACCEPTED_UNSEEN
        assert guard.closed >= ACCEPTED_UNSEEN
    await asyncio.sleep(0)


@linux_only
async def test_no_connection_is_let_in_while_grpc_has_many_closed_ones_to_free() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0), backlog=2 * QUEUE))
        port = server.getsockname()[1]
        guard = guard_of(CallerSockets(port))
        accepted = []
        while guard.closed <= MAX_CLOSING + 1:
            stack.enter_context(socket.create_connection((HOST, port)))
            accepted.append(stack.enter_context(server.accept()[0]))
            guard.note_accepted()
        assert longest_queue(server) == SHUT
        for one in accepted:
            one.close()
        for _ in range(ACCEPTED_UNSEEN):
            guard.note_accepted()
        assert longest_queue(server) == QUEUE
    await asyncio.sleep(0)


@linux_only
async def test_connections_that_are_never_freed_keep_no_others_out(
    monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(caller_sockets, "FREED_AFTER", 0.1)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0), backlog=2 * QUEUE))
        port = server.getsockname()[1]
        guard = guard_of(CallerSockets(port))
        running = asyncio.create_task(guard.run())
        while guard.closed <= MAX_CLOSING + 1:
            stack.enter_context(socket.create_connection((HOST, port)))
            stack.enter_context(server.accept()[0])
            guard.note_accepted()
        # No other connection makes the node look again.
        await until(lambda: longest_queue(server) == QUEUE)
        running.cancel()


async def test_memory_is_returned_again_once_grpc_has_freed_what_is_closed(
    monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    module = "aegis_core._server.connection_guard"
    returned: list[float] = []
    monkeypatch.setattr(f"{module}.return_freed_memory", lambda: returned.append(time.monotonic()))
    monkeypatch.setattr(f"{module}.FREED_AFTER", 0.2)
    monkeypatch.setattr(f"{module}.RETURN_EVERY", 0.05)
    with socket.create_server((HOST, 0)) as server:
        address = server.getsockname()
        guard = guard_of(CallerSockets(address[1]))
        running = asyncio.create_task(guard.run())
        with socket.create_connection(address) as caller, server.accept()[0]:
            guard.close(["ipv4:{}:{}".format(*caller.getsockname())])
            closed_at = time.monotonic()
            await until(lambda: returned and returned[-1] >= closed_at + 0.2)
        count = len(returned)
        await asyncio.sleep(0.15)
        assert len(returned) <= count + 1, "and not for ever"
        running.cancel()


@linux_only
async def test_what_acknowledges_a_download_does_not_count_as_received(until: Until) -> None:
    with socket.create_server((HOST, 0)) as server, contextlib.ExitStack() as stack:
        sockets = CallerSockets(server.getsockname()[1])
        client = stack.enter_context(socket.create_connection(server.getsockname()))
        accepted = stack.enter_context(server.accept()[0])
        peer = "ipv4:{}:{}".format(*client.getsockname())
        client.sendall(b"x" * 1000)
        accepted.recv(1000, socket.MSG_WAITALL)
        accepted.sendall(bytes(300 * ACKNOWLEDGES))
        client.recv(300 * ACKNOWLEDGES, socket.MSG_WAITALL)
        await until(lambda: sockets.received([peer]) == {peer: 700})


@linux_only
def test_connections_are_closed_and_counted_while_another_thread_looks_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server((HOST, 0)) as server, contextlib.ExitStack() as stack:
        sockets = CallerSockets(server.getsockname()[1])
        client = stack.enter_context(socket.create_connection(server.getsockname()))
        accepted = server.accept()[0]
        (peer,) = sockets.find()
        reset = caller_sockets._reset
        counting = iter([])

        def reset_meanwhile(connection: socket.socket) -> bool:
            nonlocal counting
            was_open = reset(connection)
            accepted.close()
            client.close()
            assert sockets.find() == []
            counting = iter(sockets._known)
            return was_open

        monkeypatch.setattr(caller_sockets, "_reset", reset_meanwhile)
        assert sockets.close({peer}) == 1
        assert list(counting) == list(sockets._known)
        assert sockets.find() == []


@linux_only
def test_what_a_connection_has_received_is_not_told_of_another_one_at_its_descriptor() -> None:
    with socket.create_server((HOST, 0)) as server, contextlib.ExitStack() as stack:
        sockets = CallerSockets(server.getsockname()[1])
        first = stack.enter_context(socket.create_connection(server.getsockname()))
        accepted = stack.enter_context(server.accept()[0])
        peer = "ipv4:{}:{}".format(*first.getsockname())
        first.sendall(b"x" * 1000)
        assert accepted.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
        assert sockets.received([peer]) == {peer: 1000}
        assert sockets.received(["ipv4:127.0.0.1:1"]) == {}

        descriptor = accepted.fileno()
        accepted.close()
        second = stack.enter_context(socket.create_connection(server.getsockname()))
        again = stack.enter_context(server.accept()[0])
        assert descriptor in {second.fileno(), again.fileno()}
        assert sockets.received([peer]) == {}
        assert again.getpeername() == second.getsockname(), "they stay open"


@linux_only
def test_the_queue_of_a_server_is_shortened_and_no_other() -> None:
    with (
        socket.create_server((HOST, 0), backlog=2 * QUEUE) as server,
        socket.create_server((HOST, 0), backlog=2 * QUEUE) as other,
    ):
        CallerSockets(server.getsockname()[1]).shorten_queue(8)
        assert longest_queue(server) == 8
        assert longest_queue(other) == 2 * QUEUE
        with socket.create_connection(server.getsockname()) as one, server.accept()[0] as accepted:
            one.sendall(b"x")
            assert accepted.recv(1) == b"x"


async def test_new_connections_wait_until_calls_with_long_headers_are_worked_off() -> None:
    guard = guard_of(CallerSockets(0))
    seen: list[float] = []

    def work_off() -> None:
        for number in range(5):
            guard.note_long_headers(f"ipv4:{HOST}:{number + 1}")
            seen.append(time.monotonic())
            time.sleep(CALM / 5)

    work = asyncio.create_task(asyncio.to_thread(work_off))
    while not seen:  # noqa: ASYNC110 - a thread sets it
        await asyncio.sleep(0)
    began = time.monotonic()
    await asyncio.to_thread(guard.note_accepted)
    waited_until = time.monotonic()
    await work
    assert waited_until >= min(seen[-1] + CALM, began + MAX_DELAY)


@linux_only
async def test_new_connections_wait_while_what_such_calls_hold_is_not_freed() -> None:
    if allocated_bytes() is None:
        pytest.skip("this C library does not tell what it has allocated")
    guard = guard_of(CallerSockets(0))
    guard.note_accepted()
    held = [bytearray(4 * UNSEEN_HEADERS)]
    guard.note_long_headers(f"ipv4:{HOST}:1")
    began = time.monotonic()
    freed_at: list[float] = []

    def free() -> None:
        freed_at.append(time.monotonic())
        held.clear()

    timer = threading.Timer(2 * CALM, free)  # nothing is seen meanwhile, as without CPU time
    timer.start()
    await asyncio.to_thread(guard.note_accepted)
    waited_until = time.monotonic()
    timer.join()
    assert waited_until >= min(freed_at[0], began + MAX_DELAY)


async def test_a_caller_with_long_headers_is_closed_again_at_the_same_port() -> None:
    with socket.create_server((HOST, 0)) as server:
        port, source = server.getsockname()[1], 0
        guard = guard_of(CallerSockets(port))
        for closed in (1, 2):
            with socket.socket() as caller:
                caller.bind((HOST, source))
                caller.connect((HOST, port))
                source = caller.getsockname()[1]
                with server.accept()[0]:
                    guard.note_accepted()
                    for _ in range(2):  # the next call of the same connection
                        guard.note_long_headers(f"ipv4:{HOST}:{source}")
                    assert guard.closed == closed
