"""Finds callers with more calls under way than they may have, by what gRPC counts. Pure.

Calls that no code of a node has seen yet wait in gRPC, in one queue for all callers. Whose they are
shows when it is their turn, but gRPC counts the calls of each connection from their headers on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from aegis_certs import CertsError, enrolment_id_of, identity_of
from cryptography import x509

from aegis_core._server.caller_limits import CANCELLED_AT_ONCE, MAX_CALLS

MAX_UNDER_WAY = 1_600
"""Calls that a caller may have under way over all its connections, times its live workers.

Three processes with one identity make 500 calls at once, and some are just answered. Those beyond
`MAX_CALLS` are refused when they are seen. Each takes 15 to 20 KB. Where the user lets a caller
have more open calls than `MAX_CALLS`, it may have so many more.
"""

MAX_FILLED = 2_400
"""The same where each unseen call counts twice whose request has arrived as far as gRPC takes it.

Such calls take 25 to 35 KB each. Two processes with one identity may have 600 of them each, or
three 500 each with requests of 8 KB.
"""

UNREAD = 16 * 1024
"""Bytes of a request that gRPC takes before code of the node has seen the call."""

CALL, BESIDE = 16 * 1024, 4 * 1024 * 1024
"""Bytes of a call under way, at least, and those that a caller may have beside its calls, in newest
messages, running requests and answers. For each `CALL` more it may have one less under way, down to
`LEAST`."""

LEAST = MAX_CALLS + 100
"""As many as a caller may have open, and some that are just answered."""

MORE_AFTER_STALL = int(CANCELLED_AT_ONCE)
"""Further ones after the node stood still: calls that have missed their deadlines meanwhile, and
which it sees later all the same. As many as a caller may cancel at once.
"""

MAX_IF_BLOCKED = 100
"""The same for one whose calls are refused anyway, with those that it has cancelled.

What finds the queue full counts as cancelled too.
"""

SEEN_MASK = 3
"""Who counts a call as seen calls `look` where these bits of the count are 0."""

MAX_CERTIFICATES = 4_096
"""Certificates whose names are remembered."""


class OpenConnection(NamedTuple):
    """A connection of a server.

    Attributes:
        number: Names it among all connections of the process, for ever.
        peer: The other end, as gRPC names it.
        certificate: The certificate of the other end (PEM).
        open: Calls that are open, or that were cancelled before code of the node saw them.
        failed: Calls that ended without a status so far.
        started: Calls so far.
        messages: Messages that were complete so far.
        sent: Messages that were sent so far.
    """

    number: int
    peer: str
    certificate: bytes
    open: int
    failed: int
    started: int = 0
    messages: int = 0
    sent: int = 0


class Flood(NamedTuple):
    """A caller that has too many calls under way.

    Attributes:
        caller: Who it is.
        calls: How many, or bytes that belong to no message.
        connections: Those with such calls.
        is_certain: Whether no honest caller sends as much.
    """

    caller: str
    calls: int
    connections: list[OpenConnection]
    is_certain: bool = True


def _do_nothing() -> None: ...


class UnseenCalls:
    """Counts the calls that code of the node has seen, and finds those who send too many.

    One thread may count, and one may ask for floods.

    Args:
        workers_of: Returns how many processes share an identity, and so have its limits together.
        is_blocked: Tells whether the calls of a caller are refused.
        max_calls: Calls that a caller with one worker may have open once they are seen.
        open_calls: The calls of each caller that were seen and are open.
        held_by: Returns the bytes that are known to be held for a caller, besides its calls.

    Attributes:
        seen: Calls that code of the node has seen so far.
        look: Looks how many calls have arrived; see `SEEN_MASK`.
    """

    __slots__ = (
        *("_held_by", "_is_blocked", "_more", "_names", "_open", "_workers_of"),
        *("look", "seen"),
    )

    def __init__(
        self,
        workers_of: Callable[[str], int] = lambda _: 1,
        is_blocked: Callable[[str], bool] = lambda _: False,
        max_calls: int = MAX_CALLS,
        open_calls: Mapping[str, int] = MappingProxyType({}),
        held_by: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self.seen = 0
        self._held_by = held_by
        self.look: Callable[[], None] = _do_nothing
        self._workers_of = workers_of
        self._is_blocked = is_blocked
        self._open = open_calls
        self._more = max(0, max_calls - MAX_CALLS)
        self._names: dict[bytes, str | None] = {}

    def __repr__(self) -> str:
        return f"<UnseenCalls {self.seen} seen>"

    def floods(
        self,
        connections: Iterable[OpenConnection],
        *,
        has_stood_still: bool = False,
        arrived: Mapping[str, int] = MappingProxyType({}),
    ) -> list[Flood]:
        """Returns the callers that have too many calls under way.

        Args:
            connections: All that are open.
            has_stood_still: Whether the node did so just now; see `MORE_AFTER_STALL`.
            arrived: Bytes that were received lately, by the other end as gRPC names it.
        """
        under_way: Counter[str] = Counter()
        filled: Counter[str] = Counter()
        held: defaultdict[str, list[OpenConnection]] = defaultdict(list)
        for one in connections:
            caller = self.caller_of(one)
            held[caller].append(one)
            under_way[caller] += one.open
            filled[caller] += min(one.open, arrived.get(one.peer, 0) // UNREAD)
            if self._is_blocked(caller):
                under_way[caller] += one.failed
        more = self._more + (MORE_AFTER_STALL if has_stood_still else 0)
        found = []
        for caller, calls in under_way.items():
            workers = self._workers_of(caller)
            more_held = max(0, self._held_by(caller) // max(1, workers) - BESIDE)
            fewer = min(more_held // CALL, MAX_UNDER_WAY - LEAST)
            limit = MAX_IF_BLOCKED if self._is_blocked(caller) else MAX_UNDER_WAY - fewer + more
            unseen = max(0, calls - self._open.get(caller, 0))
            filled_limit = MAX_FILLED - fewer + more
            excess = max(calls / limit, (calls + min(unseen, filled[caller])) / filled_limit)
            if excess > max(1, workers):
                found.append(Flood(caller, calls, held[caller]))
        return found

    def is_refused(self, one: OpenConnection) -> bool:
        """Tells whether a connection is of a caller whose calls are refused."""
        return self._is_blocked(self.caller_of(one))

    def caller_of(self, one: OpenConnection) -> str:
        """Returns whose calls a connection carries, as the checks of the calls name it."""
        if one.certificate not in self._names:
            if len(self._names) >= MAX_CERTIFICATES:
                self._names.clear()
            self._names[one.certificate] = _name_in(one.certificate)
        return self._names[one.certificate] or one.peer.rpartition(":")[0]


def _name_in(pem: bytes) -> str | None:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        token = enrolment_id_of(certificate)
        return identity_of(certificate).node_id if token is None else f"enroll/{token}"
    except (CertsError, ValueError):
        return None
