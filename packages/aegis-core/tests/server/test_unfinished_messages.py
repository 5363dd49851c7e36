"""Messages of which a part has arrived, and answers that are not sent: who holds too much."""

from __future__ import annotations

from collections import Counter

import pytest
from aegis_core._server.caller_limits import GOES_ON as CALLS_AFTER_BLOCK
from aegis_core._server.caller_limits import SWEEP_ABOVE, CallerLimits
from aegis_core._server.held.complete_messages import Inflow
from aegis_core._server.held.first_look import NOTE_EVERY, OLD, EarlierMemory, most_explained
from aegis_core._server.held.request_reads import MAX_READS, RequestReads
from aegis_core._server.held.running_requests import COPIES, VERY_LARGE
from aegis_core._server.held.unfinished_messages import (
    FEW,
    FEW_CONNECTIONS,
    GOES_ON,
    KEPT,
    LEFT,
    MANY_CALLS,
    MANY_SPREAD,
    MAX_UNFINISHED,
    MUCH,
    REFUSED_FOR,
    UNREAD,
    USUAL_MESSAGE,
    UnfinishedMessages,
)
from aegis_core._server.held.unseen_calls import OpenConnection
from aegis_core._server.held.unsent_answers import MAX_UNSENT, UnsentAnswers

MIB = 1 << 20


class Node:
    """What a node would see of its connections and of its memory."""

    def __init__(self) -> None:
        self.now = 0.0
        self.received: Counter[str] = Counter({"c": 7 * MIB})
        self.allocated = 100 * MIB
        self.watched = 0
        self.messages = UnfinishedMessages[int](
            {"w": 2}.get,  # type: ignore[arg-type]  # no other worker is asked
            self._on_watch,
            lambda: self.now,
        )
        self.messages._workers_of = lambda caller: 2 if caller == "w" else 1

    def _on_watch(self) -> None:
        self.watched += 1

    def open(self, count: int, caller: str = "m") -> list[Inflow[int]]:
        opened = [self.messages.open(number, caller, "c") for number in range(count)]
        return [inflow for inflow in opened if inflow is not None]

    def receive(self, size: int, *, is_held: bool = True) -> None:
        self.received["c"] += size
        self.allocated += size * is_held

    def look(self) -> list[tuple[str, list[int], frozenset[str], bool, bool]]:
        return [tuple(e) for e in self.messages.excess(self.received, lambda: self.allocated)]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("connections", "unseen", "ends"),
    [
        (FEW_CONNECTIONS, 1_000, False),
        (FEW_CONNECTIONS + 1, MANY_SPREAD - 10, False),
        (FEW_CONNECTIONS + 1, MANY_SPREAD, True),
    ],
)
def test_calls_on_many_connections_may_not_make_the_process_grow_by_more_than_the_limit(
    connections: int, unseen: int, ends: bool
) -> None:
    node = Node()
    peers = [f"c{number}" for number in range(connections)]
    for number, peer in enumerate(peers):
        node.messages.open(number, "m", peer)
    node.received.update(dict.fromkeys(peers, MIB))
    node.messages.excess(node.received, lambda: node.allocated)
    node.received.update(dict.fromkeys(peers, int(0.6 * MAX_UNFINISHED / connections)))
    node.allocated += MAX_UNFINISHED + MIB
    found = node.messages.excess(node.received, lambda: node.allocated, unseen=lambda: unseen)
    closed = [(excess.peers, excess.is_blocked) for excess in found]
    assert closed == ([(frozenset(peers), True)] if ends else [])


def test_each_further_call_of_who_is_watched_is_a_reason_to_look() -> None:
    node = Node()
    looks: list[int] = []
    node.messages.on_more = lambda: looks.append(1)
    node.open(FEW + 1)
    assert (node.watched, len(looks)) == (1, 0)
    node.open(2)
    assert (node.watched, len(looks)) == (1, 2)


