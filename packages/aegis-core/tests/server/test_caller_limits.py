"""The limits of one caller: open calls, cancelled calls, connections."""

from __future__ import annotations

import contextlib
import socket

import pytest
from aegis_core._server.caller_limits import (
    BLOCKED_FOR,
    CANCELLED_AT_ONCE,
    CANCELLED_PER_SECOND,
    NAMED_AT_ONCE,
    NAMED_PER_SECOND,
    PRUNE_ABOVE,
    CallerLimits,
)
from aegis_core._server.caller_sockets import CallerSockets, parse_peer
from aegis_core._server.connection_limits import (
    FEW,
    FEW_UNKNOWN,
    MAX_CONNECTIONS,
    MAX_SILENT,
    ConnectionLimits,
    Peer,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_open_calls_are_limited_for_each_caller_times_its_workers() -> None:
    limits = CallerLimits(10, {"w": 3}.get)  # type: ignore[arg-type]  # no other caller is asked
    assert [limits.enter("w") for _ in range(31)] == [True] * 30 + [False]
    limits = CallerLimits(10)
    assert [limits.enter("a") for _ in range(11)] == [True] * 10 + [False]
    assert limits.enter("b")
    limits.leave("a")
    assert limits.enter("a")
    for caller in ["a"] * 10 + ["b"]:
        limits.leave(caller)
    assert len(limits) == 0, "nothing is remembered of callers without open calls"


def test_a_caller_that_cancels_less_than_the_rate_is_never_blocked() -> None:
    clock = Clock()
    limits = CallerLimits(clock=clock)
    for _ in range(20_000):
        clock.now += 1 / (CANCELLED_PER_SECOND - 1)
        assert not limits.abuse("a")
    assert not limits.is_blocked("a")


def test_a_caller_is_named_before_it_is_blocked() -> None:
    clock = Clock()
    limits = CallerLimits(clock=clock)
    named = 0
    for _ in range(3 * int(NAMED_AT_ONCE)):
        clock.now += 1 / (2 * NAMED_PER_SECOND)
        assert not limits.abuse("a")
        named += limits.cancels_many("a")
    assert named == pytest.approx(NAMED_AT_ONCE / 2, abs=10)
    for _ in range(3 * int(NAMED_AT_ONCE)):
        clock.now += 1 / NAMED_PER_SECOND
        assert not limits.cancels_many("b")


def test_a_caller_that_cancels_more_is_blocked_for_a_while() -> None:
    clock = Clock()
    limits = CallerLimits(clock=clock)
    cancelled = 0
    while not limits.abuse("a"):
        cancelled += 1
    assert cancelled == CANCELLED_AT_ONCE
    assert limits.is_blocked("a")
    assert not limits.is_blocked("b")
    assert repr(limits) == "<CallerLimits 0 open, blocked=['a']>"
    clock.now += BLOCKED_FOR - 0.1
    assert limits.is_blocked("a")
    clock.now += 0.1
    assert not limits.is_blocked("a")


def test_a_blocked_caller_that_goes_on_stays_blocked() -> None:
    clock = Clock()
    limits = CallerLimits(clock=clock)
    while not limits.abuse("a"):
        pass
    for _ in range(int(3 * BLOCKED_FOR * CANCELLED_PER_SECOND)):
        clock.now += 0.5 / CANCELLED_PER_SECOND
        assert limits.is_blocked("a")
        limits.abuse("a")


def test_callers_that_cancelled_something_long_ago_are_forgotten() -> None:
    clock = Clock()
    limits = CallerLimits(clock=clock)
    for number in range(10 * PRUNE_ABOVE):
        clock.now += 1
        limits.abuse(f"caller-{number}")
    assert len(limits) <= PRUNE_ABOVE + 1


def peers(host: str, first: int, count: int) -> list[Peer]:
    return [Peer(host, first + number) for number in range(count)]


def test_a_few_connections_are_not_watched() -> None:
    limits = ConnectionLimits()
    assert limits.excess(peers("10.0.0.1", 0, FEW)) == []
    assert not limits.is_watching
    assert limits.excess(peers("10.0.0.1", 0, FEW + 1)) == []
    assert limits.is_watching


def test_of_silent_connections_from_one_address_the_oldest_are_closed() -> None:
    limits = ConnectionLimits()
    honest, first = peers("10.0.0.1", 0, 100), peers("10.0.0.2", 0, MAX_SILENT)
    assert limits.excess(honest) == []
    assert limits.excess([*honest, *first]) == []
    more = peers("10.0.0.2", 5000, 50)
    excess = limits.excess([*honest, *first, *more])
    assert sorted(excess) == [(peer, None) for peer in first[:50]]
    assert limits.excess([*honest, *first[50:], *more]) == []


def test_of_the_connections_of_one_caller_the_newest_are_closed() -> None:
    limits = ConnectionLimits({"w": 2}.get)  # type: ignore[arg-type]  # asked about `w` only
    open_now: list[Peer] = []
    for number, peer in enumerate(peers("10.0.0.2", 0, 2 * MAX_CONNECTIONS + 30)):
        open_now.append(peer)
        assert limits.note_call(peer, "w")
        assert not limits.note_call(peer, "w")
        if number % 20 == 0 and number < 2 * MAX_CONNECTIONS:
            assert limits.excess(open_now) == []
    assert limits.excess(open_now) == [(peer, "w") for peer in open_now[-30:]]


def test_many_connections_of_unknown_callers_are_asked_about() -> None:
    limits = ConnectionLimits()
    few, known = peers("10.0.0.1", 0, FEW_UNKNOWN), peers("10.0.0.2", 0, FEW)
    assert limits.excess(few) == []
    assert limits.unknown([*few, *peers("10.0.0.3", 0, FEW - FEW_UNKNOWN)]) == [], "there are few"
    for peer in known:
        limits.note_call(peer, "w")
    assert limits.unknown([*few, *known]) == []
    more = Peer("10.0.0.3", 1)
    assert limits.unknown([*few, more, *known]) == [*few, more], "those of before count too"


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("ipv4:10.0.0.1:5000", Peer("10.0.0.1", 5000)),
        ("ipv6:%5B::1%5D:5000", Peer("::1", 5000)),
        ("ipv6:[fe80::1%25eth0]:5000", Peer("fe80::1", 5000)),
        ("unix:/run/x", None),
        ("", None),
    ],
)
def test_the_peer_of_a_call_is_read_as_grpc_writes_it(text: str, peer: Peer | None) -> None:
    assert parse_peer(text) == peer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_that_a_server_accepted_are_found_and_closed_and_no_others(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        sockets = CallerSockets(port)
        with (
            socket.create_connection((host, port)) as one,
            socket.create_connection((host, port)) as other,
            server.accept()[0],
            server.accept()[0],
        ):
            found = sockets.find()
            assert sorted(found) == sorted(Peer(host, s.getsockname()[1]) for s in (one, other))
            one.settimeout(10)
            assert sockets.close({Peer(host, one.getsockname()[1])}) == 1
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
            other.settimeout(0.05)
            with pytest.raises(TimeoutError):
                other.recv(1)
        assert sockets.find() == []
