"""How calls are rejected or ended: status codes, texts and trailers."""

from __future__ import annotations

from typing import NamedTuple

from aegis_discovery.signals import CODES
from aegis_discovery.transport import SHED_METADATA

from aegis_core._server.admission import AdmissionRefused
from aegis_core._server.caller_limits import BLOCKED_FOR
from aegis_core.errors import CallDeniedError, CallerError

REQUEST_TIMEOUT = 60.0
"""Seconds within which the one request of a call must arrive. 4 MiB need 0.6 Mbit/s."""

NUMBERS = {name: number for number, name in enumerate(CODES)}
"""The numbers of gRPC's status codes."""

UNKNOWN, CANCELLED = NUMBERS["UNKNOWN"], NUMBERS["CANCELLED"]


class Rejection(NamedTuple):
    """Why a call is rejected, or ended: the name of a gRPC status code, its text and trailers."""

    code: str
    text: str
    trailers: tuple[tuple[str, str], ...] = ()

    def always(self, _: object) -> Rejection:
        """Returns itself, for every call."""
        return self


class CallRejectedError(Exception):
    """A call is rejected before its handler runs.

    Attributes:
        rejection: How.
        caller_id: Who called; None if its certificate names no node.
        source: The same, or what to hold responsible in its place.
    """

    def __init__(
        self, rejection: Rejection, caller_id: str | None = None, source: str | None = None
    ) -> None:
        self.rejection = rejection
        self.caller_id = caller_id
        self.source = source or caller_id
        super().__init__(rejection.text)


FULL = Rejection(
    "RESOURCE_EXHAUSTED",
    "this node is at its limit of concurrent calls; try another provider",
    (SHED_METADATA,),
)
BLOCKED = Rejection(
    "RESOURCE_EXHAUSTED",
    f"this node refuses calls of this caller for {BLOCKED_FOR:.0f} s, since it makes or cancels "
    "too many, or reads no answers or ends no requests and goes on to call",
    (SHED_METADATA,),
)
HEADERS_TOO_LONG = Rejection(
    "RESOURCE_EXHAUSTED", "the metadata of the call is longer than this node allows"
)
NO_METHOD = Rejection("UNIMPLEMENTED", "Method not found!")  # gRPC's own words
NO_REQUEST = Rejection("UNIMPLEMENTED", "the method requires exactly one request message")
LATE_REQUEST = Rejection(
    "UNAVAILABLE",
    f"no request arrived within {REQUEST_TIMEOUT:.0f} s, or handlers had as much of its caller's "
    "requests as they may",
    (SHED_METADATA,),
)
TOO_LARGE = Rejection(
    "RESOURCE_EXHAUSTED",
    "handlers of this node have as much of this caller's requests as they may; try another "
    "provider, or send fewer large ones at once",
    (SHED_METADATA,),
)
UNFINISHED = Rejection(
    "RESOURCE_EXHAUSTED",
    "this caller has too many unfinished messages under way at this node; send fewer at once",
)
SLOW_REQUEST = Rejection(
    "UNAVAILABLE", "no request arrived in time; other calls of its caller wait", (SHED_METADATA,)
)
JOINING = Rejection(
    "UNAVAILABLE",
    "this node is still joining the mesh; try another provider",
    (SHED_METADATA,),
)
# Without the mark, as from a node that is gone: callers stop using this node.
CLOSED = Rejection("UNAVAILABLE", "this node is leaving; try another provider")
STOPPED = Rejection("UNAVAILABLE", "this node has stopped; try another provider")
UNREADABLE = Rejection("INTERNAL", "the request cannot be parsed")  # gRPC's own code for it
# The same for every reason, so that nobody learns which tokens and ids exist.
NOT_ISSUED = Rejection("PERMISSION_DENIED", "the issuer refused the request; its log says why")

NOT_ADMITTED = {AdmissionRefused.FULL: FULL, AdmissionRefused.CLOSED: CLOSED}
"""How calls are rejected that admission control does not admit."""


def rejection_of(error: CallerError) -> Rejection:
    """Returns how a call is rejected whose caller is refused or denied."""
    denied = isinstance(error, CallDeniedError)
    return Rejection("PERMISSION_DENIED" if denied else "UNAUTHENTICATED", str(error))


def too_many(caller: str, calls: int) -> Rejection:
    """Returns how a call is rejected whose caller has as many calls open as it may have."""
    return Rejection(
        "RESOURCE_EXHAUSTED",
        f"{caller} has {calls} calls open at this node, as many as it may; try another provider, "
        "or give each of its processes an identity of its own",
        (SHED_METADATA,),
    )