def test_nobody_is_watched_with_few_calls() -> None:
    node = Node()
    inflows = node.open(FEW)
    assert (node.messages.is_watching, node.messages.peers, node.watched) == (False, set(), 0)
    node.receive(10 * MAX_UNFINISHED)
    assert node.look() == []
    inflows += node.open(1)
    assert (node.messages.is_watching, node.messages.peers, node.watched) == (True, {"c"}, 1)
    for inflow in inflows:
        node.messages.close(inflow)
        node.messages.close(inflow)
    assert (node.messages.is_watching, len(node.messages)) == (False, 0)


@pytest.mark.parametrize(("unjudged", "ends"), [(0, True), (1, True), (2, False), (9, False)])
def test_two_requests_may_be_read_before_their_caller_is_known(unjudged: int, ends: bool) -> None:
    node = Node()
    node.messages.unjudged = lambda: unjudged
    node.open(FEW + 1)
    assert node.look() == []
    node.receive(MAX_UNFINISHED + 2 * USUAL_MESSAGE - MIB)
    assert bool(node.look()) == ends


def test_all_but_a_few_calls_are_ended_and_refused_for_a_while() -> None:
    node = Node()
    inflows = node.open(20)
    assert node.look() == []
    node.receive(MAX_UNFINISHED)
    assert node.look() == []
    node.receive(1)
    assert node.look() == [("m", list(range(FEW, 20)), frozenset(), False, True)]
    assert node.look() == []
    assert node.messages.open(1, "m", "c") is None
    for inflow in inflows:
        node.messages.close(inflow)
    assert len(node.open(10)) == FEW
    assert len(node.open(10, "other")) == 10
    node.now += REFUSED_FOR
    assert len(node.open(10)) == 10


