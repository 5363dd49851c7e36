"""Judges calls before their handlers run, and streams while they are open. Pure."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aegis_discovery.policy import split_method
from aegis_discovery.signals import OTHER, EdgeTable, LogLimiter, PeerEdges

from aegis_core._access.authorization import CallAuthorizer, Shown
from aegis_core._access.bootstrap import BootstrapCaller, unnamed_source
from aegis_core._access.caller import (
    CERTIFICATE,
    NOTHING,
    TLS_VERSION,
    CallContext,
    Caller,
    caller_from_auth,
    caller_from_context,
)
from aegis_core._access.issuer_callers import ENROLL, ISSUER, judge, refused_node
from aegis_core._server.admission import AdmissionControl, Call
from aegis_core._server.caller_limits import (
    BLOCKED_FOR,
    CANCELLED_PER_SECOND,
    NAMED_PER_SECOND,
    CallerLimits,
)
from aegis_core._server.connection_limits import ConnectionLimits, Guard
from aegis_core._server.held.bounds import Bounds
from aegis_core._server.rejections import (
    BLOCKED,
    FULL,
    HEADERS_TOO_LONG,
    JOINING,
    NO_METHOD,
    NOT_ISSUED,
    NUMBERS,
    UNREADABLE,
    CallRejectedError,
    Rejection,
    rejection_of,
    too_many,
)
from aegis_core.errors import CallDeniedError, CallerError

if TYPE_CHECKING:
    from aegis_discovery.telemetry import OpenTelemetry

_log = logging.getLogger("aegis.server")

REVALIDATION_INTERVAL = 1.0
"""Seconds between two checks of the callers of open streams."""

MAX_METHODS = 4096
"""Methods whose handlers are cached; a generic handler may serve any number of methods."""

MAX_HEADERS, ENTRY = 8 * 1024, 64
"""Bytes of the metadata of a call, and of an entry besides its text, which takes 250 of a node."""

CallT = TypeVar("CallT", bound=Call)


class CallChecks(Generic[CallT]):
    """Knows who may call, and whose streams are open. It may be used from any thread.

    Args:
        authorizer: Decides which calls are allowed.
        admission: Limits the calls of the user's services.
        callers: Limits the calls of one caller.
        connections: Limits the connections.
        workers_of: Returns how many processes share an identity, and so have its limits together.
        max_headers: Bytes of the metadata of a call.
        open_services: Services that every member of the mesh may call, whatever the policy.
        own_services: Services that are not the user's, and so are not limited.
        is_issuer: Whether bootstrap identities may enrol here.

    Attributes:
        admission: The same admission control.
        callers: The same limits.
        connections: The same limits.
        verifier: Decides which callers are accepted, and remembers whose calls were allowed.
        reads: Limits the requests of one caller that are read at once.
        answers: Counts answers that their callers do not read.
        unfinished: Bounds messages of which a part has arrived.
        unseen: Finds who sends too many calls.
        streams: The callers of open streams, and the methods that the policy is asked about.
        refused: Calls refused for the caller's certificate or TLS version.
        denied: Calls that the policy denied.
        over_limit: Calls refused since their caller has or cancels too many, or for long metadata.
        max_headers: Bytes of the metadata of a call; each entry counts `ENTRY` more.
        edges: Counts the calls of the user's services, by caller and method.
        services: The user's services; methods of others, which only a handler of any name serves,
            are counted together.
        telemetry: Traces and measures calls; None for none.
        guard: Closes connections; None until the server has started.
        is_joining: Whether calls of the user's services are rejected: it may not know a policy yet.
    """

    guard: Guard | None = None
    telemetry: OpenTelemetry | None = None

    def __init__(
        self,
        authorizer: CallAuthorizer,
        admission: AdmissionControl[CallT],
        *,
        callers: CallerLimits | None = None,
        connections: ConnectionLimits | None = None,
        workers_of: Callable[[str], int] = lambda _: 1,
        max_headers: int = MAX_HEADERS,
        open_services: Collection[str] = (),
        own_services: Collection[str] = (),
        is_issuer: bool = False,
    ) -> None:
        self.admission = admission
        self.streams: dict[CallT, tuple[Caller, str | None]] = {}
        self.refused = 0
        self.denied = 0
        self.over_limit = 0
        self.edges = EdgeTable("server")
        self.services: Collection[str] = ()
        self.callers = CallerLimits() if callers is None else callers
        self.connections = connections or ConnectionLimits()
        bounds = Bounds[CallT](self.callers, workers_of)
        self.answers, self.reads = bounds.answers, bounds.reads
        self.unfinished, self.unseen = bounds.unfinished, bounds.unseen
        self.max_headers = max_headers
        self.is_joining = False
        self._authorizer = authorizer
        self.verifier = authorizer.verifier
        self._open_services = frozenset(open_services)
        self._own_services = frozenset(own_services)
        self._is_issuer = is_issuer
        self._lock = threading.Lock()
        self._log_limiter = LogLimiter(_log)

    def is_limited(self, path: str) -> bool:
        """Tells whether a method is of the user's services, of which only so many calls may run."""
        return split_method(path)[0] not in self._own_services

    def edges_of(self, path: str) -> PeerEdges | None:
        """Returns the counts of a method's calls, by caller; None for the node's own methods."""
        if not self.is_limited(path):
            return None
        return self.edges.of("", path if split_method(path)[0] in self.services else OTHER)

    def policy_path(self, path: str) -> str | None:
        """Returns the method that the policy is asked about; None if no policy applies."""
        return None if split_method(path)[0] in self._open_services else path

    def acceptor(self, method: str) -> Callable[[CallContext, str | None, CallT | None], Caller]:
        """Returns what accepts the calls of a method: `accept`, or what does it for an issuer."""
        if split_method(method)[0] != ISSUER:
            return self.accept

        def accept(context: CallContext, _path: str | None, _call: CallT | None) -> Caller:
            try:
                caller = judge(method, self._authorizer, context, is_issuer=self._is_issuer)
            except CallerError as error:
                caller_id = refused_node(error, context)
                source = self._refuse(error, caller_id, context)
                line = "a call of %s by %s was refused: %s"
                self._log_limiter.warn(source, method, line, method, source, error)
                self.abused(source, context)  # nobody makes many of these
                raise CallRejectedError(NOT_ISSUED, caller_id, source) from None
            if method == ENROLL and self.callers.is_blocked(caller.node_id):
                self.block(caller.node_id, context)
            self._check_blocked(caller.node_id, context)
            self._enter(caller.node_id, context)
            return caller

        return accept

    def accept(
        self,
        context: CallContext,
        path: str | None,
        call: CallT | None,
        auth: Mapping[str, Any] | None = None,
    ) -> Caller:
        """Returns the caller of an allowed call. Tell `callers` when the call is over.

        Args:
            context: The context of the call.
            path: The method, as `policy_path` returns it.
            call: The call if it is limited; it is counted as running from then on.
            auth: The context's `auth_context()`, if it was read.

        Raises:
            CallRejectedError: The call is not allowed, or is one too many.
        """
        # A call that was allowed before needs one look, in no further frame: each one costs time.
        verifier, shown = self.verifier, None
        try:
            if auth is None:
                auth = context.auth_context()
            shown = auth[CERTIFICATE][0], auth.get(TLS_VERSION, NOTHING)[0], path
            caller = verifier.allowed.get(shown)
        except (AttributeError, LookupError):
            caller = None
        if caller is None or verifier.clock() >= caller.not_after:
            caller = self._judge(context, path, auth, shown)
        caller_id = caller.node_id
        limits = self.callers
        if (
            self.is_joining
            or limits.blocked
            or self.answers.full
            or self.connections.is_watching
            or limits.open[caller_id] >= limits.max_calls
        ):
            self._enter_closely(caller_id, context, path)
        else:
            limits.open[caller_id] += 1
        if call is not None and not self.admission.begin(call):
            limits.leave(caller_id)
            raise CallRejectedError(FULL, caller_id)
        return caller

    def _judge(
        self,
        context: CallContext,
        path: str | None,
        auth: Mapping[str, Any] | None,
        shown: Shown | None,
    ) -> Caller:
        """Returns the caller of an allowed call, whoever it is."""
        caller_id = None
        try:
            caller = (
                caller_from_context(context) if auth is None else caller_from_auth(auth, context)
            )
            caller_id = caller.node_id
            self._check_blocked(caller_id, context)
            error = self._authorizer.check(caller, path, shown=shown)
            if error is not None:
                raise error
        except CallerError as error:
            source = self._refuse(error, caller_id, context)
            if not isinstance(error, CallDeniedError):  # the authorizer logs denials
                self._log_limiter.warn(source, "refused", "calls are refused: %s", error)
            raise CallRejectedError(rejection_of(error), caller_id, source) from None
        return caller

    def _enter_closely(self, caller_id: str, context: CallContext, path: str | None) -> None:
        """Counts a call as open while the node joins, or while there is something to look at."""
        self._check_blocked(caller_id, context)
        if self.is_joining and path is not None and self.is_limited(path):
            raise CallRejectedError(JOINING, caller_id)
        self._enter(caller_id, context)

    def _refuse(self, error: CallerError, caller_id: str | None, context: CallContext) -> str:
        """Counts a refusal; returns whom to hold responsible for the call."""
        self._count(error)
        if caller_id is not None:
            return caller_id
        source = unnamed_source(context)
        self._check_blocked(source, context)
        return source

    @staticmethod
    def count_rejected(edges: PeerEdges, error: CallRejectedError) -> None:
        """Counts a call that was not accepted."""
        edges[error.caller_id or OTHER].rejected(NUMBERS[error.rejection.code])

    def abused(self, caller_id: str, context: CallContext | None = None) -> None:
        """Counts a call that its caller cancelled, or began although it must not.

        Args:
            caller_id: Who called.
            context: The context of the call, to close its connection if it is one too many.
        """
        if not self.callers.abuse(caller_id):
            if self.callers.cancels_many(caller_id):
                line = (
                    "%s cancels many calls, or makes many that are refused: %.0f a second or more"
                )
                self._log_limiter.warn(caller_id, "many", line, caller_id, NAMED_PER_SECOND)
            return
        line = (
            "%s cancels more than %.0f calls a second, or makes as many that are refused; for "
            "%.0f s its calls are refused, and its connections are closed if it goes on"
        )
        limits = caller_id, CANCELLED_PER_SECOND, BLOCKED_FOR
        self._log_limiter.warn(caller_id, "cancels", line, *limits)
        if context is not None and self.guard is not None:
            self.guard.condemn(context.peer())

    def block(self, caller_id: str, context: CallContext) -> None:
        """Refuses a caller for a while; closes the connections of this call and what it holds."""
        self.callers.block(caller_id)
        if self.guard is not None:
            self.guard.close({context.peer(), *self.unfinished.peers_of(caller_id)})

    def reject_long_headers(self, context: CallContext) -> Rejection:
        if self.guard is not None:  # whoever it is: each such call takes 3 MB
            self.guard.note_long_headers(context.peer())
        try:
            caller_id = caller_from_context(context).node_id
        except CallerError as error:
            self.abused(unnamed_source(context), context)
            return rejection_of(error)
        line = "%s sends calls with more than %d bytes of metadata, which are refused"
        self._log_limiter.warn(caller_id, "metadata", line, caller_id, self.max_headers)
        self.abused(caller_id)
        return self._over_limit(HEADERS_TOO_LONG, caller_id).rejection

    def reject_unknown_method(self, context: CallContext) -> Rejection:
        """Returns how a call of an unknown method is rejected; nobody calls many of these."""
        try:
            caller_id = caller_from_context(context).node_id
        except CallerError as error:
            self.abused(unnamed_source(context), context)
            return rejection_of(error)
        self.abused(caller_id, context)
        self.edges.of("", OTHER)[caller_id].rejected(NUMBERS[NO_METHOD.code])
        return NO_METHOD

    def _check_blocked(self, caller_id: str, context: CallContext) -> None:
        if self.callers.is_blocked(caller_id):
            self.abused(caller_id, context)
            if self.callers.goes_on(caller_id) and self.guard is not None:
                self.guard.condemn(context.peer())
            raise self._over_limit(BLOCKED, caller_id)

    def _enter(self, caller_id: str, context: CallContext) -> None:
        if self.connections.is_watching and self.guard is not None:
            self.guard.note_call(context.peer(), caller_id)
        reads_nothing = caller_id in self.answers.full
        if not self.callers.enter(caller_id, few=reads_nothing):
            line = "%s has too many calls open; further ones are refused"
            sends_nothing = 2 * self.reads.count(caller_id) > self.callers.open[caller_id]
            if sends_nothing:
                line = "%s ends no requests and goes on to call; its calls are refused for a while"
            if reads_nothing:
                line = "%s reads no answers and goes on to call; its calls are refused for a while"
            if reads_nothing or sends_nothing:
                self.block(caller_id, context)
            self._log_limiter.warn(caller_id, "open", line, caller_id)
            self.abused(caller_id, context)
            raise self._over_limit(too_many(caller_id, self.callers.open[caller_id]), caller_id)

    def _over_limit(self, rejection: Rejection, caller_id: str) -> CallRejectedError:
        self.count_over_limit(1)
        return CallRejectedError(rejection, caller_id)

    def refuse_unfinished(self, caller_id: str, context: CallContext) -> None:
        """Counts a call that its caller must not open, since it left many messages unfinished."""
        self.count_over_limit(1)
        self.abused(caller_id, context)
        if self.unfinished.goes_on(caller_id):
            self.block(caller_id, context)

    def count_over_limit(self, count: int) -> None:
        """Counts calls that were one too many of their caller's."""
        with self._lock:
            self.over_limit += count

    def unreadable(self, caller: Caller, path: str, error: Exception) -> Rejection:
        """Logs that a request cannot be parsed; returns how its call is rejected."""
        line = "%s sent a request for %s that cannot be parsed: %r; do both use the same messages?"
        self._log_limiter.warn(caller.node_id, "request", line, caller.node_id, path, error)
        return error.rejection if isinstance(error, CallRejectedError) else UNREADABLE

    def disallowed(self, ended: Collection[CallT]) -> Iterator[tuple[CallT, Rejection]]:
        """Yields the open streams that are not allowed any more, and why.

        Those of `ended` are neither counted nor logged again.
        """
        for call, (caller, path) in self.streams.copy().items():
            if isinstance(caller, BootstrapCaller):
                error = self._authorizer.check_bootstrap(caller)
            else:
                error = self._authorizer.check_open(caller, path)
            if error is None:
                continue
            if call not in ended:
                self._count(error)
                if not isinstance(error, CallDeniedError):  # the authorizer logs denials
                    line = "an open stream is ended: %s"
                    self._log_limiter.warn(caller.node_id, "stream", line, error)
            yield call, rejection_of(error)

    def _count(self, error: CallerError) -> None:
        is_denied = isinstance(error, CallDeniedError)
        with self._lock:
            self.denied += is_denied
            self.refused += not is_denied
