"""The node's own services on `grpc.server`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import grpc
from aegis_discovery.feed import FeedPacer, FeedWriter, heartbeat_ticks
from aegis_discovery.proto import (
    aegis_pb2_grpc,
    mesh_pb2_grpc,
    stats_pb2_grpc,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aegis_core._server.introspection import NodeIntrospection
from aegis_core._server.mesh_protocol import (
    FeedAdmission,
    LocalNode,
    RequestRefusedError,
    UnsignedProtocol,
)
from aegis_core._server.rejections import Rejection
from aegis_core._server.sync.calls import ServerCall, current_call
from aegis_core._server.sync.handlers import abort
from aegis_core._server.sync.streams import StreamSenders

T = TypeVar("T")

_log = logging.getLogger("aegis.server")

LOOP_TIMEOUT = 10.0
"""Seconds in which the node's event loop must answer a request that needs it."""

CLOSE_POLL_INTERVAL = 0.01
"""Seconds between two checks whether feeds have ended."""


STANDS_STILL = 3.0
"""Seconds without a turn after which the node's event loop stands still, until its next turn.

A second later other nodes suspect a node that sends no heartbeats.
"""

HEALTH_CHECK_EVERY = 1.0
"""Seconds between two checks, for each watcher of the health, whether the loop stands still."""


class NodeLoop:
    """Runs what is not safe in any thread on the event loop of the node."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine; returns its result.

        Raises:
            RequestRefusedError: The loop does not answer in time, or has ended.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise RequestRefusedError("UNAVAILABLE", "this node has stopped") from None
        try:
            return future.result(LOOP_TIMEOUT)
        except TimeoutError:
            future.cancel()
            raise RequestRefusedError("UNAVAILABLE", "this node is too busy") from None
        except CancelledError:
            raise RequestRefusedError("UNAVAILABLE", "this node has stopped") from None

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a function; as `run`."""

        async def work() -> T:
            return function(*arguments)

        return self.run(work())

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function soon, unless the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