def test_who_seems_to_hold_half_is_looked_at_sooner() -> None:
    node = Node()
    inflows = node.open(20)
    node.look()
    node.receive(MAX_UNFINISHED // 2)
    node.look()
    assert not node.messages.is_near
    node.receive(1)
    node.look()
    assert node.messages.is_near
    inflows[0].note(MAX_UNFINISHED // 2)
    node.look()
    assert not node.messages.is_near


def test_a_connection_that_sends_much_more_is_closed() -> None:
    node = Node()
    node.open(20)
    node.look()
    node.receive(int(MUCH * MAX_UNFINISHED) + 1)
    assert node.look() == [("m", list(range(FEW, 20)), frozenset({"c"}), False, True)]


def test_complete_messages_are_not_held_whatever_the_handler_keeps() -> None:
    node = Node()
    inflows = node.open(10)
    node.look()
    for number in range(1000):
        node.receive(MIB + 100)
        inflows[number % 10].note(MIB)
        node.receive(MIB)
        node.messages.note_request("m", lambda: "c", MIB)
        assert node.look() == []
    for inflow in inflows[5:]:
        node.messages.close(inflow)
    assert node.look() == []


ROOM = int(KEPT * MAX_UNFINISHED)


@pytest.mark.parametrize(
    ("elsewhere", "room"),
    [(0, ROOM), (4 * MIB, ROOM), (8 * MIB, ROOM - 4 * MIB), (ROOM, ROOM // 2)],
)
def test_calls_with_the_largest_newest_messages_are_ended_until_the_rest_fits(
    elsewhere: int, room: int
) -> None:
    node = Node()
    node.messages.elsewhere = lambda _: elsewhere
    size = MIB - 1
    inflows = node.open(room // size)
    node.look()
    for inflow in inflows:
        node.receive(size + (size >> 5))
        inflow.note(size)
    node.allocated += 100 * MIB
    assert node.look() == []
    more = node.messages.open(7_000, "m", "c")
    assert more is None  # above 0.9 of it
    for inflow in inflows[:2]:
        node.receive(2 * size + (size >> 4))
        inflow.note(2 * size)
    (found,) = node.look()
    left = sum(inflow.kept for inflow in inflows)
    calls = [1, 0, *reversed(range(2, len(inflows)))]
    assert found == ("m", calls[: len(found[1])], frozenset(), False, False)
    assert room * LEFT - size < left <= room * LEFT
    assert node.look() == []
    for inflow in inflows:
        inflow.note(1)
    assert node.look() == []
    assert node.messages.open(7_001, "m", "c") is not None


def test_who_has_far_more_in_newest_messages_loses_its_connection() -> None:
    node = Node()
    inflows = node.open(40)
    node.look()
    for inflow in inflows:
        node.receive(MIB + MIB // 4)
        inflow.note(MIB + MIB // 4)
    assert node.look() == [("m", [*range(FEW, 40)], frozenset({"c"}), False, True)]


def test_a_message_of_a_megabyte_counts_as_its_copies_too() -> None:
    inflow = Inflow(1, "m", "c")
    kept = []
    for size in (VERY_LARGE - 1, VERY_LARGE):
        inflow.note(size)
        kept.append(inflow.kept)
    assert kept == [VERY_LARGE - 1, COPIES * VERY_LARGE]


def test_newest_messages_do_not_count_while_the_process_does_not_grow() -> None:
    node = Node()
    inflows = node.open(60)
    node.look()
    for inflow in inflows:
        node.receive(MIB, is_held=False)
        inflow.note(MIB)
    assert node.look() == []
    assert node.messages.open(7_000, "m", "c") is not None


def test_500_uploads_in_small_messages_may_make_the_process_grow() -> None:
    node = Node()
    inflows = node.open(500)
    node.look()
    for inflow in inflows:
        node.receive(1 << 16)
        inflow.note(1 << 16)
    node.allocated += MAX_UNFINISHED
    assert node.look() == []


def test_what_is_not_explained_is_not_held_while_the_memory_does_not_grow() -> None:
    node = Node()
    node.open(20)
    for _ in range(100):
        assert node.look() == []
        node.receive(MAX_UNFINISHED + 1, is_held=False)
    node.look()
    node.receive(MAX_UNFINISHED + 1)
    assert len(node.look()) == 1


def test_the_workers_of_a_caller_have_its_limit_each() -> None:
    node = Node()
    node.open(20, "w")
    node.look()
    node.receive(2 * MAX_UNFINISHED)
    assert node.look() == []
    node.receive(1)
    assert len(node.look()) == 1


def test_requests_that_are_read_in_turn_count_too() -> None:
    node = Node()
    reads = RequestReads[int]()
    reads.on_many = node.messages.watch
    node.messages.waiting = reads
    for call in range(MAX_READS):
        assert not node.messages.is_watching
        reads.begin("m", call, None, lambda: True, lambda: "c")
    node.look()
    node.receive(MAX_UNFINISHED + MAX_READS * UNREAD)
    assert node.look() == []
    node.receive(1)
    calls = list(range(MAX_READS))
    assert node.look() == [("m", calls, frozenset({"c"}), True, True)], "it is blocked"
    for call in calls:
        reads.end("m", call)
    node.look()
    assert not node.messages.is_watching


@pytest.mark.parametrize(("calls", "ended"), [(MANY_CALLS - 1, 0), (MANY_CALLS, 1)])
def test_the_memory_of_many_calls_counts_while_a_caller_holds_half(calls: int, ended: int) -> None:
    node = Node()
    node.open(calls)
    node.look()
    node.allocated += 2 * MAX_UNFINISHED  # handlers of few large requests may take that, too
    node.receive(MAX_UNFINISHED // 2)
    assert node.look() == []
    node.receive(1)
    assert len(node.look()) == ended


def test_connections_that_were_opened_since_then_count_from_their_start() -> None:
    node = Node()
    node.open(20)
    node.look()
    node.received["d"] = MAX_UNFINISHED + 1
    node.messages.open(20, "m", "d")
    node.allocated += MAX_UNFINISHED
    assert len(node.messages.excess(node.received, lambda: node.allocated, {"d": 0})) == 1


@pytest.mark.parametrize(("more", "ends"), [(0, False), (1, True)])
def test_what_arrived_before_the_first_look_counts_beyond_what_complete_messages_explain(
    more: int, ends: bool
) -> None:
    node = Node()
    node.messages.memory.note(node.allocated, node.now)
    # The caller had 7 MiB before; the rest has arrived, and none of its calls was seen.
    node.receive(MAX_UNFINISHED + 2 * MIB + more)
    node.open(20)
    before = 9 * MIB  # at most, by what gRPC has counted
    assert node.messages.never_seen(["c", "d"]) == {"c", "d"}
    found = node.messages.excess(node.received, lambda: node.allocated, {"c": before})
    assert bool(found) == ends
    assert node.messages.never_seen(["c", "d"]) == {"d"}
    node.receive(1)
    assert bool(node.look()) != ends, "what was taken for explained stays so"


def test_the_memory_before_a_late_look_is_that_of_a_second_before() -> None:
    memory = EarlierMemory()
    assert memory.least(7) == 7, "nothing is known"
    memory.note(5, 100.0)
    assert (memory.least(7), memory.least(3)) == (5, 3)
    memory.note(6, 100.0 + NOTE_EVERY)
    memory.note(8, 100.0 + 1.5 * NOTE_EVERY)
    assert memory.least(9) == 5
    memory.note(8, 100.0 + 2 * NOTE_EVERY)
    assert memory.least(9) == 6


@pytest.mark.parametrize("messages", [0, 2, OLD])
def test_complete_messages_and_calls_explain_what_was_received_before(messages: int) -> None:
    one = OpenConnection(1, "c", b"", open=0, failed=0, started=3, messages=messages)
    most = most_explained(one, USUAL_MESSAGE)
    if messages == OLD:
        assert most is None
        return
    received = messages * (USUAL_MESSAGE + 36 + USUAL_MESSAGE // 16_384 * 31)  # HTTP/2 and TLS
    assert most is not None
    assert received <= most - 3 * UNREAD <= 1.04 * received


def test_who_may_send_larger_messages_may_hold_more() -> None:
    node = Node()
    node.messages.max_message = 2 * USUAL_MESSAGE
    node.open(20)
    node.look()
    node.receive(2 * MAX_UNFINISHED)
    assert node.look() == []
    node.receive(1)
    assert len(node.look()) == 1


def test_who_opens_call_after_call_although_they_are_refused_goes_on() -> None:
    node = Node()
    node.open(20)
    node.look()
    node.receive(MAX_UNFINISHED + 1)
    node.look()
    node.open(GOES_ON)
    assert not node.messages.goes_on("m")
    node.open(1)
    assert node.messages.goes_on("m")
    limits = CallerLimits()
    limits.block("m")
    assert [limits.goes_on("m") for _ in range(CALLS_AFTER_BLOCK + 1)].count(True) == 1


def test_requests_wait_while_answers_are_not_sent() -> None:
    answers = UnsentAnswers()
    reads = RequestReads[int](held=answers.full)
    answers.on_room = reads.resume
    started: list[int] = []

    def start(call: int) -> bool:
        started.append(call)
        return call != 7  # that one is over

    answers.add("m", MAX_UNSENT)
    for call in range(8):
        reads.begin("m", call, f"method-{call}", lambda call=call: start(call), lambda: "c")  # type: ignore[misc]
    reads.begin("other", 100, "method", lambda: start(100), lambda: "c")
    assert started == [100]
    answers.add("m", 1)
    answers.remove("m", 1)
    assert started == [100]
    answers.remove("m", MAX_UNSENT)
    assert started == [100, 7, 6, 5, 4, 3, 2][: 2 + MAX_READS]
    assert not answers.full


def test_answered_calls_are_open_until_they_are_done() -> None:
    class Answered:
        is_done = False

        def done(self) -> bool:
            return self.is_done

    limits = CallerLimits(SWEEP_ABOVE)
    calls = [Answered() for _ in range(SWEEP_ABOVE)]
    for call in calls:
        assert limits.enter("m")
        limits.leave_when_done(call, "m")
    assert not limits.enter("m")
    calls[0].is_done = True
    assert limits.enter("m")
    assert not limits.enter("m")
    limits.leave("m")
    for call in calls:
        call.is_done = True
    assert len(limits) == 0


@pytest.mark.parametrize("few", [False, True])
def test_a_caller_that_reads_nothing_may_have_fewer_calls(few: bool) -> None:
    limits = CallerLimits(10)
    assert sum(limits.enter("m", few=few) for _ in range(20)) == (8 if few else 10)
