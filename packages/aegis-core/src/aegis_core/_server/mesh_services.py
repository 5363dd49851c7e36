"""The mesh's own services: the five calls of the unsigned protocol, and the feed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

import grpc
from aegis_discovery import InvalidRecordError, NodeInfo, Topology
from aegis_discovery.feed import FeedPacer, FeedWriter, request_problem
from aegis_discovery.logs import LogLimiter
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc, mesh_pb2, mesh_pb2_grpc
from aegis_discovery.records import Record, RecordVerifier, signed_from_wire

from aegis_core._access.authorization import CallerVerifier
from aegis_core._access.caller import Caller, caller_from_context
from aegis_core._health.checks import HealthInfo
from aegis_core._rate_limit import FEEDS, READS, RateLimiter
from aegis_core._unsigned_peers import codec
from aegis_core.errors import CallerError

_log = logging.getLogger("aegis.server")

MAX_SYNCED = 1024
"""Callers whose last answer is remembered; no node has so many unsigned peers."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What the services need of the node that they belong to."""

    node_id: str
    instance: str
    mesh: str
    topology: Topology
    verifier: RecordVerifier
    chain_of: Callable[[bytes], tuple[bytes, ...] | None]
    info: Callable[[], NodeInfo]
    health: Callable[[], HealthInfo]
    on_foreign: Callable[[Record], None]
    poll_if_unknown: Callable[[str], Awaitable[None]]
    is_behind: Callable[[str], bool]
    caller_verifier: CallerVerifier
    has_joined: Callable[[], bool]


Context = grpc.aio.ServicerContext[object, object]


async def identify_caller(context: Context) -> Caller:
    """Returns the caller, or ends the call."""
    try:
        return caller_from_context(context)
    except CallerError as error:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))


class UnsignedProtocolService(aegis_pb2_grpc.MeshServiceServicer):
    """The five unary calls of the unsigned protocol."""

    def __init__(self, node: LocalNode) -> None:
        self._node = node
        self._synced: OrderedDict[str, bytes] = OrderedDict()
        self._rate_limiter = RateLimiter(READS)
        self._log_limiter = LogLimiter(_log)

    async def Ping(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.PingRequest, context: Context
    ) -> aegis_pb2.PingResponse:
        await self._verified_sender(request.sender_id, context)
        node = self._node
        has_left = node.topology.get_node(node.node_id) is None
        return codec.ping_response(node.node_id, "" if has_left else node.instance)

    async def GetHealth(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.HealthRequest, context: Context
    ) -> aegis_pb2.HealthResponse:
        await self._verified_sender(request.sender_id, context)
        return codec.health_to_wire(self._node.health())

    async def GetNodeInfo(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.NodeInfoRequest, context: Context
    ) -> aegis_pb2.NodeInfoResponse:
        await self._verified_sender(request.sender_id, context)
        return codec.node_info_to_wire(self._node.info(), self._node.health())

    async def SyncTopology(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.TopologySyncRequest, context: Context
    ) -> aegis_pb2.TopologySyncResponse:
        """Returns the whole topology, with a version that makes the caller adopt it.

        The caller sends only its own version, and adopts the whole topology of a higher one. So
        this node's version is raised above the caller's, unless the caller's last answer had the
        same nodes and the caller was seen to hold them.

        A caller that is not in the topology gets no version above its own: it would adopt a
        topology without itself, and so forget its own services.
        """
        async with self._reader(request.sender_id, context) as caller:
            await self._node.poll_if_unknown(caller)
            topology = self._node.topology
            snapshot = topology.snapshot()
            answer = codec.sync_response(snapshot, caller)
            if caller not in snapshot.nodes:
                answer.version = min(request.version, answer.version)
                return answer
            digest = codec.digest_of(answer)
            has_ours = self._synced.get(caller) == digest
            if request.version >= answer.version and (not has_ours or self._node.is_behind(caller)):
                answer.version = topology.advance_version_past(request.version)
            self._synced[caller] = digest
            self._synced.move_to_end(caller)
            if len(self._synced) > MAX_SYNCED:
                self._synced.popitem(last=False)
            return answer

    async def GetTopology(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.GetTopologyRequest, context: Context
    ) -> aegis_pb2.GetTopologyResponse:
        async with self._reader(request.sender_id, context) as caller:
            return codec.topology_response(self._node.topology.snapshot(), caller)

    @asynccontextmanager
    async def _reader(self, sender_id: str, context: Context) -> AsyncIterator[str]:
        """Limits how often a caller reads the whole topology; yields the caller's id."""
        caller = (await self._verified_sender(sender_id, context)).node_id
        refusal = self._rate_limiter.enter(caller, time.monotonic())
        if refusal:
            self._log_limiter.warn(caller, "reads", "the topology was refused: %s", refusal)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, refusal)
        try:
            yield caller
        finally:
            self._rate_limiter.leave(caller)

    async def _verified_sender(self, sender_id: str, context: Context) -> Caller:
        """Returns the caller; refuses a message whose sender is not the certificate's node."""
        caller = await identify_caller(context)
        if sender_id and sender_id != caller.node_id:
            line = "%s claims to be %.64r; refused"
            self._log_limiter.warn(caller.node_id, "id", line, caller.node_id, sender_id)
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"sender_id is {sender_id[:64]!r}, the certificate says {caller.node_id}",
            )
        return caller