@contextlib.contextmanager
def refusals(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call if its request is refused."""
    try:
        yield
    except RequestRefusedError as error:
        abort(context, Rejection(error.code, error.text))


class LivenessService(aegis_pb2_grpc.MeshServiceServicer):
    """The five unary calls of the unsigned protocol."""

    def __init__(self, node: LocalNode, loop: NodeLoop) -> None:
        self._protocol = UnsignedProtocol(node)
        self._confirm = node.confirm
        self._loop = loop

    def Ping(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        with refusals(context):
            return self._protocol.ping(request, current_call().caller)

    def GetHealth(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        with refusals(context):
            return self._protocol.health(request, current_call().caller)

    def GetNodeInfo(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        with refusals(context):
            return self._protocol.node_info(request, current_call().caller)

    def SyncTopology(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        """Returns the whole topology, with a version that makes the caller adopt it."""
        caller = current_call().caller

        async def sync() -> Any:
            with self._protocol.reading(request.sender_id, caller, time.monotonic()):
                is_confirmed = await self._confirm(caller.node_id)
                return self._protocol.sync_topology(request, caller, is_confirmed=is_confirmed)

        with refusals(context):
            return self._loop.run(sync())

    def GetTopology(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        caller = current_call().caller

        def get() -> Any:
            with self._protocol.reading(request.sender_id, caller, time.monotonic()):
                return self._protocol.topology(caller)

        with refusals(context):
            return self._loop.call(get)


class FeedService(mesh_pb2_grpc.MeshServicer):
    """Serves feeds until it is closed."""

    def __init__(self, node: LocalNode, loop: NodeLoop, senders: StreamSenders) -> None:
        self._admission = FeedAdmission(node)
        self._loop = loop
        self._senders = senders
        self._feeds: dict[_FeedSource, str] = {}
        self._unsubscribe = node.topology.subscribe_changed(senders.wake)
        self._unsubscribe_documents = node.documents.subscribe_changed(senders.wake)
        self.is_closing = False

    @property
    def served(self) -> int:
        """How many feeds were opened so far."""
        return self._admission.served

    @property
    def watchers(self) -> frozenset[str]:
        """Ids of the nodes and clients that hold a feed open."""
        return frozenset(self._feeds.copy().values())

    async def close(self, timeout: float) -> frozenset[str]:
        """Ends all feeds with the last changes, and with OK.

        Returns the ids of the watchers that read the changes within `timeout` seconds.
        """
        before = self.watchers
        self.is_closing = True
        self._senders.wake()
        deadline = time.monotonic() + timeout
        while self._feeds and time.monotonic() < deadline:  # noqa: ASYNC110 - threads end them
            await asyncio.sleep(CLOSE_POLL_INTERVAL)
        if self._feeds:
            _log.info("%d watchers did not read the last changes in time", len(self._feeds))
        self._unsubscribe()
        self._unsubscribe_documents()
        return before - self.watchers

    def Watch(  # noqa: N802 - the wire's name
        self, request: Any, context: grpc.ServicerContext, send: Any = None
    ) -> None:
        """Streams what the watcher lacks, then every change.

        While this node leaves, a new watcher still gets that change: a refusal would look like a
        failure of this node.
        """
        # The admission and what releases it are one step on the loop. A loop that stood still may
        # take that step after this thread has given up and ended the call.
        with refusals(context):
            self._loop.call(self._open, request, current_call())

    def _open(self, request: Any, call: ServerCall) -> None:
        writer = self._admission.admit(request, call.caller, time.monotonic())

        def release() -> None:
            self._feeds.pop(source, None)
            self._loop.call_soon(self._admission.release, call.caller)

        source = _FeedSource(self, writer, release)
        self._feeds[source] = writer.watcher
        self._senders.open(call, source)

    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # gRPC's name


class _FeedSource:
    """What a watcher lacks, and a heartbeat after a while without a change."""

    def __init__(
        self, service: FeedService, writer: FeedWriter, release: Callable[[], None]
    ) -> None:
        self._service = service
        self._writer = writer
        ticks = heartbeat_ticks(writer.heartbeat_phase, time.monotonic(), time.time())
        self._pacer = FeedPacer(time.monotonic(), ticks)
        self._was_checked = False
        self.close = release
        self.is_finished = False

    def take(self) -> Iterator[Any]:
        is_last = self._service.is_closing
        was_idle = self._was_checked
        sent = False
        for message in self._writer.messages():
            yield message
            sent = True
        self.is_finished = is_last
        now = time.monotonic()
        self._pacer.note_checked(now, sent=sent)
        self._was_checked = True
        if was_idle and not sent and not is_last and self._pacer.until_heartbeat(now) <= 0:
            yield self._writer.heartbeat()
            self._pacer.note_heartbeat(time.monotonic())

    def delay(self, *, has_changed: bool) -> float:
        now = time.monotonic()
        if not has_changed:
            return self._pacer.until_heartbeat(now)
        return 0.0 if self._service.is_closing else self._pacer.batch_delay(now)


class HealthService(health_pb2_grpc.HealthServicer):
    """The standard health service. Its streams hold no thread."""

    def __init__(self, senders: StreamSenders) -> None:
        self._senders = senders
        self._statuses: dict[str, Any] = {"": health_pb2.HealthCheckResponse.SERVING}
        self._is_leaving = False
        self._turn_at = math.inf

    def note_loop_turn(self) -> None:
        """Records that the node's event loop has a turn."""
        self._turn_at = time.monotonic()

    def status_of(self, service: str) -> Any:
        """Returns the status of a service; None if it is unknown.

        While the node's event loop stands still nothing is served: the mesh drops the node soon.
        """
        status = self._statuses.get(service)
        if status is not None and time.monotonic() - self._turn_at >= STANDS_STILL:
            return health_pb2.HealthCheckResponse.NOT_SERVING
        return status

    def set(self, status: Any, *services: str) -> None:
        """Sets the status of services, unless the node leaves."""
        if not self._is_leaving:
            self._statuses.update(dict.fromkeys(services, status))
            self._senders.wake()

    def leave(self) -> None:
        """Sets all services to NOT_SERVING for good."""
        self.set(health_pb2.HealthCheckResponse.NOT_SERVING, *self._statuses)
        self._is_leaving = True

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        status = self.status_of(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "")
        return health_pb2.HealthCheckResponse(status=status)

    def Watch(  # noqa: N802 - the wire's name
        self, request: Any, context: grpc.ServicerContext, send: Any = None
    ) -> None:
        """Streams the status of a service and its changes."""
        self._senders.open(current_call(), _HealthSource(self, request.service))

    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # gRPC's name


class _HealthSource:
    is_finished = False

    def __init__(self, health: HealthService, service: str) -> None:
        self._health = health
        self._service = service
        self._sent: Any = None

    def take(self) -> Iterator[Any]:
        status = self._health.status_of(self._service)
        if status is None:
            status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if status != self._sent:
            self._sent = status
            yield health_pb2.HealthCheckResponse(status=status)

    def delay(self, *, has_changed: bool) -> float:
        return 0.0 if has_changed else HEALTH_CHECK_EVERY

    def close(self) -> None: ...


class Introspection(stats_pb2_grpc.IntrospectionServicer):
    """Serves `GetStats` and `Explain`.

    Args:
        node: Answers them, on the node's event loop.
        loop: That loop.
    """

    def __init__(self, node: NodeIntrospection, loop: NodeLoop) -> None:
        self._node = node
        self._loop = loop

    def GetStats(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        with refusals(context):
            return self._loop.call(self._node.get_stats, request)

    def Explain(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        caller_id, now = current_call().caller.node_id, time.monotonic()
        with refusals(context):
            return self._loop.call(self._node.explain, request, caller_id, now)


MAX_REFLECTION = 60.0
"""Seconds after which a reflection stream ends: it holds one of few threads."""

_TOO_LONG = Rejection("DEADLINE_EXCEEDED", "a reflection stream may take a minute; open another")


def limited_in_time(handler: Any) -> Any:
    """Ends the calls of a handler of streams of both kinds after `MAX_REFLECTION` seconds."""
    inner = handler.stream_stream

    def serve(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        timer = threading.Timer(MAX_REFLECTION, current_call().end, [_TOO_LONG])
        timer.daemon = True
        timer.start()
        try:
            yield from inner(requests, context)
        finally:
            timer.cancel()

    return grpc.stream_stream_rpc_method_handler(
        serve, handler.request_deserializer, handler.response_serializer
    )
