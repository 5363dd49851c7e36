"""The mesh's own services on `grpc.aio`: the unsigned protocol, the feed and the statistics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import grpc
from aegis_discovery.feed import FeedPacer, FeedWriter, heartbeat_ticks
from aegis_discovery.proto import (
    aegis_pb2,
    aegis_pb2_grpc,
    mesh_pb2,
    mesh_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    stats_pb2,
    stats_pb2_grpc,
)

from aegis_core._access.caller import Caller, caller_from_context
from aegis_core._server.introspection import NodeIntrospection
from aegis_core._server.mesh_protocol import (
    FeedAdmission,
    LocalNode,
    RequestRefusedError,
    UnsignedProtocol,
)
from aegis_core._server.operations import NodeOperations
from aegis_core._waker import Waker
from aegis_core.errors import CallerError

_log = logging.getLogger("aegis.server")

Context = grpc.aio.ServicerContext[object, object]


@asynccontextmanager
async def refusals(context: Context) -> AsyncIterator[None]:
    """Ends the call if there is no caller, or if its request is refused."""
    try:
        yield
    except CallerError as error:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
    except RequestRefusedError as error:
        await context.abort(grpc.StatusCode[error.code], error.text)


@asynccontextmanager
async def identified(context: Context) -> AsyncIterator[Caller]:
    """Yields the caller; ends the call if there is none, or if its request is refused."""
    async with refusals(context):
        yield caller_from_context(context)


class UnsignedProtocolService(aegis_pb2_grpc.MeshServiceServicer):
    """The five unary calls of the unsigned protocol."""

    def __init__(self, node: LocalNode) -> None:
        self._protocol = UnsignedProtocol(node)
        self._confirm = node.confirm

    async def Ping(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.PingRequest, context: Context
    ) -> aegis_pb2.PingResponse:
        async with identified(context) as caller:
            return self._protocol.ping(request, caller)

    async def GetHealth(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.HealthRequest, context: Context
    ) -> aegis_pb2.HealthResponse:
        async with identified(context) as caller:
            return self._protocol.health(request, caller)

    async def GetNodeInfo(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.NodeInfoRequest, context: Context
    ) -> aegis_pb2.NodeInfoResponse:
        async with identified(context) as caller:
            return self._protocol.node_info(request, caller)

    async def SyncTopology(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.TopologySyncRequest, context: Context
    ) -> aegis_pb2.TopologySyncResponse:
        """Returns the whole topology, with a version that makes the caller adopt it."""
        async with identified(context) as caller:
            with self._protocol.reading(request.sender_id, caller, time.monotonic()):
                is_confirmed = await self._confirm(caller.node_id)
                return self._protocol.sync_topology(request, caller, is_confirmed=is_confirmed)

    async def GetTopology(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.GetTopologyRequest, context: Context
    ) -> aegis_pb2.GetTopologyResponse:
        async with identified(context) as caller:
            with self._protocol.reading(request.sender_id, caller, time.monotonic()):
                return self._protocol.topology(caller)


class FeedService(mesh_pb2_grpc.MeshServicer):
    """Serves feeds until it is closed."""

    def __init__(self, node: LocalNode) -> None:
        self._topology, self._documents = node.topology, node.documents
        self._admission = FeedAdmission(node)
        self._closing = False
        self._wakers: dict[Waker, str] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def served(self) -> int:
        """How many feeds were opened so far."""
        return self._admission.served

    @property
    def watchers(self) -> frozenset[str]:
        """Ids of the nodes and clients that hold a feed open."""
        return frozenset(self._wakers.values())

    async def close(self, timeout: float) -> frozenset[str]:
        """Ends all feeds with the last changes, and with OK.

        Returns the ids of the watchers that read the changes within `timeout` seconds.
        """
        before = self.watchers
        self._closing = True
        for waker in self._wakers:
            waker.set()
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            _log.info("%d watchers did not read the last changes in time", len(self._wakers))
        return before - self.watchers

    async def Watch(  # noqa: N802 - the wire's name
        self, request: mesh_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[mesh_pb2.WatchResponse]:
        """Streams what the watcher lacks, then every change.

        While this node leaves, a new watcher still gets that change: a refusal would look like a
        failure of this node.
        """
        async with identified(context) as caller:
            writer = self._admission.admit(request, caller, time.monotonic())
        waker = Waker()
        self._wakers[waker] = writer.watcher
        self._idle.clear()
        try:
            async with aclosing(self._feed(writer, waker)) as messages:
                async for message in messages:
                    yield message
        finally:
            self._admission.release(caller)
            self._wakers.pop(waker, None)
            if not self._wakers:
                self._idle.set()

    async def _feed(
        self, writer: FeedWriter, waker: Waker
    ) -> AsyncGenerator[mesh_pb2.WatchResponse, None]:
        ticks = heartbeat_ticks(writer.heartbeat_phase, time.monotonic(), time.time())
        pacer = FeedPacer(time.monotonic(), ticks)
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # In a flood of changes it is nearly always set, and each call into the event loop is
            # expensive.
            if not waker.is_set:
                loop.call_soon_threadsafe(waker.set)

        unsubscribe = self._topology.subscribe_changed(wake)
        unsubscribe_documents = self._documents.subscribe_changed(wake)
        try:
            while True:
                waker.clear()
                # Read before the changes: changes during the sending go with the next messages.
                is_last = self._closing
                sent = False
                for message in writer.messages():
                    yield message
                    sent = True
                if is_last:
                    return
                pacer.note_checked(time.monotonic(), sent=sent)
                if not await waker.wait(pacer.until_heartbeat(time.monotonic())):
                    yield writer.heartbeat()
                    pacer.note_heartbeat(time.monotonic())
                elif not self._closing:
                    await asyncio.sleep(pacer.batch_delay(time.monotonic()))
        finally:
            unsubscribe()
            unsubscribe_documents()


class Introspection(stats_pb2_grpc.IntrospectionServicer):
    """Serves `GetStats` and `Explain`."""

    def __init__(self, node: NodeIntrospection) -> None:
        self._node = node

    async def GetStats(  # noqa: N802 - the wire's name
        self, request: stats_pb2.GetStatsRequest, context: Context
    ) -> stats_pb2.GetStatsResponse:
        return self._node.get_stats(request)

    async def Explain(  # noqa: N802 - the wire's name
        self, request: stats_pb2.ExplainRequest, context: Context
    ) -> stats_pb2.ExplainResponse:
        async with identified(context) as caller:
            return self._node.explain(request, caller.node_id, time.monotonic())


class Operations(operations_pb2_grpc.OperationsServicer):
    """Serves `Drain`."""

    def __init__(self, node: NodeOperations) -> None:
        self._node = node

    async def Drain(  # noqa: N802 - the wire's name
        self, request: operations_pb2.DrainRequest, context: Context
    ) -> operations_pb2.DrainResponse:
        async with identified(context) as caller:
            return self._node.drain(request, caller)