class FeedService(mesh_pb2_grpc.MeshServicer):
    """Serves feeds until it is closed.

    Attributes:
        served: How many feeds were opened so far.
    """

    def __init__(self, node: LocalNode) -> None:
        self._node = node
        self._closing = False
        self._wakers: dict[asyncio.Event, str] = {}
        self._rate_limiter = RateLimiter(FEEDS)
        self._log_limiter = LogLimiter(_log)
        self.served = 0
        self._idle = asyncio.Event()
        self._idle.set()

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
        caller = (await identify_caller(context)).node_id
        refusal = self._rate_limiter.enter(caller, time.monotonic())
        if refusal:
            await self._refuse(caller, grpc.StatusCode.RESOURCE_EXHAUSTED, refusal, context)
        waker = asyncio.Event()
        try:
            await self._check(request, caller, context)
            self.served += 1
            self._wakers[waker] = caller
            self._idle.clear()
            async with aclosing(self._feed(request, caller, waker)) as messages:
                async for message in messages:
                    yield message
        finally:
            self._rate_limiter.leave(caller)
            self._wakers.pop(waker, None)
            if not self._wakers:
                self._idle.set()

    async def _feed(
        self, request: mesh_pb2.WatchRequest, caller: str, waker: asyncio.Event
    ) -> AsyncGenerator[mesh_pb2.WatchResponse, None]:
        topology = self._node.topology
        writer = FeedWriter(topology, self._node.chain_of, watcher=caller, request=request)
        pacer = FeedPacer(time.monotonic())
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # In a flood of changes it is nearly always set, and each call into the event loop is
            # expensive.
            if not waker.is_set():
                loop.call_soon_threadsafe(waker.set)

        unsubscribe = topology.subscribe_changed(wake)
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
                try:
                    async with asyncio.timeout(pacer.until_heartbeat(time.monotonic())):
                        await waker.wait()
                except TimeoutError:
                    yield writer.heartbeat()
                    pacer.note_heartbeat(time.monotonic())
                else:
                    if not self._closing:
                        await asyncio.sleep(pacer.batch_delay(time.monotonic()))
        finally:
            unsubscribe()

    async def _check(self, request: mesh_pb2.WatchRequest, caller: str, context: Context) -> None:
        """Ends the call if its request cannot be served; merges the record of a joining node."""
        if request.mesh != self._node.mesh:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is mesh {self._node.mesh!r}, not {request.mesh[:64]!r}",
            )
        problem = request_problem(request)
        if problem:
            await self._refuse(caller, grpc.StatusCode.INVALID_ARGUMENT, problem, context)
        if request.HasField("record"):
            await self._admit_node(request, caller, context)
        elif not self._node.has_joined():
            # A client would take this node for the whole mesh.
            reason = f"{self._node.node_id} is still joining the mesh; ask another node, or again"
            await context.abort(grpc.StatusCode.UNAVAILABLE, reason)

    async def _admit_node(
        self, request: mesh_pb2.WatchRequest, caller: str, context: Context
    ) -> None:
        try:
            if request.chain.certificates:
                self._node.verifier.add_chain(tuple(request.chain.certificates))
            record = self._node.verifier.verify(signed_from_wire(request.record))
            if record.id != caller or record.voucher is not None:
                raise InvalidRecordError(record.id, f"{caller} may not publish it")
        except InvalidRecordError as error:
            await self._refuse(caller, grpc.StatusCode.PERMISSION_DENIED, str(error), context)
        topology = self._node.topology
        if topology.is_full and topology.get_node(caller) is None:
            full = f"the mesh is full with {len(topology.nodes)} nodes; {caller} cannot join"
            await self._refuse(caller, grpc.StatusCode.RESOURCE_EXHAUSTED, full, context)
        result = topology.merge_records([record], origin=caller)
        if result.foreign is not None:
            self._node.on_foreign(result.foreign)

    async def _refuse(
        self, caller: str, code: grpc.StatusCode, reason: str, context: Context
    ) -> NoReturn:
        """Ends a call that no honest caller makes, and logs it at a limited rate."""
        self._log_limiter.warn(caller, reason, "a feed for %s was refused: %s", caller, reason)
        await context.abort(code, reason)
