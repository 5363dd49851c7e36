"""Finds callers that send what gRPC reads and shows to nobody, such as GOAWAY frames. Pure.

HTTP/2 limits what an honest caller sends: messages, of which each open call may have one that is
not complete, and the headers of calls. gRPC counts the messages and calls of each connection, and
the system counts its bytes. So what these messages cannot hold, whatever their lengths, is none.
Their lengths are counted only while a connection is suspected. From then on, what is neither in
them nor in messages that are not complete is none, and of those a caller may have a few only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from aegis_core._server.connection_limits import Peer
from aegis_core._server.held.complete_messages import OVERHEAD, Taken
from aegis_core._server.held.unseen_calls import Flood, OpenConnection

MUCH = 2 * 1024 * 1024
"""Bytes that are no messages and show a flood. The headers of 600 calls, which a connection may
have, take 0.1 to 0.6 MB; their requests wait, except 64 KB, until gRPC has seen the calls.
"""

UNREAD = 64 * 1024
"""Bytes of requests of unseen calls, for each connection; and of the next message of a stream."""

ACKNOWLEDGED = 8 * 1024
"""Bytes that tell a node that a message of 4 MB was received."""

UNFINISHED = 2
"""How many times what a caller may have of messages that are not complete it may send during a
look. Who has that much is left to `UnfinishedMessages`.
"""

CANCELLED = 1
"""The same of calls that it cancels during a look. More need not be a flood: all of its large
requests may miss their deadlines again and again.
"""

BETWEEN = 1
"""Messages that the node's code may just be about to count."""

MOST = 32
"""Connections that are looked at, those that receive most: 0.5 ms each, twice."""


class Received(NamedTuple):
    """A connection during a look.

    Attributes:
        before: As gRPC counted it before the first count of the bytes.
        after: The same after the last one.
        bytes: What arrived in between.
        taken: Messages that were complete in between, and a few more; None if none were counted.
        reading: Messages of its caller, on all connections, of which a part may have arrived at the
            end.
    """

    before: OpenConnection
    after: OpenConnection
    bytes: int
    taken: Taken | None = None
    reading: int = 0


def since(first: Mapping[Peer, int], second: Mapping[Peer, int]) -> dict[Peer, int]:
    """Returns how many bytes connections have received between two counts."""
    return {peer: count - first[peer] for peer, count in second.items() if peer in first}


def busiest(received: Mapping[Peer, int]) -> list[Peer]:
    """Returns the connections to look at, if they have received much together."""
    if sum(received.values()) < MUCH:
        return []
    return [peer for peer, count in Counter(received).most_common(MOST) if count > MUCH / MOST]


def from_its_start(one: OpenConnection, count: int) -> Received:
    """Returns a connection with all that it has received."""
    return Received(one._replace(open=0, started=0, messages=0, sent=0), one, count)


def floods(
    looks: Iterable[Received],
    caller_of: Callable[[OpenConnection], str],
    max_message: int,
    limit_of: Callable[[str], int],
) -> list[Flood]:
    """Returns the callers that have sent too much that is no message, with those connections.

    Args:
        looks: The connections that received most.
        caller_of: Returns whose calls a connection carries.
        max_message: Bytes of the largest message.
        limit_of: Returns how many bytes of messages that are not complete a caller may have.
    """
    largest = max_message + (max_message >> 5) + OVERHEAD
    more: defaultdict[str, int] = defaultdict(int)
    unfinished: Counter[str] = Counter()
    reading: Counter[str] = Counter()
    cancelled: Counter[str] = Counter()
    found: defaultdict[str, list[OpenConnection]] = defaultdict(list)
    for one in looks:
        rest = one.bytes - _complete(one, largest)
        if rest > 0:
            caller, room = caller_of(one.after), _calls(one) * largest
            more[caller] += max(0, rest - room)
            if one.taken is not None:
                unfinished[caller] += min(rest, room)
                reading[caller] = (one.reading + BETWEEN) * largest
                cancelled[caller] += (one.after.failed - one.before.failed) * largest
            found[caller].append(one.after)
    flooding = []
    for caller, size in more.items():
        limit = limit_of(caller) if unfinished[caller] else 0
        dropped = cancelled[caller]
        certain, likely = (
            size + max(0, unfinished[caller] - min(UNFINISHED * limit, reading[caller] + part))
            for part in (dropped, min(dropped, CANCELLED * limit))
        )
        if likely > MUCH:
            flooding.append(Flood(caller, likely, found[caller], is_certain=certain > MUCH))
    return flooding


def _calls(one: Received) -> int:
    """Returns how many calls may have a message of which the length is not known."""
    calls = one.before.open + one.after.started - one.before.started
    return calls if one.taken is None else max(0, calls - one.taken.requests)


def _complete(one: Received, largest: int) -> int:
    """Returns the bytes of all else that an honest caller may have sent."""
    messages = one.after.messages - one.before.messages
    answers = one.after.sent - one.before.sent
    calls = one.before.open + one.after.started - one.before.started
    taken = one.taken or Taken()
    # Messages that gRPC has counted and no code has seen are more than one a call only where that
    # code was not asked to count them.
    unknown = max(0, messages - taken.messages - (0 if one.taken is None else calls))
    others = UNREAD + answers * ACKNOWLEDGED + calls * UNREAD
    return taken.bytes + unknown * largest + others
