"""Of the requests of one caller only a few are read at once."""

from __future__ import annotations

from collections.abc import Callable

from aegis_core._server.held.request_reads import MAX_READS, TURN, RequestReads
from aegis_core._server.held.running_requests import MAX_METHODS, MOST, USUAL_MESSAGE, VERY_LARGE


class Reads:
    """Begins reads and records which of them were started."""

    def __init__(self, workers: int = 1) -> None:
        self.now = 0.0
        self.blocked: set[str] = set()
        self.reads = RequestReads[int](
            lambda _: workers, blocked=self.blocked, clock=lambda: self.now
        )
        self.started: list[int] = []
        self.over: set[int] = set()

    def begin(self, *calls: int, caller: str = "a", method: str = "/t/Put") -> None:
        for call in calls:
            self.reads.begin(caller, call, method, self._start(call), lambda: "c")

    def _start(self, call: int) -> Callable[[], bool]:
        def start() -> bool:
            if call in self.over:
                return False
            self.started.append(call)
            return True

        return start


OF_ONE_METHOD = MAX_READS - 1
FIRST = list(range(OF_ONE_METHOD))


def test_a_read_that_ends_makes_room_for_the_next_one_of_its_caller() -> None:
    tried = Reads()
    tried.begin(*FIRST, 101, 100)
    assert tried.started == FIRST, "the newest one is next"
    tried.begin(200, caller="b")
    assert tried.started == [*FIRST, 200]
    tried.reads.end("a", 1)
    tried.reads.end("a", 1)
    assert tried.started == [*FIRST, 200, 100]
    for call in (*FIRST, 100, 101):
        tried.reads.end("a", call)
    tried.reads.end("b", 200)
    assert tried.started == [*FIRST, 200, 100, 101]
    assert len(tried.reads) == 0


def test_calls_that_ended_while_they_waited_are_passed_over() -> None:
    tried = Reads()
    tried.begin(*FIRST, 103, 102, 101, 100)
    tried.reads.end("a", 100)
    assert tried.started == FIRST
    tried.over |= {101, 102}
    tried.reads.end("a", 0)
    assert tried.started == [*FIRST, 103]
    tried.over.add(104)
    tried.reads.end("a", 1)
    tried.begin(104, 105)
    assert tried.started == [*FIRST, 103, 105]


def test_workers_share_the_limit_of_their_identity() -> None:
    tried = Reads(workers=3)
    tried.begin(*range(4 * MAX_READS))
    assert len(tried.started) == 3 * MAX_READS - 1


def test_large_requests_of_one_method_do_not_delay_small_ones_of_others() -> None:
    tried = Reads()
    tried.begin(*FIRST, 100, 101)
    assert tried.started == FIRST
    tried.begin(200, 201, method="/t/Get")
    assert tried.started == [*FIRST, 200], "the last place"
    tried.reads.end("a", 200)
    assert tried.started == [*FIRST, 200, 201], "not the requests that wait for longer"
    tried.begin(300, method="/t/List")
    assert tried.started == [*FIRST, 200, 201], "there is no more"
    tried.reads.end("a", 0)
    assert tried.started == [*FIRST, 200, 201, 300], "the newest one"
    tried.reads.end("a", 300)
    assert tried.started == [*FIRST, 200, 201, 300], "/t/Put has three, and may not have the last"


def test_slow_reads_are_named_while_others_of_their_caller_wait() -> None:
    tried = Reads()
    tried.begin(*FIRST)
    tried.now = TURN
    assert tried.reads.overstayed() == []
    tried.begin(100)
    tried.begin(200, caller="b")
    assert tried.reads.overstayed() == FIRST
    tried.reads.end("a", 0)
    assert tried.reads.overstayed() == [], "nobody waits"


def test_of_a_blocked_caller_no_request_is_waited_for() -> None:
    tried = Reads()
    tried.begin(*FIRST, 100)
    tried.begin(200, caller="b")
    tried.blocked.add("a")
    assert tried.reads.overstayed() == [*FIRST, 100]


SMALLER = VERY_LARGE - 1
ONE_PLACE = USUAL_MESSAGE // SMALLER + 1


