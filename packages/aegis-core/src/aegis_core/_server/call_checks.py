"""Judges calls before their handlers run, and streams while they are open. Pure."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from aegis_discovery.logs import LogLimiter
from aegis_discovery.policy import split_method
from aegis_discovery.transport import SHED_METADATA

from aegis_core._access.authorization import CallAuthorizer
from aegis_core._access.bootstrap import BootstrapCaller, bootstrap_from_context
from aegis_core._access.caller import CallContext, Caller, caller_from_context
from aegis_core._server.admission import AdmissionControl, AdmissionRefused, Call
from aegis_core.errors import CallDeniedError, CallerError, CallerRefusedError

_log = logging.getLogger("aegis.server")

REVALIDATION_INTERVAL = 1.0
"""Seconds between two checks of the callers of open streams."""

MAX_METHODS = 4096
"""Methods whose handlers are cached; a generic handler may serve any number of methods."""

CallT = TypeVar("CallT", bound=Call)


class Rejection(NamedTuple):
    """Why a call is rejected, or ended: the name of a gRPC status code, its text and trailers."""

    code: str
    text: str
    trailers: tuple[tuple[str, str], ...] = ()


class CallRejectedError(Exception):
    """A call is rejected before its handler runs."""

    def __init__(self, rejection: Rejection) -> None:
        self.rejection = rejection
        super().__init__(rejection.text)


FULL = Rejection(
    "RESOURCE_EXHAUSTED",
    "this node is at its limit of concurrent calls; try another provider",
    (SHED_METADATA,),
)
# Without the mark, as from a node that is gone: callers stop using this node.
CLOSED = Rejection("UNAVAILABLE", "this node is leaving; try another provider")
STOPPED = Rejection("UNAVAILABLE", "this node has stopped; try another provider")
UNREADABLE = Rejection("INTERNAL", "the request cannot be parsed")  # gRPC's own code for it
# The same for every reason, so that nobody learns which tokens and ids exist.
NOT_ISSUED = Rejection("PERMISSION_DENIED", "the issuer refused the request; its log says why")

ISSUER = "aegis.mesh.v1.Issuer"
"""The service that issues certificates to the mesh."""

ENROLL = f"/{ISSUER}/Enroll"
"""The only method that a bootstrap identity may call, and no other identity."""

NOT_ADMITTED = {AdmissionRefused.FULL: FULL, AdmissionRefused.CLOSED: CLOSED}
"""How calls are rejected that admission control does not admit."""


class CallChecks(Generic[CallT]):
    """Knows who may call, and whose streams are open. It may be used from any thread.

    Args:
        authorizer: Decides which calls are allowed.
        admission: Limits the calls of the user's services.
        open_services: Services that every member of the mesh may call, whatever the policy.
        own_services: Services that are not the user's, and so are not limited.
        is_issuer: Whether bootstrap identities may enrol here.

    Attributes:
        admission: The same admission control.
        streams: The callers of open streams, with the methods that the policy is asked about.
        refused: Calls refused for the caller's certificate or TLS version.
        denied: Calls that the policy denied.
    """

    def __init__(
        self,
        authorizer: CallAuthorizer,
        admission: AdmissionControl[CallT],
        *,
        open_services: Collection[str] = (),
        own_services: Collection[str] = (),
        is_issuer: bool = False,
    ) -> None:
        self.admission = admission
        self.streams: dict[CallT, tuple[Caller, str | None]] = {}
        self.refused = 0
        self.denied = 0
        self._authorizer = authorizer
        self._open_services = frozenset(open_services)
        self._own_services = frozenset(own_services)
        self._is_issuer = is_issuer
        self._lock = threading.Lock()
        self._log_limiter = LogLimiter(_log)

    def is_limited(self, path: str) -> bool:
        """Tells whether a method is of the user's services, of which only so many calls may run."""
        return split_method(path)[0] not in self._own_services

    def policy_path(self, path: str) -> str | None:
        """Returns the method that the policy is asked about; None if no policy applies."""
        return None if split_method(path)[0] in self._open_services else path

    def acceptor(self, method: str) -> Callable[[CallContext, str | None, CallT | None], Caller]:
        """Returns what accepts the calls of a method: `accept`, or what does it for an issuer."""
        if split_method(method)[0] != ISSUER:
            return self.accept
        judge = self._bootstrap_of if method == ENROLL else self._member_of

        def accept(context: CallContext, _path: str | None, _call: CallT | None) -> Caller:
            try:
                return judge(context)
            except CallerError as error:
                self._count(error)
                self._log_limiter.warn(method, str(error), "%s was refused: %s", method, error)
                raise CallRejectedError(NOT_ISSUED) from None

        return accept

    def accept(self, context: CallContext, path: str | None, call: CallT | None) -> Caller:
        """Returns the caller of an allowed call.

        Args:
            context: The context of the call.
            path: The method, as `policy_path` returns it.
            call: The call if it is limited; it is counted as running from then on.

        Raises:
            CallRejectedError: The call is not allowed, or is one too many.
        """
        try:
            caller = caller_from_context(context)
            error = self._authorizer.check(caller, path)
            if error is not None:
                raise error
        except CallerError as error:
            self._count(error)
            raise CallRejectedError(_rejection(error)) from None
        if call is not None and not self.admission.begin(call):
            raise CallRejectedError(FULL)
        return caller

    def _member_of(self, context: CallContext) -> Caller:
        caller = caller_from_context(context)
        error = self._authorizer.check(caller, None)
        if error is not None:
            raise error
        return caller

    def _bootstrap_of(self, context: CallContext) -> Caller:
        caller = bootstrap_from_context(context)
        error = self._authorizer.check_bootstrap(caller)
        if error is not None:
            raise error
        if not self._is_issuer:
            raise CallerRefusedError(caller.node_id, "this node is no issuer")
        return caller

    def unreadable(self, caller: Caller, path: str, error: Exception) -> Rejection:
        """Logs that a request cannot be parsed; returns how its call is rejected."""
        line = "%s sent a request for %s that cannot be parsed: %r; do both use the same messages?"
        self._log_limiter.warn(caller.node_id, "request", line, caller.node_id, path, error)
        return UNREADABLE

    def disallowed(self, ended: Collection[CallT]) -> Iterator[tuple[CallT, Rejection]]:
        """Yields the open streams that are not allowed any more, and why.

        Args:
            ended: Those that were ended before; they are neither counted nor logged again.
        """
        for call, (caller, path) in self.streams.copy().items():
            if isinstance(caller, BootstrapCaller):
                error = self._authorizer.check_bootstrap(caller)
            else:
                error = self._authorizer.check(caller, path, is_open=True)
            if error is None:
                continue
            if call not in ended:
                self._count(error)
                if not isinstance(error, CallDeniedError):  # the authorizer logs denials
                    _log.warning("an open stream is ended: %s", error)
            yield call, _rejection(error)

    def _count(self, error: CallerError) -> None:
        with self._lock:
            if isinstance(error, CallDeniedError):
                self.denied += 1
            else:
                self.refused += 1


def _rejection(error: CallerError) -> Rejection:
    denied = isinstance(error, CallDeniedError)
    return Rejection("PERMISSION_DENIED" if denied else "UNAUTHENTICATED", str(error))


def kind_of(handler: Any) -> str:
    """Returns gRPC's name of a handler's kind, such as `unary_stream`."""
    streaming = handler.request_streaming, handler.response_streaming
    return "_".join("stream" if streams else "unary" for streams in streaming)
