"""One caller opens, resets and holds what it can, over raw HTTP/2, at both kinds of servers."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_core import CallRule, Policy
from aegis_core._node.options import MAX_STREAMS
from aegis_core._server.admission import MANY
from aegis_core._server.caller_limits import MAX_CALLS
from aegis_core._server.connection_guard import QUEUE
from aegis_core._server.held.request_reads import MAX_READS
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.transport import SHED_METADATA

from .raw_frames import frames

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
WAIT = 20.0
PING = "/aegis.MeshService/Ping"
UNJUDGED = MANY
"""Calls that an asyncio node does not judge before their requests arrive."""

both = pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
all_three = pytest.mark.parametrize("server", ["aio", "blocking", "public"], indirect=True)


def echo(request: bytes, context: Any) -> bytes:
    return request


def stay(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait(WAIT)
    yield b""


def register(server: Any) -> None:
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stay": grpc.stream_stream_rpc_method_handler(stay),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


StartVictim = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start_victim(identity: MakeIdentity, server: str) -> AsyncIterator[StartVictim]:
    nodes: list[Node] = []

    async def start(**options: Any) -> Node:
        chosen = {"registrars": [register], "grace": 0, "max_workers": 40, **options}
        nodes.append(Node("a", address="127.0.0.1:0", tls=identity("a"), **chosen))
        await nodes[0].start()
        return nodes[0]

    yield start
    await nodes[0].stop()


class Mallory:
    """A caller with raw connections."""

    def __init__(self, tls: TLSConfig, address: str) -> None:
        self._context = frames.client_context(tls)
        self._address = address
        self.connections: list[Any] = []

    def connect(self) -> Any:
        connection = frames.Connection(self._address, "a", self._context, timeout=WAIT)
        self.connections.append(connection)
        return connection

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        self.connections.clear()

    def closed(self) -> int:
        """Returns how many connections the node has closed."""
        count = 0
        for connection in self.connections:
            connection.socket.settimeout(0.01)
            try:
                while True:
                    for _ in connection.receive():
                        pass
            except TimeoutError:
                pass
            except OSError:
                count += 1
        return count


@pytest.fixture
def mallory(identity: MakeIdentity) -> Iterator[Callable[[Node], Mallory]]:
    with ExitStack() as stack:

        def make(node: Node) -> Mallory:
            made = Mallory(identity("mallory"), node.address)
            stack.callback(made.close)
            return made

        yield make


def statuses(connection: Any, count: int) -> list[int]:
    """Reads until so many calls have ended; returns their status codes."""
    found: list[int] = []
    while len(found) < count:
        for got in connection.receive():
            if got.ends_stream:
                code = re.search(rb"grpc-status.(\d+)", got.payload)
                assert code is not None, got
                found.append(int(code[1]))
    return found


async def call_honestly(node: Node, tls: TLSConfig) -> None:
    async with open_channel(tls, "a", node.address) as channel:
        assert await channel.unary_unary("/t/Echo")(b"hi", timeout=WAIT) == b"hi"


def reset_calls(connection: Any, path: str, request: bytes = b"") -> None:
    """Begins and resets calls until the node closes the connection.

    Args:
        connection: A raw connection.
        path: The method.
        request: The request of each call; none by default.
    """
    block = frames.request_headers(path, "a")
    with suppress(OSError):
        for _ in range(100_000):
            batch = b""
            for _ in range(20):
                stream = connection.next_stream()
                batch += frames.frame(frames.HEADERS, stream, block, frames.END_HEADERS)
                if request:
                    data = frames.message(request)
                    batch += frames.frame(frames.DATA, stream, data, frames.END_STREAM)
                batch += frames.frame(frames.RST_STREAM, stream, b"\0\0\0\x08")
            connection.send(batch)
        pytest.fail("the node let the caller reset 2 000 000 calls")


@all_three
@pytest.mark.parametrize(
    ("path", "request_"),
    [("/t/Echo", b""), ("/t/Echo", b"x"), ("/t/Stay", b""), ("/t/Unknown", b""), (PING, b"")],
)
async def test_a_caller_that_resets_its_calls_is_named_and_loses_its_connection(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    request_: bytes,
) -> None:
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_AT_ONCE", 100.0)
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_PER_SECOND", 50.0)
    node = await start_victim()
    connection = mallory(node).connect()
    await asyncio.to_thread(reset_calls, connection, path, request_)
    await call_honestly(node, identity("honest"))
    assert len(logged("mallory cancels more than", "10 s its calls are refused")) == 1
    if not request_:  # gRPC itself may be faster where there are answers that nobody reads
        await until(lambda: node.stats().calls.closed_connections)
    assert logged("Traceback") == []


@both
@pytest.mark.parametrize("denied", [False, True])
async def test_a_caller_without_any_right_that_resets_its_calls_is_named_too(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    denied: bool,
) -> None:
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_AT_ONCE", 100.0)
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_PER_SECOND", 50.0)
    rules = [CallRule(ids=["honest"], services=["t"])]
    node = await start_victim(policy=Policy(call=rules) if denied else None)
    await asyncio.to_thread(reset_calls, mallory(node).connect(), "/t/Echo")
    await call_honestly(node, identity("honest"))
    assert len(logged("mallory cancels more than")) == 1


@both
async def test_who_holds_a_token_and_resets_its_calls_is_named_too(
    start_victim: StartVictim,
    ca: CertificateAuthority,
    identity: MakeIdentity,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its certificate names no node, and it may call one method at most."""
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_AT_ONCE", 100.0)
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_PER_SECOND", 50.0)
    node = await start_victim()
    thief = Mallory(ca.create_token("fresh", ttl=timedelta(minutes=5)).tls(), node.address)
    await asyncio.to_thread(reset_calls, thief.connect(), "/t/Echo")
    thief.close()
    await call_honestly(node, identity("honest"))
    assert len(logged("enroll/fresh cancels more than")) == 1


