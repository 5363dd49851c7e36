"""Who has too many calls under way, by what gRPC counts of their connections."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, TLSConfig
from aegis_core._server.caller_limits import MAX_CALLS, CallerLimits
from aegis_core._server.caller_sockets import CallerSockets, parse_peer
from aegis_core._server.connection_limits import Peer
from aegis_core._server.held.channelz import ServerCounts
from aegis_core._server.held.flood_guard import (
    MANY,
    MANY_AFTER_FLOOD,
    NEW_AT_ONCE,
    NEW_PER_SECOND,
    NOTE_EVERY,
    SOME,
    FloodGuard,
)
from aegis_core._server.held.unseen_calls import (
    BESIDE,
    CALL,
    LEAST,
    MAX_FILLED,
    MAX_IF_BLOCKED,
    MAX_UNDER_WAY,
    MORE_AFTER_STALL,
    UNREAD,
    Flood,
    OpenConnection,
    UnseenCalls,
)

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
HOST = "127.0.0.1"
HALF = MAX_UNDER_WAY // 2
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is of Linux")


@pytest.fixture
def pems(ca: CertificateAuthority, identity: MakeIdentity) -> dict[str, bytes]:
    """Certificates of two members and a token, and something that is none."""
    token = ca.create_token("new", ttl=timedelta(minutes=5)).tls()
    found = {name: identity(name).certificate_chain for name in ("a", "b")}
    return found | {"enroll/new": token.certificate_chain, "ipv4:10.0.0.1": b"?"}


def connection(pem: bytes, calls: int, number: int = 1, failed: int = 0) -> OpenConnection:
    return OpenConnection(number, f"ipv4:10.0.0.1:{number}", pem, calls, failed)


@pytest.mark.parametrize("name", ["a", "enroll/new", "ipv4:10.0.0.1"])
def test_the_calls_of_a_caller_count_over_all_its_connections(
    pems: dict[str, bytes], name: str
) -> None:
    unseen = UnseenCalls()
    mine = [connection(pems[name], HALF, number=number) for number in (1, 2)]
    assert unseen.floods([*mine, connection(pems["b"], HALF, number=3)]) == []
    mine.append(connection(pems[name], 1, number=4))
    (flood,) = unseen.floods([*mine, connection(pems["b"], HALF, number=3)])
    assert flood == Flood(name, MAX_UNDER_WAY + 1, mine)


@pytest.mark.parametrize(
    ("calls", "arrived", "seen", "is_flood"),
    [
        (MAX_FILLED // 2, MAX_UNDER_WAY * UNREAD, 0, False),
        (MAX_FILLED // 2 + 1, MAX_UNDER_WAY * UNREAD, 0, True),
        (MAX_FILLED // 2 + 1, MAX_UNDER_WAY * UNREAD, 2, False),  # the node reads those in turn
        (MAX_UNDER_WAY, (MAX_FILLED - MAX_UNDER_WAY) * UNREAD, 0, False),
        (MAX_UNDER_WAY, (MAX_FILLED - MAX_UNDER_WAY + 1) * UNREAD, 0, True),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_an_unseen_call_whose_request_has_arrived_counts_twice(
    pems: dict[str, bytes], calls: int, arrived: int, seen: int, is_flood: bool, workers: int
) -> None:
    unseen = UnseenCalls(lambda _: workers, open_calls={"a": seen * workers})
    held = [connection(pems["a"], calls, number) for number in range(workers)]
    received = {one.peer: arrived for one in held}
    assert bool(unseen.floods(held, arrived=received)) == is_flood
    assert unseen.floods(held, arrived=received, has_stood_still=True) == []


def test_a_caller_with_workers_may_have_as_many_for_each(pems: dict[str, bytes]) -> None:
    unseen = UnseenCalls(workers_of={"a": 3}.__getitem__)
    assert unseen.floods([connection(pems["a"], 3 * MAX_UNDER_WAY)]) == []
    assert unseen.floods([connection(pems["a"], 3 * MAX_UNDER_WAY + 1)])


@pytest.mark.parametrize(
    ("workers", "held", "limit"),
    [
        (1, BESIDE, MAX_UNDER_WAY),
        (1, BESIDE + 100 * CALL, MAX_UNDER_WAY - 100),
        (1, 1 << 30, LEAST),
        (2, 2 * (BESIDE + 100 * CALL), 2 * (MAX_UNDER_WAY - 100)),
    ],
)
def test_who_holds_much_besides_may_have_fewer_calls_under_way(
    pems: dict[str, bytes], workers: int, held: int, limit: int
) -> None:
    unseen = UnseenCalls(lambda _: workers, held_by={"a": held}.__getitem__)
    assert unseen.floods([connection(pems["a"], limit)]) == []
    assert unseen.floods([connection(pems["a"], limit + workers)])


def test_a_caller_that_may_have_more_calls_open_may_have_more_under_way(
    pems: dict[str, bytes],
) -> None:
    unseen = UnseenCalls(max_calls=MAX_CALLS + 500)
    assert unseen.floods([connection(pems["a"], MAX_UNDER_WAY + 500)]) == []
    assert unseen.floods([connection(pems["a"], MAX_UNDER_WAY + 501)])
    assert UnseenCalls(max_calls=1).floods([connection(pems["a"], MAX_UNDER_WAY)]) == []


def test_calls_that_missed_their_deadlines_while_the_node_stood_still_are_no_flood(
    pems: dict[str, bytes],
) -> None:
    unseen, limit = UnseenCalls(), MAX_UNDER_WAY + MORE_AFTER_STALL
    assert unseen.floods([connection(pems["a"], limit)], has_stood_still=True) == []
    assert unseen.floods([connection(pems["a"], limit + 1)], has_stood_still=True)


def test_a_caller_whose_calls_are_refused_may_have_few(pems: dict[str, bytes]) -> None:
    unseen = UnseenCalls(is_blocked={"a": True, "b": False}.__getitem__)
    few, more = MAX_IF_BLOCKED, MAX_IF_BLOCKED + 1
    assert unseen.floods([connection(pems["a"], few), connection(pems["b"], more, number=2)]) == []
    assert [found.caller for found in unseen.floods([connection(pems["a"], more)])] == ["a"]
    cancelled = [connection(pems["a"], 1, failed=few), connection(pems["b"], 1, 2, failed=few)]
    assert [found.caller for found in unseen.floods(cancelled)] == ["a"], "what it cancels counts"


async def test_grpc_counts_calls_before_any_code_of_the_server_sees_them(
    identity: MakeIdentity, until: Until
) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def wait(details: grpc.HandlerCallDetails) -> None:
        busy.set()  # on the thread that sees the calls
        assert go_on.wait(20)

    server_tls, caller = identity("server"), identity("a")
    with ExitStack() as stack:
        server: Any = grpc.server(ThreadPoolExecutor(1))
        handler: Any = type("Handler", (grpc.GenericRpcHandler,), {"service": staticmethod(wait)})
        server.add_generic_rpc_handlers([handler()])
        keys = [(server_tls.private_key, server_tls.certificate_chain)]
        credentials = grpc.ssl_server_credentials(keys, server_tls.trust_bundle, True)
        port = server.add_secure_port(f"{HOST}:0", credentials)
        counts = ServerCounts(port)
        assert counts.started() is None, "without a connection, nothing tells which server it is"
        server.start()
        stack.callback(server.stop, None)
        stack.callback(go_on.set)
        keys_of_caller = caller.trust_bundle, caller.private_key, caller.certificate_chain
        options = [("grpc.ssl_target_name_override", "server")]
        channel: Any = stack.enter_context(
            grpc.secure_channel(
                f"{HOST}:{port}", grpc.ssl_channel_credentials(*keys_of_caller), options=options
            )
        )
        calls = [channel.unary_unary("/t/Echo").future(b"") for _ in range(30)]
        await until(lambda: busy.is_set() and counts.started() == 30)
        (found,) = counts.connections(set())
        assert found.open == 30
        assert UnseenCalls().caller_of(found) == "a"
        for call in calls[:10]:
            call.cancel()
        go_on.set()
        for call in calls[10:]:
            assert call.code() is grpc.StatusCode.UNIMPLEMENTED
        await until(lambda: [one.open for one in counts.connections(set())] == [0])
        gone = {found.number, 10**9}
        assert list(counts.connections(gone)) == []
        assert gone == {found.number}, "what gRPC has no more is forgotten"


@pytest.mark.parametrize("hosts", [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")])
def test_two_servers_at_one_port_of_different_addresses_are_told_apart(
    hosts: tuple[str, str],
) -> None:
    with ExitStack() as stack:
        ports, port = {}, 0
        for host in hosts:
            server: Any = grpc.server(ThreadPoolExecutor(1))
            port = ports[host] = server.add_insecure_port(f"{host}:{port}")
            server.start()
            stack.callback(server.stop, None)
        assert set(ports.values()) == {port}
        counts = {host: ServerCounts(port, host) for host in hosts}
        for host, calls in zip(hosts, (1, 2), strict=True):
            channel = stack.enter_context(grpc.insecure_channel(f"{host}:{port}"))
            for _ in range(calls):
                call = channel.unary_unary("/t/Echo").with_call
                with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                    call(b"", timeout=20)
            assert counts[host].started() == calls
            if host == hosts[0]:
                assert counts[hosts[1]].started() is None, "it has no connection yet"
        assert [counts[host].started() for host in hosts] == [1, 2]
        assert ServerCounts(port, "localhost").started() in {1, 2}, "a name may be any of them"


class Counts(ServerCounts):
    """What gRPC would count, by hand."""

    def __init__(self, found: list[OpenConnection]) -> None:
        self.found = found
        self.count = MANY + 1

    def started(self) -> int:
        return self.count

    def connections(self, gone: set[int]) -> Any:
        return iter([one for one in self.found if one.number not in gone])

    def connections_of(self, peers: Collection[Peer]) -> Any:
        return iter([one for one in self.found if parse_peer(one.peer) in peers])


@pytest.mark.parametrize(
    ("calls_per_second", "takes", "looks"), [(200, 0.01, 2), (2_000, 0.01, 20), (2_000, 0.0, 500)]
)
def test_looks_take_little_of_the_time(
    monkeypatch: pytest.MonkeyPatch, calls_per_second: int, takes: float, looks: int
) -> None:
    """Over ten seconds, with a look of 10 ms as one takes among 400 connections."""
    now = 100.0
    counts, looked = Counts([]), 0

    def started() -> int:
        nonlocal now, looked
        now += takes
        looked += 1
        return 0

    monkeypatch.setattr(counts, "started", started)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "thread_time", lambda: now)
    FloodGuard(unseen := UnseenCalls(), CallerLimits(), counts, CallerSockets(1))
    while now < 110.0:
        now += 16 / calls_per_second
        unseen.look()
    assert looks / 2 <= looked <= looks + 1


async def test_a_guard_looks_at_fewer_calls_while_somebody_is_refused(
    identity: MakeIdentity, until: Until
) -> None:
    unseen, limits = UnseenCalls(), CallerLimits()
    counts = Counts([connection(identity("a").certificate_chain, MANY_AFTER_FLOOD + 1)])
    counts.count = MANY_AFTER_FLOOD + 1
    guard = FloodGuard(unseen, limits, counts, CallerSockets(1))
    unseen.look()
    assert not guard._is_watching
    limits.block("a")

    def look() -> bool:
        unseen.look()
        return guard._is_crowded

    await until(look)
    counts.count = 0
    await until(lambda: not guard._is_crowded)


async def test_a_guard_that_gets_no_thread_tries_again(
    identity: MakeIdentity, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("aegis_core._server.held.flood_guard.LOOK_EVERY", 0.0)
    unseen, limits = UnseenCalls(), CallerLimits()
    counts = Counts([connection(identity("a").certificate_chain, MAX_UNDER_WAY + 1)])
    guard = FloodGuard(unseen, limits, counts, CallerSockets(1))
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", no_thread)
        unseen.look()
    assert not limits.is_blocked("a")

    def look() -> bool:
        unseen.look()
        return limits.is_blocked("a")

    await until(look)
    counts.count = 0
    await until(lambda: not guard._is_watching)


async def test_a_guard_knows_that_the_node_stood_still(
    identity: MakeIdentity, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._server.held.flood_guard.STOOD_STILL", 0.0)
    pem = identity("a").certificate_chain
    with socket.create_server((HOST, 0)) as server:
        unseen, limits = UnseenCalls(), CallerLimits()
        counts = Counts([connection(pem, MAX_UNDER_WAY + 1)])
        guard = FloodGuard(unseen, limits, counts, CallerSockets(server.getsockname()[1]))
        for turns in (1, 2):  # it still stands still, and it did so until now
            guard.note_turn()
            assert guard._close_floods() == 0
            assert not limits.is_blocked("a"), turns
        monkeypatch.setattr("aegis_core._server.held.flood_guard.STOOD_STILL", 60.0)
        guard._stall_counts_until = 0.0
        guard._close_floods()
        assert limits.is_blocked("a")


@linux_only
def test_what_arrived_lately_may_be_requests_of_unseen_calls(
    identity: MakeIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0)))
        counts, limits = Counts([]), CallerLimits()
        unseen, sockets = UnseenCalls(), CallerSockets(server.getsockname()[1])
        guard = FloodGuard(unseen, limits, counts, sockets)

        def connect() -> Callable[[], None]:
            one = stack.enter_context(socket.create_connection(server.getsockname()))
            accepted = stack.enter_context(server.accept()[0])

            def receive() -> None:  # as much as requests of all calls may be
                for _ in range(MAX_FILLED // 2):
                    one.sendall(bytes(UNREAD))
                    accepted.recv(UNREAD, socket.MSG_WAITALL)

            peer, number = f"ipv4:{HOST}:{one.getsockname()[1]}", len(counts.found)
            name = "ab"[number]
            pem = identity(name).certificate_chain
            counts.found.append(OpenConnection(number, peer, pem, MAX_FILLED // 2 + 1, 0))
            return receive

        def look(after: float) -> list[str]:
            nonlocal now
            now += after
            counts.count = 0
            unseen.look()
            guard._close_floods()
            return sorted(limits.blocked)

        connect()()
        assert look(1.0) == [], "it had been received before"
        receive = connect()
        assert look(1.0) == []
        receive()
        assert look(NOTE_EVERY) == ["b"]
        limits.blocked.clear()
        assert look(NOTE_EVERY) == [], "those requests would have been seen meanwhile"


async def test_an_address_that_floods_may_open_few_connections_until_it_has_stopped(
    identity: MakeIdentity, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = identity("a").certificate_chain
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0)))

        def connect() -> Peer:
            one = stack.enter_context(socket.create_connection(server.getsockname()))
            stack.enter_context(server.accept()[0])
            return Peer(*one.getsockname())

        peer = connect()
        flood = OpenConnection(1, f"ipv4:{HOST}:{peer.port}", pem, MAX_UNDER_WAY + 1, 0)
        unseen, sockets = UnseenCalls(), CallerSockets(server.getsockname()[1])
        others = connection(identity("b").certificate_chain, MANY + 1, 2)
        counts = Counts([flood, others])
        guard = FloodGuard(unseen, CallerLimits(), counts, sockets)
        monkeypatch.setattr("aegis_core._server.caller_limits.BLOCKED_FOR", 0.5)
        monkeypatch.setattr("aegis_core._server.held.flood_guard.WORK_OFF", 0.05)
        unseen.look()
        await until(lambda: guard.closed == 1)
        began = time.monotonic()
        connect()
        guard.note_accepted()
        assert guard.closed == 2, "it has waited, and the calls of the flood are not worked off"
        counts.count = 0
        await until(lambda: not guard._is_crowded)
        for _ in range(5):
            connect()
            guard.note_accepted()
        if time.monotonic() < began + 0.4:
            assert guard.closed == 2 + 4, "all but one"
        await until(lambda: time.monotonic() > began + 0.6)
        closed = guard.closed
        for _ in range(3):
            connect()
            guard.note_accepted()
        assert guard.closed == closed


async def test_others_at_the_address_of_a_flood_may_open_connections_one_after_another(
    identity: MakeIdentity, until: Until
) -> None:
    flooder, other = (identity(name).certificate_chain for name in ("a", "b"))
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0)))
        counts = Counts([])

        def connect(pem: bytes, calls: int = 0) -> None:
            one = stack.enter_context(socket.create_connection(server.getsockname()))
            stack.enter_context(server.accept()[0])
            peer, number = f"ipv4:{HOST}:{one.getsockname()[1]}", len(counts.found) + 1
            guard.note_accepted()
            counts.found.insert(0, OpenConnection(number, peer, pem, calls, 0))

        limits = CallerLimits()
        unseen = UnseenCalls(is_blocked=limits.is_blocked)
        guard = FloodGuard(unseen, limits, counts, CallerSockets(server.getsockname()[1]))
        connect(other)
        connect(flooder, MAX_UNDER_WAY + 1)
        unseen.look()
        await until(lambda: guard.closed == 1)
        unseen.seen, counts.count = MANY + 1, 2 * MANY + 2  # others make many calls all the time
        for _ in range(20):
            connect(other)
        assert guard.closed == 1, "what the flood has sent is worked off"
        began = time.monotonic()
        for _ in range(20):
            connect(flooder)
        most = NEW_AT_ONCE + 1 + NEW_PER_SECOND * (time.monotonic() - began)
        assert 20 - most <= guard.closed - 1 < 20
        counts.count = 0
        await until(lambda: not guard._is_watching)


@pytest.mark.parametrize("keeps_out", [True, False])
async def test_who_floods_without_a_call_is_closed_again_once_its_handshake_shows_who_it_is(
    identity: MakeIdentity, until: Until, keeps_out: bool
) -> None:
    flooder, other = (identity(name).certificate_chain for name in ("a", "b"))
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0)))
        counts, limits = Counts([]), CallerLimits()
        unseen = UnseenCalls(is_blocked=limits.is_blocked)
        guard = FloodGuard(unseen, limits, counts, CallerSockets(server.getsockname()[1]))

        def connect(pem: bytes) -> OpenConnection:
            one = stack.enter_context(socket.create_connection(server.getsockname()))
            stack.enter_context(server.accept()[0])
            guard.note_accepted()
            peer = f"ipv4:{HOST}:{one.getsockname()[1]}"
            counts.found.append(OpenConnection(len(counts.found) + 1, peer, pem, 0, 0))
            return counts.found[-1]

        assert guard.close("a", [connect(flooder)], {HOST}, keeps_out=keeps_out) == 1
        connect(other)
        connect(flooder)
        await until(lambda: not guard._is_judging)
        assert guard.closed == 1 + keeps_out


def test_calls_of_closed_connections_are_not_under_way(identity: MakeIdentity) -> None:
    pem = identity("a").certificate_chain
    closed, kept = (connection(pem, HALF + 1, number=number) for number in (1, 2))
    limits, counts = CallerLimits(), Counts([kept, closed])
    counts.count = MANY + 1
    guard = FloodGuard(UnseenCalls(), limits, counts, CallerSockets(1))
    guard.drop([closed])
    assert guard._close_floods() == 0
    assert not limits.is_blocked("a"), "gRPC has those calls until their turn"


async def test_a_flood_is_found_although_the_node_sees_no_further_call(
    identity: MakeIdentity, until: Until
) -> None:
    unseen, limits = UnseenCalls(), CallerLimits()
    pem = identity("a").certificate_chain
    counts = Counts([connection(pem, SOME + 1)])
    counts.count = SOME + 1
    guard = FloodGuard(unseen, limits, counts, CallerSockets(1))
    unseen.look()  # as at a call that is seen, the last one
    await until(lambda: guard._is_watching)
    assert not limits.is_blocked("a")
    counts.count, counts.found = MAX_UNDER_WAY + 1, [connection(pem, MAX_UNDER_WAY + 1)]
    await until(lambda: limits.is_blocked("a"))
    counts.count = 0
    await until(lambda: not guard._is_watching)


async def test_calls_that_grpc_has_rejected_do_not_keep_the_guard_awake(
    identity: MakeIdentity, until: Until
) -> None:
    unseen = UnseenCalls()
    counts = Counts([connection(identity("a").certificate_chain, 1)])
    counts.count = SOME + 1
    guard = FloodGuard(unseen, CallerLimits(), counts, CallerSockets(1))
    unseen.look()
    await until(lambda: not guard._is_watching)
    assert guard.count() == 1