def test_what_handlers_have_takes_places_of_reads() -> None:
    tried = Reads()
    running = tried.reads.running
    first = [*range(2 * ONE_PLACE - 1)]
    for call in first:
        tried.begin(call)
        assert running.add("a", call, "/t/Put", SMALLER)
        tried.reads.end("a", call)
    tried.begin(100)
    assert tried.started == first, "more than two of four places are taken, and one may be"
    tried.begin(200, method="/t/Get")
    tried.begin(300, caller="b")
    assert tried.started == [*first, 200, 300]
    tried.reads.end("a", 200)
    tried.reads.release("a", 0)
    assert tried.started == [*first, 200, 300, 100]
    tried.reads.release("a", 0)
    tried.reads.end("a", 100)
    for call in first:
        tried.reads.release("a", call)
    assert len(running) == 0
    assert not running.busy


def test_two_very_large_requests_of_a_method_are_read_or_run_at_once() -> None:
    tried = Reads()
    for call in FIRST:
        tried.begin(call)
    for call in FIRST:
        assert tried.reads.running.add("a", call, "/t/Put", USUAL_MESSAGE - 1)
        tried.reads.end("a", call)
    tried.begin(100, 101, 102)
    assert tried.started == FIRST
    for call in FIRST[:-1]:
        tried.reads.release("a", call)
    assert tried.started == [*FIRST, 102], "beside the one that runs"
    assert tried.reads.running.busy == {"a"}, "one waits"
    tried.reads.release("a", FIRST[-1])
    assert tried.started == [*FIRST, 102, 101]
    tried.reads.end("a", 101)
    assert tried.started == [*FIRST, 102, 101, 100]
    assert not tried.reads.running.busy


def test_small_requests_of_other_methods_are_read_when_handlers_have_all_places() -> None:
    tried = Reads()
    running = tried.reads.running
    for call in range(MAX_READS * ONE_PLACE):
        assert running.add("a", call, f"/t/{call % 3}", SMALLER)
    tried.begin(100, method="/t/0")
    assert tried.started == []
    tried.begin(200, 201, method="/t/Get")
    assert tried.started == [200], "one at a time"
    tried.reads.end("a", 200)
    assert tried.started == [200, 201]
    count = 1000
    while running.add("a", count, "/t/Get", SMALLER):  # which shows only now that it is large
        count += 1
    assert (len(running) - 1) * SMALLER < MOST * MAX_READS * USUAL_MESSAGE <= len(running) * SMALLER
    for call in range(MAX_READS * ONE_PLACE):
        tried.reads.release("a", call)
    assert 100 not in tried.started, "others have that place"
    for call in range(1000, count):
        tried.reads.release("a", call)
    assert 100 in tried.started
    assert not running.busy


def test_workers_and_the_largest_message_give_more_room_to_handlers() -> None:
    tried = Reads(workers=3)
    running = tried.reads.running
    running.max_message = 2 * USUAL_MESSAGE
    of_a_place = 2 * USUAL_MESSAGE // VERY_LARGE
    for call in range((3 * MAX_READS - 2) * of_a_place):
        assert running.add("a", call, "/t/Put", SMALLER)
    tried.begin(10_000, 10_001)
    assert tried.started == [10_000]


def test_few_methods_of_very_large_requests_are_remembered() -> None:
    running = Reads().reads.running
    for number in range(2 * MAX_METHODS):
        assert running.add("a", number, f"/t/{number}", VERY_LARGE)
        running.remove("a", number)
    assert len(running.very_large) <= MAX_METHODS
    assert running.add("a", 0, f"/t/{2 * MAX_METHODS - 1}", VERY_LARGE - 1)
    assert f"/t/{2 * MAX_METHODS - 1}" not in running.very_large


def test_requests_of_which_nobody_knows_whose_they_are_take_one_place() -> None:
    tried = Reads()
    tried.reads.unjudged = [1, 2]
    tried.begin(*FIRST)
    assert tried.started == FIRST[:-1]
    tried.begin(200, method="/t/Get")
    assert tried.started == [*FIRST[:-1], 200]
    tried.reads.unjudged = []
    tried.reads.end("a", 200)
    assert tried.started == [*FIRST[:-1], 200, FIRST[-1]]