@both
async def test_the_open_calls_of_a_caller_are_limited_over_all_its_connections(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
) -> None:
    node = await start_victim(max_calls_per_caller=20)
    attacker = mallory(node)

    refused = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]

    def open_many() -> list[int]:
        connections = [attacker.connect() for _ in range(2)]
        for number in range(20):
            connections[number // 10].open("/t/Stay")
        return []

    def open_more() -> list[int]:
        connections = [attacker.connect() for _ in range(2)]
        for number in range(20):
            connections[number // 10].open("/t/Stay")
        return [code for connection in connections for code in statuses(connection, 10)]

    await asyncio.to_thread(open_many)
    await until(lambda: node.stats().calls.running == 20)
    assert await asyncio.to_thread(open_more) == [refused] * 20
    assert node.stats().calls.over_limit == 20
    assert len(logged("mallory has too many calls open")) == 1
    await call_honestly(node, identity("honest"))
    attacker.close()
    await until(lambda: node.stats().calls.running == 0)
    await call_honestly(node, identity("mallory"))


@both
async def test_a_connection_may_have_as_many_calls_open_as_its_caller(
    start_victim: StartVictim, mallory: Callable[[Node], Mallory]
) -> None:
    node = await start_victim()

    def announced() -> int:
        connection = mallory(node).connect()
        connection.call("/t/Echo", b"hi")
        statuses(connection, 1)
        return int(connection.max_streams)

    assert await asyncio.to_thread(announced) == MAX_CALLS == MAX_STREAMS


@both
async def test_of_many_calls_without_a_request_none_stays_open_that_is_not_allowed(
    start_victim: StartVictim, mallory: Callable[[Node], Mallory], server: str
) -> None:
    node = await start_victim(policy=Policy(call=[CallRule(ids=["honest"], services=["t"])]))
    connection = mallory(node).connect()

    judged = 60 if server == "blocking" else 60 - UNJUDGED

    def open_many() -> list[int]:
        for _ in range(60):
            connection.open("/t/Echo")
        return list(statuses(connection, judged))

    found = await asyncio.to_thread(open_many)
    assert found == [grpc.StatusCode.PERMISSION_DENIED.value[0]] * judged


@both
async def test_calls_whose_request_does_not_arrive_are_ended(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_core._server.rejections.REQUEST_TIMEOUT", 0.1)
    monkeypatch.setattr("aegis_core._server.call_checks.REVALIDATION_INTERVAL", 0.1)
    node = await start_victim()
    connection = mallory(node).connect()
    judged = 30 if server == "blocking" else 30 - 2 * UNJUDGED

    def open_many() -> list[int]:
        for path in ("/t/Echo", PING):
            for _ in range(15):
                connection.open(path)
        return statuses(connection, judged)

    found = await asyncio.to_thread(open_many)
    assert found == [grpc.StatusCode.UNAVAILABLE.value[0]] * judged


@both
@pytest.mark.parametrize("limit", ["rejections.REQUEST_TIMEOUT", "held.request_reads.TURN"])
async def test_a_call_that_ends_before_its_request_may_be_made_at_another_provider(
    start_victim: StartVictim, identity: MakeIdentity, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(f"aegis_core._server.{limit}", 0.1)
    monkeypatch.setattr("aegis_core._server.call_checks.REVALIDATION_INTERVAL", 0.1)
    node = await start_victim()

    async def no_request() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with open_channel(identity("caller"), "a", node.address) as channel:
        method: Any = channel.stream_unary("/t/Echo")
        calls = [method(no_request(), timeout=WAIT) for _ in range(UNJUDGED + MAX_READS + 1)]
        tasks = {asyncio.ensure_future(call.code()): call for call in calls}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            assert task.result() is grpc.StatusCode.UNAVAILABLE
            assert SHED_METADATA in [*await tasks[task].trailing_metadata()]
        for call in calls:
            call.cancel()


@both
async def test_of_the_unfinished_requests_of_a_caller_only_a_few_are_read(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    until: Until,
) -> None:
    node = await start_victim()
    connection = mallory(node).connect()
    block = frames.request_headers("/t/Echo", "a")
    part = (b"\0" + (1 << 20).to_bytes(4, "big")).ljust(1_000, b"x")
    read: set[int] = set()
    """Streams whose requests the node reads: it lets them send more than was allowed at first."""

    def begin_many() -> None:
        for _ in range(40):
            stream = connection.next_stream()
            connection.send(
                frames.frame(frames.HEADERS, stream, block, frames.END_HEADERS)
                + frames.frame(frames.DATA, stream, part)
            )
        while not read:
            note_read()

    def answer_ping() -> None:
        connection.send(frames.frame(frames.PING, 0, b"12345678"))
        while not note_read():
            pass

    def note_read() -> bool:
        """Reads frames; returns whether a PING was answered."""
        found = list(connection.receive())
        read.update(f.stream for f in found if f.kind == frames.WINDOW_UPDATE and f.stream)
        return any(f.kind == frames.PING and f.flags & frames.ACK for f in found)

    await asyncio.to_thread(begin_many)
    await call_honestly(node, identity("honest"))
    await asyncio.to_thread(answer_ping)
    assert 1 <= len(read) <= MAX_READS + UNJUDGED

    def finish() -> list[int]:
        last = connection.call("/t/Echo", b"small")
        reset = b"".join(
            frames.frame(frames.RST_STREAM, stream, b"\0\0\0\x08") for stream in range(1, last, 2)
        )
        connection.send(reset)
        return statuses(connection, 1)

    assert await asyncio.to_thread(finish) == [0], "the others have made room"
    await until(lambda: len(node.server._checks.reads) == 0)


@both
async def test_a_call_with_megabytes_of_headers_costs_its_caller_the_connection(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
) -> None:
    node = await start_victim()
    connection = mallory(node).connect()
    stream = connection.next_stream()
    # A header of 4 000 bytes that is sent once and named 500 times, each time in another frame.
    known = frames.request_headers("/t/Echo", "a") + frames.indexed_header(b"x-a", b"v" * 4000)
    more = frames.frame(frames.CONTINUATION, stream, frames.NEWEST_HEADER) * 500
    end = frames.frame(frames.CONTINUATION, stream, b"", frames.END_HEADERS)
    request = frames.frame(frames.DATA, stream, frames.message(b""), frames.END_STREAM)
    connection.send(frames.frame(frames.HEADERS, stream, known) + more + end + request)
    with pytest.raises(OSError, match=r"reset|closed|broken|unknown error|EOF"):
        await asyncio.to_thread(statuses, connection, 2)
    await until(lambda: node.stats().calls.closed_connections == 1)
    line = "mallory sends calls with more than 8192 bytes of metadata"
    await until(lambda: len(logged(line)) == 1)
    await call_honestly(node, identity("honest"))


@both
@pytest.mark.parametrize("count", [150, 450], ids=["that gRPC takes", "that gRPC refuses"])
async def test_many_short_headers_are_refused_and_write_one_line(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    capfd: pytest.CaptureFixture[str],
    count: int,
) -> None:
    node = await start_victim()
    connection = mallory(node).connect()
    connection.call("/t/Echo", b"")
    assert await asyncio.to_thread(statuses, connection, 1) == [0], "it knows the settings"
    # 34 bytes each as HTTP/2 counts, and some 250 of the node.
    short = b"".join(b"\x00\x01%c\x01y" % (ord("a") + number % 26) for number in range(count))
    stream = connection.next_stream()
    block = frames.request_headers("/t/Echo", "a") + short
    request = frames.frame(frames.DATA, stream, frames.message(b""), frames.END_STREAM)
    connection.send(frames.frame(frames.HEADERS, stream, block, frames.END_HEADERS) + request)
    with pytest.raises(OSError, match=r"reset|closed|broken|unknown error|EOF"):
        await asyncio.to_thread(statuses, connection, 2)
    await until(lambda: len(logged("mallory sends calls with more than 8192 bytes")) == 1)
    await call_honestly(node, identity("honest"))
    assert capfd.readouterr().err == "", "the core of gRPC writes without a limit"


def lower(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    """Lets a node look at its connections from five on, and allow fewer of them."""
    for name, limit in {"FEW": 5, **limits}.items():
        monkeypatch.setattr(f"aegis_core._server.connection_limits.{name}", limit)
    monkeypatch.setattr("aegis_core._server.connection_guard.LOOK_AFTER", 1)


@both
async def test_of_connections_without_a_call_only_the_newest_stay_open(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lower(monkeypatch, MAX_SILENT=10)
    node = await start_victim()
    async with open_channel(identity("honest"), "a", node.address) as channel:
        call = channel.unary_unary("/t/Echo")
        assert await call(b"hi", timeout=WAIT) == b"hi"
        attacker = mallory(node)

        def connect_many() -> None:
            for _ in range(40):
                attacker.connect()

        await asyncio.to_thread(connect_many)
        # Of a few it could not tell whether they had calls before.
        await until(lambda: node.stats().calls.closed_connections >= 40 - 10 - 8)
        assert await call(b"hi", timeout=WAIT) == b"hi", "the connection is as it was"
    await call_honestly(node, identity("honest"))
    assert len(logged("127.0.0.1 holds too many connections")) == 1
    assert node.stats().calls.closed_connections >= 40 - 10 - 8


@pytest.mark.skipif(shutil.which("ss") is None, reason="ss of iproute2 tells the length")
@both
async def test_the_system_accepts_only_few_connections_before_the_node_does(
    start_victim: StartVictim, until: Until
) -> None:
    node = await start_victim()
    port = node.address.rpartition(":")[2]

    def lengths() -> list[int]:
        """Returns how many may wait on each listening socket."""
        command = ["ss", "-Hltn", f"sport = :{port}"]
        listing = subprocess.run(command, capture_output=True, text=True, check=True)
        return [int(line.split()[2]) for line in listing.stdout.splitlines()]

    await until(lambda: set(lengths()) == {QUEUE})


@both
async def test_the_connections_of_one_caller_are_limited(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lower(monkeypatch, MAX_CONNECTIONS=10)
    node = await start_victim()
    async with open_channel(identity("honest"), "a", node.address) as channel:
        call = channel.unary_unary("/t/Echo")
        attacker = mallory(node)

        def connect_many() -> None:
            for _ in range(40):
                with suppress(OSError):
                    connection = attacker.connect()
                    connection.call("/t/Echo", b"")
                    statuses(connection, 1)

        await asyncio.to_thread(connect_many)
        await until(lambda: node.stats().calls.closed_connections >= 40 - 10 - 8)
        assert await call(b"hi", timeout=WAIT) == b"hi"
    assert len(logged("mallory holds too many connections")) == 1


@both
async def test_connections_without_a_call_are_their_callers_once_handshakes_are_over(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    until: Until,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lower(monkeypatch, MAX_CONNECTIONS=10, FEW_UNKNOWN=2)
    node = await start_victim()
    async with open_channel(identity("honest"), "a", node.address) as channel:
        call = channel.unary_unary("/t/Echo")
        assert await call(b"hi", timeout=WAIT) == b"hi"
        attacker = mallory(node)

        def connect_many() -> None:
            for _ in range(40):
                with suppress(OSError):
                    attacker.connect().await_settings()

        await asyncio.to_thread(connect_many)
        # Those, too, that were opened while there were few.
        await until(lambda: node.stats().calls.closed_connections >= 40 - 10 - 2)
        assert await call(b"hi", timeout=WAIT) == b"hi", "the connection is as it was"
    assert len(logged("mallory holds too many connections")) == 1
    assert logged("127.0.0.1 holds too many connections") == []


@both
async def test_a_resumed_tls_session_does_not_outlive_a_revocation(
    server: str, tmp_path: Path, logged: Callable[..., list[str]]
) -> None:
    ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    ca.issue("a", key_type=KeyType.P256)
    context = frames.client_context(ca.issue("holder", key_type=KeyType.P256))
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED.value[0]
    options: dict[str, Any] = {"cert_dir": tmp_path, "registrars": [register], "grace": 0}
    async with Node("a", address="127.0.0.1:0", **options) as node:

        def call(session: Any) -> tuple[Any, bool, int]:
            connection = frames.Connection(
                node.address, "a", context, timeout=WAIT, session=session
            )
            with connection:
                connection.call("/t/Echo", b"x")
                (code,) = statuses(connection, 1)
                return connection.socket.session, connection.socket.session_reused, code

        session, was_resumed, code = await asyncio.to_thread(call, None)
        assert (was_resumed, code) == (False, 0)
        ca.revoke("holder")
        async with asyncio.timeout(WAIT):
            while code != unauthenticated:
                _, was_resumed, code = await asyncio.to_thread(call, session)
                assert was_resumed
                await asyncio.sleep(0.05)  # the node looks at its directory now and then
        for _ in range(3):
            await asyncio.to_thread(call, session)
    assert len(logged("calls are refused", "holder", "revoked")) == 1, "once a minute"


@both
async def test_a_list_of_revocations_that_has_expired_still_counts(
    server: str, tmp_path: Path, logged: Callable[..., list[str]]
) -> None:
    before = datetime.now(UTC) - timedelta(days=40)
    ca = CertificateAuthority.create(tmp_path / "ca", key_type=KeyType.P256, at=before)
    ca.issue("a", key_type=KeyType.P256, at=before)
    revoked, honest = (ca.issue(n, key_type=KeyType.P256, at=before) for n in ("r", "h"))
    ca.revoke("r", at=before)
    directory = tmp_path / "a"
    directory.mkdir(0o700)
    for name in ("ca-cert.pem", "a-cert.pem", "a-key.pem", "crl.pem"):  # no key of the CA
        shutil.copy(ca.directory / name, directory / name)
    options: dict[str, Any] = {"cert_dir": directory, "registrars": [register], "grace": 0}
    async with Node("a", address="127.0.0.1:0", **options) as node:
        await call_honestly(node, honest)
        with pytest.raises(grpc.aio.AioRpcError, match="is revoked"):
            await call_honestly(node, revoked)
    assert len(logged("the revocation list in", "should have been replaced by")) == 1


@both
async def test_500_streams_of_an_honest_caller_are_open_at_once(
    start_victim: StartVictim, identity: MakeIdentity, until: Until
) -> None:
    node = await start_victim(max_workers=500)
    async with open_channel(identity("honest"), "a", node.address) as channel:
        calls = [channel.stream_stream("/t/Stay")(timeout=WAIT) for _ in range(500)]
        await until(lambda: node.stats().calls.running == 500)
        assert await channel.unary_unary(PING)(b"", timeout=WAIT) is not None
        for call in calls:
            call.cancel()
    assert node.stats().calls.over_limit == 0
