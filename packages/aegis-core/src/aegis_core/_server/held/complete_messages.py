"""Counts the messages that are complete. Pure."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from aegis_core._server.held.running_requests import COPIES, VERY_LARGE

CallT = TypeVar("CallT")

OVERHEAD = 128
"""Bytes of a message besides its content, at most: gRPC, HTTP/2 and TLS take 36, what its receiver
sends in return another 80."""


class Inflow(Generic[CallT]):
    """One call with many requests.

    Attributes:
        call: The call.
        caller: Who calls.
        peer: Its connection, as gRPC names it.
        messages: Those that were complete.
        newest: Bytes of the last of them.
        taken: Their bytes, with their overhead.
    """

    __slots__ = ("call", "caller", "messages", "newest", "peer", "taken")

    def __init__(self, call: CallT, caller: str, peer: str) -> None:
        self.call = call
        self.caller = caller
        self.peer = peer
        self.messages = self.newest = self.taken = 0

    def note(self, size: int) -> None:
        """Counts a message that is complete. Each call has one reader, so no lock is needed."""
        self.messages += 1
        self.newest = size
        self.taken += size + (size >> 5) + OVERHEAD

    @property
    def kept(self) -> int:
        """Bytes that the last message may take, since its handler may keep it until the next."""
        return int(COPIES * self.newest) if self.newest >= VERY_LARGE else self.newest


class Taken(NamedTuple):
    """What was complete on one connection.

    Attributes:
        requests: Calls with one request each.
        messages: All messages, with those requests.
        bytes: Their bytes, with their overhead.
    """

    requests: int = 0
    messages: int = 0
    bytes: int = 0

    def plus(self, requests: int, messages: int, size: int) -> Taken:
        """Returns this with more that was complete."""
        return Taken(self.requests + requests, self.messages + messages, self.bytes + size)
