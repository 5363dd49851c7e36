"""Finds callers that send what gRPC reads and shows to nobody, such as GOAWAY frames. Pure.

HTTP/2 limits what an honest caller sends: messages, of which each open call may have one that is
not complete, and the headers of calls. gRPC counts the messages and calls of each connection, and
the system counts its bytes. So what these messages cannot hold, whatever their lengths, is none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from aegis_core._server.connection_limits import Peer
from aegis_core._server.held.unfinished_messages import OVERHEAD
from aegis_core._server.held.unseen_calls import Flood, OpenConnection

MUCH = 2 * 1024 * 1024
"""Bytes that are no messages and show a flood. The headers of 600 calls, which a connection may
have, take 0.1 to 0.6 MB; their requests wait, except 64 KB, until gRPC has seen the calls.
"""

UNREAD = 64 * 1024
"""Bytes of requests of unseen calls, for each connection; and of the next message of a stream."""

ACKNOWLEDGED = 8 * 1024
"""Bytes that tell a node that a message of 4 MB was received."""

MOST = 32
"""Connections that are looked at, those that receive most: 0.5 ms each, twice."""


class Received(NamedTuple):
    """A connection during a look.

    Attributes:
        before: As gRPC counted it before the first count of the bytes.
        after: The same after the last one.
        bytes: What arrived in between.
    """

    before: OpenConnection
    after: OpenConnection
    bytes: int


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
    looks: Iterable[Received], caller_of: Callable[[OpenConnection], str], max_message: int
) -> list[Flood]:
    """Returns the callers that have sent too much that is no message, with those connections.

    Args:
        looks: The connections that received most.
        caller_of: Returns whose calls a connection carries.
        max_message: Bytes of the largest message.
    """
    more: defaultdict[str, int] = defaultdict(int)
    found: defaultdict[str, list[OpenConnection]] = defaultdict(list)
    for one in looks:
        unexplained = one.bytes - explained(one.before, one.after, max_message)
        if unexplained > 0:
            caller = caller_of(one.after)
            more[caller] += unexplained
            found[caller].append(one.after)
    return [Flood(caller, count, found[caller]) for caller, count in more.items() if count > MUCH]


def explained(before: OpenConnection, after: OpenConnection, max_message: int) -> int:
    """Returns the bytes that honest calls may have sent on a connection between two looks."""
    messages = after.messages - before.messages
    answers = after.sent - before.sent
    calls = before.open + after.started - before.started
    largest = max_message + (max_message >> 5) + OVERHEAD
    return UNREAD + messages * largest + answers * ACKNOWLEDGED + calls * (largest + UNREAD)
