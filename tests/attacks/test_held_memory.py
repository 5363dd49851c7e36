"""One caller lets a node hold answers that it does not read, and messages that it does not end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core._server.held.unfinished_messages import FEW, FEW_CONNECTIONS
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import mesh_pb2

from .test_one_caller import (
    UNJUDGED,
    WAIT,
    MakeIdentity,
    Mallory,
    StartVictim,
    Until,
    all_three,
    both,
    frames,
    mallory,
    start_victim,
    statuses,
)

__all__ = ["mallory", "start_victim"]  # fixtures

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
NO_WINDOW = frames.frame(frames.SETTINGS, 0, (4).to_bytes(2, "big") + bytes(4))
SOME_WINDOW = frames.frame(
    frames.SETTINGS, 0, (4).to_bytes(2, "big") + (1 << 20).to_bytes(4, "big")
)
MIB = 1 << 20

MakeMallory = Callable[[Node], Mallory]


class Service:
    """Answers with as many bytes as are asked for, and counts the bytes of uploads."""

    def __init__(self) -> None:
        self.answered = 0
        self._lock = threading.Lock()

    def answer(self, request: bytes, context: Any) -> bytes:
        with self._lock:
            self.answered += 1
        return bytes(int(request))

    def count(self, requests: Iterator[bytes], context: Any) -> bytes:
        return b"%d" % sum(map(len, requests))

    def keep(self, requests: Iterator[bytes], context: Any) -> bytes:
        kept = b""
        for request in requests:
            kept = request
        return kept[:1]

    def register(self, server: Any) -> None:
        handlers = {
            "Answer": grpc.unary_unary_rpc_method_handler(self.answer),
            "Count": grpc.stream_unary_rpc_method_handler(self.count),
            "Keep": grpc.stream_unary_rpc_method_handler(self.keep),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


async def call_honestly(node: Node, tls: TLSConfig) -> None:
    async with open_channel(tls, "a", node.address) as channel:
        # Of the address of who floods, a node may accept one connection a second.
        answer: Any = channel.unary_unary("/t/Answer")
        assert await answer(b"3", timeout=WAIT, wait_for_ready=True) == bytes(3)


@both
async def test_a_call_counts_as_open_until_its_answer_is_sent(
    start_victim: StartVictim, mallory: MakeMallory, identity: MakeIdentity, until: Until
) -> None:
    service = Service()
    node = await start_victim(registrars=[service.register], max_calls_per_caller=10)
    attacker = mallory(node)

    def call_many() -> Any:
        connection = attacker.connect()
        connection.send(NO_WINDOW)
        for _ in range(10):
            connection.call("/t/Answer", b"500")
        return connection

    await asyncio.to_thread(call_many)
    await until(lambda: service.answered == 10)
    second = await asyncio.to_thread(call_many)
    assert await asyncio.to_thread(statuses, second, 10) == [EXHAUSTED] * 10
    await call_honestly(node, identity("honest"))
    assert service.answered == 10 + 1

    def read() -> list[int]:
        first = attacker.connections[0]
        first.send(SOME_WINDOW)
        return statuses(first, 10)

    assert await asyncio.to_thread(read) == [0] * 10
    await call_honestly(node, identity("mallory"))
    callers = node.server._checks.callers
    await until(lambda: len(callers) == 1 and repr(callers) == "<CallerLimits 0 open, blocked=[]>")


@both
async def test_requests_of_a_caller_that_reads_no_answers_wait(
    start_victim: StartVictim,
    mallory: MakeMallory,
    identity: MakeIdentity,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_core._server.held.unsent_answers.MAX_UNSENT", 200_000)
    service = Service()
    node = await start_victim(registrars=[service.register])
    answers = node.server._checks.answers
    connection = mallory(node).connect()

    connection.send(NO_WINDOW)
    for _ in range(4):
        connection.call("/t/Answer", b"50000")
    await until(lambda: answers.full == {"mallory"})
    for _ in range(36):
        connection.call("/t/Answer", b"50000")
    await until(lambda: len(node.server._checks.reads) == 36)
    await call_honestly(node, identity("honest"))
    assert service.answered == 4 + 1

    def read() -> list[int]:
        connection.send(SOME_WINDOW)
        return statuses(connection, 40)

    assert await asyncio.to_thread(read) == [0] * 40
    await until(lambda: repr(answers) == "<UnsentAnswers 0 bytes, full=[]>")


@both
async def test_who_reads_no_answers_and_goes_on_to_call_is_refused_on_its_next_connection(
    start_victim: StartVictim,
    mallory: MakeMallory,
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_core._server.held.unsent_answers.MAX_UNSENT", 200_000)
    service = Service()
    node = await start_victim(registrars=[service.register], max_calls_per_caller=12)
    answers = node.server._checks.answers
    first = mallory(node).connect()

    first.send(NO_WINDOW)
    for _ in range(4):
        first.call("/t/Answer", b"50000")
    await until(lambda: answers.full == {"mallory"})
    with suppress(OSError):  # the eleventh call is one too many
        for _ in range(7):
            first.call("/t/Answer", b"50000")
    await until(lambda: node.stats().calls.closed_connections == 1)
    await until(lambda: not answers.full)

    def call_again() -> list[int]:
        second = mallory(node).connect()
        second.call("/t/Answer", b"3")
        return statuses(second, 1)

    assert await asyncio.to_thread(call_again) == [EXHAUSTED]
    await call_honestly(node, identity("honest"))
    assert service.answered <= 4 + 6 + 1
    assert len(logged("mallory reads no answers and goes on to call")) == 1


@both
async def test_who_ends_no_requests_and_goes_on_to_call_is_refused_on_its_next_connection(
    start_victim: StartVictim,
    mallory: MakeMallory,
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
) -> None:
    service = Service()
    node = await start_victim(registrars=[service.register], max_calls_per_caller=12)
    attacker = mallory(node)

    def open_many() -> None:
        with suppress(OSError):  # the node closes the connection
            for _ in range(12 + UNJUDGED + 1):
                attacker.connections[-1].open("/t/Answer")

    def call_again() -> list[int]:
        second = attacker.connect()
        second.call("/t/Answer", b"3")
        return statuses(second, 1)

    first = attacker.connect()
    for _ in range(6):
        first.open("/t/Answer")
    await until(lambda: len(node.server._checks.reads) >= 6 - UNJUDGED)
    attacker.connect()
    await asyncio.to_thread(open_many)
    await until(lambda: node.stats().calls.closed_connections == 2)
    await until(lambda: len(node.server._checks.reads) == 0)  # on the first one too
    assert await asyncio.to_thread(call_again) == [EXHAUSTED]
    await call_honestly(node, identity("honest"))
    assert len(logged("mallory ends no requests and goes on to call")) == 1


class Sender:
    """Sends parts of messages on many streams, as fast as the node lets it.

    Args:
        connection: A raw connection.
        path: The method.
        streams: How many.
        size: The bytes of each message.
        sent: How many of them are sent.
    """

    def __init__(self, connection: Any, path: str, streams: int, size: int, sent: int) -> None:
        self._connection = connection
        self.codes: list[int] = []
        self._part = (b"\0" + size.to_bytes(4, "big")).ljust(8_000, b"x")
        self._left = {connection.open(path): sent for _ in range(streams)}
        self._windows = dict.fromkeys(self._left, 16_384)

    def run(self, ended: int) -> list[int]:
        """Sends until so many streams have ended; returns their status codes."""
        found: list[int] = []
        while len(found) < ended:
            self._send()
            for got in self._connection.receive():
                if got.kind == frames.WINDOW_UPDATE and got.stream in self._windows:
                    self._windows[got.stream] += int.from_bytes(got.payload, "big")
                if got.ends_stream:
                    self._left.pop(got.stream, None)
                    found.append(int(got.payload.split(b"grpc-status")[1][1:2]))
        return found

    def _send(self) -> None:
        for stream, left in self._left.items():
            while (
                left > 0
                and self._windows[stream] >= len(self._part)
                and self._connection.window >= len(self._part)
            ):
                self._connection.send(frames.frame(frames.DATA, stream, self._part))
                self._connection.window -= len(self._part)
                self._windows[stream] -= len(self._part)
                left -= len(self._part)
            self._left[stream] = left


@pytest.mark.parametrize(
    ("server", "path"),
    [
        ("aio", "/t/Count"),
        ("blocking", "/t/Count"),
        ("public", "/t/Count"),
        ("public", "/t/Answer"),  # the others read these in turn
    ],
    indirect=["server"],
)
async def test_calls_with_parts_of_messages_are_ended_before_they_hold_much(
    start_victim: StartVictim,
    mallory: MakeMallory,
    identity: MakeIdentity,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setattr("aegis_core._server.held.unfinished_messages.MAX_UNFINISHED", 7 * MIB)
    service = Service()
    node = await start_victim(registrars=[service.register], max_workers=60)
    connection = mallory(node).connect()

    def send() -> list[int]:
        return Sender(connection, path, 40, MIB, 250_000).run(40 - FEW)

    assert await asyncio.to_thread(send) == [EXHAUSTED] * (40 - FEW)
    assert len(logged("mallory sends parts of messages in many calls")) == 1
    assert node.stats().calls.over_limit == 40 - FEW
    await call_honestly(node, identity("honest"))

    def open_more() -> list[int]:
        for _ in range(10):
            connection.open(path)
        return statuses(connection, 10)

    assert await asyncio.to_thread(open_more) == [EXHAUSTED] * 10, "for a while"
    connection.close()


@both
async def test_calls_whose_handlers_keep_much_are_ended_and_others_go_on(
    start_victim: StartVictim,
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_core._server.held.unfinished_messages.MAX_UNFINISHED", 7 * MIB)
    node = await start_victim(registrars=[Service().register], max_workers=60)
    async with open_channel(identity("mallory"), "a", node.address) as channel:
        keep: Any = channel.stream_unary("/t/Keep")
        calls = [keep(timeout=WAIT) for _ in range(25)]
        for call in calls:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(bytes(800_000))
        await until(lambda: any(call.done() for call in calls))
        codes = {await call.code() for call in calls if call.done()}
        going_on = [call for call in calls if not call.done()]
        # Where the end meets a write of its own, gRPC's client says INTERNAL.
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
        assert len(going_on) >= 12 * MIB // 2 // 800_000, "half of what handlers may keep"
        assert len(logged("mallory has much in the messages of few calls")) == 1
        for call in going_on:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.done_writing()
        await until(lambda: all(call.done() for call in going_on))
        codes = {await call.code() for call in going_on}
        assert grpc.StatusCode.OK in codes
        assert await keep(iter([b"x"]), timeout=WAIT) == b"x", "it is not refused"
    await call_honestly(node, identity("honest"))


@both
async def test_parts_of_requests_on_several_connections_count_together(
    start_victim: StartVictim,
    mallory: MakeMallory,
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_core._server.held.unfinished_messages.MAX_UNFINISHED", 5 * MIB)
    monkeypatch.setattr("aegis_core._server.held.unfinished_messages.UNJUDGED", 0)  # 8 MiB more
    service = Service()
    node = await start_victim(registrars=[service.register])
    attacker = mallory(node)
    connections = [attacker.connect() for _ in range(4)]
    checks = node.server._checks

    def waiting() -> int:
        return len(checks.reads) + checks.unfinished.unjudged()

    # While an asyncio node waits for the requests of two calls, it judges all others at once.
    first = attacker.connect()
    for _ in range(2):
        first.open("/t/Answer")
    await until(lambda: waiting() == 2)
    before = checks.unfinished.unjudged()
    if not before:  # a blocking node always does, and reads no more than these otherwise
        first.close()
        await until(lambda: waiting() == 0)
    senders = [Sender(one, "/t/Answer", 5, 4 * MIB - 64, 3 * MIB) for one in connections]
    await until(lambda: waiting() == before + 5 * len(senders))  # later ones would be refused

    def send(sender: Sender) -> None:
        with suppress(OSError):  # the node closes all of them
            sender.run(5)

    await asyncio.gather(*(asyncio.to_thread(send, sender) for sender in senders))
    # None holds 5 MiB alone. What arrives on one of them after that is refused.
    await until(lambda: node.stats().calls.closed_connections >= 2)
    await until(lambda: len(logged("mallory sends parts of messages in many calls")) == 1)

    def call_again() -> list[int]:
        again = attacker.connect()
        again.call("/t/Answer", b"3")
        return statuses(again, 1)

    assert await asyncio.to_thread(call_again) == [EXHAUSTED]
    await call_honestly(node, identity("honest"))


@both
async def test_the_thread_that_a_call_reaches_looks_where_the_one_that_watches_is_late(
    start_victim: StartVictim,
    mallory: MakeMallory,
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_core._server.held.unfinished_messages.MAX_UNFINISHED", 7 * MIB)
    monkeypatch.setattr("aegis_core._server.held.unfinished_messages.LOOK_EVERY", 10 * WAIT)
    node = await start_victim(registrars=[Service().register], max_workers=60)
    attacker = mallory(node)
    connections = [attacker.connect() for _ in range(FEW_CONNECTIONS + 1)]
    for connection in connections:
        connection.open("/t/Count")
    # With fewer connections, the calls would be ended and no connection closed.
    await until(lambda: len(node.server._checks.unfinished) == len(connections))

    def send(connection: Any) -> None:
        with suppress(OSError):  # the node closes all of them
            Sender(connection, "/t/Count", 3, 4 * MIB - 64, MIB).run(3)

    def call_and_look() -> bool:
        with suppress(OSError):
            connections[0].open("/t/Count")
        return bool(node.stats().calls.closed_connections > FEW_CONNECTIONS)

    sent = asyncio.gather(*(asyncio.to_thread(send, connection) for connection in connections[1:]))
    await until(call_and_look)
    await sent
    await until(lambda: len(logged("mallory sends parts of messages in many calls")) == 1)
    await call_honestly(node, identity("honest"))


@both
async def test_requests_of_the_nodes_own_methods_are_parsed_up_to_a_limit(
    start_victim: StartVictim, identity: MakeIdentity, logged: Callable[..., list[str]]
) -> None:
    node = await start_victim()
    service = mesh_pb2.Service()
    request = mesh_pb2.WatchRequest(services=[service] * 40_000).SerializeToString()
    async with open_channel(identity("mallory"), "a", node.address) as channel:
        watch: Any = channel.unary_stream("/aegis.mesh.v1.Mesh/Watch")
        ping: Any = channel.unary_unary("/aegis.MeshService/Ping")
        for call in (watch(request, timeout=WAIT).read(), ping(request, timeout=WAIT)):
            with pytest.raises(grpc.aio.AioRpcError, match="80000 bytes, the limit is 65536"):
                await call
    assert len(logged("the request has 80000 bytes, the limit is 65536")) == 1, "once a minute"


@both
async def test_large_requests_of_an_honest_caller_on_several_connections_are_answered(
    start_victim: StartVictim, identity: MakeIdentity
) -> None:
    service = Service()
    node = await start_victim(registrars=[service.register])
    request = b"3".rjust(2 * MIB)

    async def call() -> list[bytes]:
        async with open_channel(identity("honest"), "a", node.address) as channel:
            answer = channel.unary_unary("/t/Answer")
            return await asyncio.gather(*(answer(request, timeout=WAIT) for _ in range(8)))

    assert await asyncio.gather(*(call() for _ in range(3))) == [[bytes(3)] * 8] * 3
    assert node.stats().calls.over_limit == 0
    assert len(node.server._checks.reads) == 0


@both
async def test_who_goes_on_with_streams_that_are_refused_loses_its_connection(
    start_victim: StartVictim,
    mallory: MakeMallory,
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_core._server.held.unfinished_messages.MAX_UNFINISHED", 7 * MIB)
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_AT_ONCE", 20.0)
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_PER_SECOND", 1.0)
    service = Service()
    node = await start_victim(registrars=[service.register], max_workers=60)
    attacker = mallory(node)

    def send() -> None:
        with suppress(OSError):  # the node may close the connection, if it looks late
            Sender(attacker.connect(), "/t/Count", 40, MIB, 900_000).run(40 - FEW)

    def go_on() -> None:
        with suppress(OSError):
            second = attacker.connect()
            for _ in range(30):
                second.open("/t/Count")

    await asyncio.to_thread(send)
    await asyncio.to_thread(go_on)
    await until(lambda: node.stats().calls.closed_connections >= 1)
    await until(lambda: len(logged("mallory cancels more than")) == 1)
    await call_honestly(node, identity("honest"))


@all_three
async def test_uploads_of_an_honest_caller_are_not_ended(
    start_victim: StartVictim,
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
) -> None:
    service = Service()
    node = await start_victim(registrars=[service.register], max_workers=100)

    async def upload(channel: grpc.aio.Channel) -> bytes:
        async def messages() -> AsyncIterator[bytes]:
            for _ in range(4):
                yield bytes(1 << 16)

        count: bytes = await channel.stream_unary("/t/Count")(messages(), timeout=WAIT)
        return count

    async with open_channel(identity("honest"), "a", node.address) as channel:
        assert await asyncio.gather(*(upload(channel) for _ in range(100))) == [b"262144"] * 100
    assert node.stats().calls.over_limit == 0
    assert logged("honest sends parts") == []
    await until(lambda: len(node.server._checks.unfinished) == 0)
