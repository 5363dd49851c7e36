"""What arrives on connections and is no message, and the thread that notices growth."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
from aegis_core._server.connection_limits import Peer
from aegis_core._server.held import growth, unseen_frames
from aegis_core._server.held.complete_messages import OVERHEAD, Taken
from aegis_core._server.held.unseen_calls import OpenConnection
from aegis_core._server.held.unseen_frames import (
    ACKNOWLEDGED,
    BETWEEN,
    MOST,
    MUCH,
    UNFINISHED,
    UNREAD,
    Received,
    busiest,
    floods,
    from_its_start,
    since,
)

MIB = 1 << 20
MESSAGE = 4 * MIB
LIMIT = 16 * MIB

Until = Callable[[Callable[[], object]], Awaitable[None]]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux has clock and counts")


def connection(number: int = 1, caller: str = "a", **counts: int) -> OpenConnection:
    known = {"open": 0, "failed": 0, "started": 0, "messages": 0, **counts}
    return OpenConnection(number, f"ipv4:10.0.0.1:{number}", caller.encode(), **known)


def found(*looks: Received, max_message: int = MESSAGE) -> list[tuple[str, int]]:
    callers = floods(looks, lambda one: one.certificate.decode(), max_message, lambda _: LIMIT)
    return [(flood.caller, len(flood.connections)) for flood in callers]


def test_what_a_connection_without_calls_receives_is_a_flood() -> None:
    one = connection()
    assert found(Received(one, one, MUCH)) == []
    assert found(Received(one, one, MUCH + MIB)) == [("a", 1)]
    assert found(Received(one, one, MUCH + MIB), max_message=2**31 - 1) == [("a", 1)]


def test_each_message_may_have_been_the_largest_one_with_its_frames() -> None:
    size = MESSAGE * 33 // 32
    before = connection(messages=10, started=3)
    after = connection(messages=35, started=3)
    assert found(Received(before, after, 25 * size)) == []
    assert found(Received(before, after, 25 * size + MUCH + MIB)) == [("a", 1)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"open": 2, "started": 7}, {"open": 2, "started": 7}),
        ({"open": 2, "started": 7}, {"open": 0, "started": 7, "failed": 2}),
        ({"started": 5}, {"started": 7, "open": 2}),
        ({"started": 5}, {"started": 7, "failed": 2}),
        ({"started": 5, "open": 1}, {"started": 6, "open": 2}),
    ],
)
def test_each_call_may_have_one_message_that_is_not_complete(
    before: dict[str, int], after: dict[str, int]
) -> None:
    looks = connection(**before), connection(**after)
    assert found(Received(*looks, 2 * MESSAGE)) == []
    assert found(Received(*looks, 2 * MESSAGE + 2 * MUCH)) == [("a", 1)]


def test_what_a_caller_sends_counts_over_all_its_connections() -> None:
    looks = [
        Received(one, one, MUCH // 8)
        for one in (connection(number, "b" if number == 1 else "a") for number in range(1, 18))
    ]
    assert found(*looks) == [("a", 16)]


def test_a_connection_with_much_room_does_not_hide_another_one_of_its_caller() -> None:
    quiet, busy = connection(1), connection(2, open=100)
    looks = [Received(quiet, quiet, MUCH + MIB), Received(busy, busy, MIB)]
    assert found(*looks) == [("a", 1)]


def test_all_that_a_connection_has_received_is_compared_with_all_that_it_carried() -> None:
    one = connection(open=1, failed=2, started=10, messages=7, sent=1_000)
    most = (10 + 7) * MESSAGE + 1_000 * ACKNOWLEDGED
    assert found(from_its_start(one, most)) == []
    assert found(from_its_start(one, most + 8 * MIB)) == [("a", 1)]


def test_small_messages_explain_no_more_than_their_own_bytes() -> None:
    before = connection(messages=10, started=3, open=1)
    after = connection(messages=35, started=3, open=1)
    sent = 25 * (100 + OVERHEAD)
    assert found(Received(before, after, MESSAGE + sent, Taken(0, 25, sent), 1)) == []
    junk = Received(before, after, MESSAGE + MUCH + MIB + sent, Taken(0, 25, sent), 1)
    assert found(junk) == [("a", 1)]
    assert found(junk._replace(taken=None)) == []
    assert found(junk._replace(taken=Taken(0, 25, sent + MIB))) == []


def test_a_call_whose_request_was_taken_has_no_other_message() -> None:
    before, after = connection(started=3), connection(messages=25, started=28)
    taken = Taken(25, 25, 25 * (100 + OVERHEAD))
    most = taken.bytes + 25 * UNREAD + MUCH
    assert found(Received(before, after, most, taken)) == []
    assert found(Received(before, after, most + MIB, taken)) == [("a", 1)]


@pytest.mark.parametrize("reading", [0, 1, 3])
def test_calls_that_no_code_reads_have_a_window_each_and_the_others_a_message(reading: int) -> None:
    before, after = connection(started=3), connection(started=28, open=25)
    most = 26 * UNREAD + (reading + BETWEEN) * MESSAGE + MUCH
    assert found(Received(before, after, most, Taken(), reading)) == []
    assert found(Received(before, after, most + 2 * MIB, Taken(), reading)) == [("a", 1)]


def test_messages_that_are_not_complete_are_limited_over_all_connections_of_a_caller() -> None:
    looks = [(connection(number, open=8), connection(number, open=8)) for number in (1, 2, 3)]
    most, taken = UNFINISHED * LIMIT // 3 + 8 * UNREAD, Taken()
    assert found(*(Received(*look, most, taken, 24) for look in looks)) == []
    assert found(*(Received(*look, most + MIB, taken, 24) for look in looks)) == [("a", 3)]
    assert found(*(Received(*look, most + MIB) for look in looks)) == []


def test_calls_that_are_cancelled_with_large_parts_are_hardly_honest() -> None:
    before, after = connection(open=1), connection(started=8, failed=8, open=1)
    most = LIMIT + (1 + BETWEEN) * MESSAGE + 10 * UNREAD + MUCH
    assert found(Received(before, after, most, Taken(), 1)) == []
    one = Received(before, after, most + MIB, Taken(), 1)
    (flood,) = floods([one], lambda _: "a", MESSAGE, lambda _: LIMIT)
    assert not flood.is_certain
    (flood,) = floods([one._replace(bytes=2 * most)], lambda _: "a", MESSAGE, lambda _: LIMIT)
    assert flood.is_certain


def test_messages_that_no_code_has_counted_may_have_been_the_largest() -> None:
    before, after = connection(open=2), connection(open=2, messages=12)
    taken = Taken(0, 2, 2 * OVERHEAD)
    assert found(Received(before, after, (8 + 2) * MESSAGE, taken, 2)) == []
    assert found(Received(before, after, (8 + 2) * MESSAGE + 6 * MIB, taken, 2)) == [("a", 1)]


def test_connections_are_busy_that_have_received_much_together() -> None:
    peers = [Peer("10.0.0.1", port) for port in range(20)]
    assert busiest(dict.fromkeys(peers, MUCH // 21)) == []
    assert busiest(dict.fromkeys(peers, MUCH // 19)) == peers
    assert busiest({peers[0]: MUCH, peers[1]: 1_000, peers[2]: -5}) == peers[:1]


def test_only_the_connections_are_looked_at_that_receive_most() -> None:
    peers = [Peer("10.0.0.1", port) for port in range(2 * MOST)]
    first = dict.fromkeys(peers, 1_000)
    second = {peer: 1_000 + 100_000 * peer.port for peer in peers}
    second[Peer("10.0.0.2", 1)] = 10**9  # a new one
    more = since(first, second)
    assert more == {peer: 100_000 * peer.port for peer in peers}
    assert busiest(more) == peers[: MOST - 1 : -1]


@on_linux
async def test_growth_is_reported_and_the_thread_ends_after_its_last_user(
    until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    watch, reported = growth.GrowthWatch(), threading.Event()

    def report(has_grown: bool) -> None:
        if has_grown:
            reported.set()

    def broken(_: bool) -> None:
        raise ValueError("broken")

    watch.add(broken)
    watch.add(report)
    hoard: list[bytes] = []

    def grow() -> bool:
        hoard.append(b"x" * growth.GROWN)
        return reported.is_set()

    await until(grow)
    thread = watch._thread
    assert thread is not None
    watch.remove(broken)
    watch.remove(report)
    watch.remove(report)
    assert [record.getMessage() for record in caplog.records] == ["a look at the memory failed"]

    def is_over() -> bool:
        sum(range(100_000))  # it ends when the process has worked
        return not thread.is_alive()

    await until(is_over)
    assert watch._thread is None


@on_linux
def test_the_thread_sleeps_while_the_process_does_nothing() -> None:
    script = """if True:
        import threading, time
        from aegis_core._server.held import growth
        woken, sleeper = [], growth._sleeper
        def counting():
            sleep = sleeper()
            return lambda: woken.append(1) or sleep()
        growth._sleeper = counting
        growth.growth.add(lambda has_grown: None)
        while not woken: time.sleep(0.01)
        before = len(woken)
        time.sleep(0.5)
        print(len(woken) - before, growth.growth._thread.is_alive())
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (ran.returncode, ran.stderr) == (0, "")
    count, is_alive = ran.stdout.split()
    assert int(count) <= 1
    assert is_alive == "True"


@on_linux
def test_a_forked_child_has_no_thread_and_starts_its_own() -> None:
    watch, report = growth.GrowthWatch(), lambda _: None
    watch.add(report)
    try:
        if (child := os.fork()) == 0:
            code = 1
            try:
                watch.remove(report)
                is_forgotten = watch._thread is None
                watch.add(report)
                code = 0 if is_forgotten and watch._thread.is_alive() else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        watch.remove(report)


def test_where_the_clock_cannot_be_waited_for_nothing_happens(
    until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "_sleeper", lambda: lambda: False)
    watch = growth.GrowthWatch()
    watch.add(lambda _: pytest.fail("it reports"))
    if watch._thread is not None:
        watch._thread.join(10)
        assert not watch._thread.is_alive()


def test_a_look_takes_a_hundredth_of_the_time_between_two() -> None:
    if sys.platform != "linux":
        pytest.skip("Linux has /proc")
    resident = growth._resident_reader()
    assert resident() > MIB
    began = time.thread_time()
    for _ in range(100):
        resident()
    assert (time.thread_time() - began) / 100 < growth.USED / 50
    assert unseen_frames.UNREAD < MUCH
