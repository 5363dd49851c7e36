"""The mesh's own services: the seed's five calls, and the feed."""

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

MAX_ANSWERED = 1024
"""Callers of whom it is remembered what they were told last; more than any node has peers."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What the services ask of the node that they belong to."""

    node_id: str
    mesh: str
    topology: Topology
    verifier: RecordVerifier
    chain_of: Callable[[bytes], tuple[bytes, ...] | None]
    info: Callable[[], NodeInfo]
    health: Callable[[], HealthInfo]
    on_foreign: Callable[[Record], None]
    meet: Callable[[str], Awaitable[None]]
    lacks: Callable[[str], bool]
    check: CallerVerifier
    has_joined: Callable[[], bool]


Context = grpc.aio.ServicerContext[object, object]


async def identify_caller(context: Context) -> Caller:
    """Tells who calls, or ends the call."""
    try:
        return caller_from_context(context)
    except CallerError as error:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))


class UnsignedProtocolService(aegis_pb2_grpc.MeshServiceServicer):
    """The five unary calls of the seed protocol."""

    def __init__(self, own: LocalNode) -> None:
        self._own = own
        self._answered: OrderedDict[str, bytes] = OrderedDict()
        self._gate = RateLimiter(READS)
        self._complaints = LogLimiter(_log)

    async def Ping(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.PingRequest, context: Context
    ) -> aegis_pb2.PingResponse:
        """Answers who received it."""
        await self._check_sender(request.sender_id, context)
        return codec.ping_response(self._own.node_id)

    async def GetHealth(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.HealthRequest, context: Context
    ) -> aegis_pb2.HealthResponse:
        """Answers the outcome of the last health checks."""
        await self._check_sender(request.sender_id, context)
        return codec.health_to_wire(self._own.health())

    async def GetNodeInfo(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.NodeInfoRequest, context: Context
    ) -> aegis_pb2.NodeInfoResponse:
        """Answers what this node says of itself."""
        await self._check_sender(request.sender_id, context)
        return codec.node_info_to_wire(self._own.info(), self._own.health())

    async def SyncTopology(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.TopologySyncRequest, context: Context
    ) -> aegis_pb2.TopologySyncResponse:
        """Answers the whole topology, with a version that makes the caller adopt it.

        The caller adopts the higher version whole, and tells nothing but its own one. Unless we
        gave it just these records, and it was seen to hold them, we go above it.
        """
        async with self._reader(request.sender_id, context) as caller:
            await self._own.meet(caller)
            topology = self._own.topology
            snapshot = topology.snapshot()
            has_ours = self._answered.get(caller) == snapshot.digest
            if request.version >= snapshot.version and (not has_ours or self._own.lacks(caller)):
                topology.advance_version_past(request.version)
                snapshot = topology.snapshot()
            self._answered[caller] = snapshot.digest
            self._answered.move_to_end(caller)
            if len(self._answered) > MAX_ANSWERED:
                self._answered.popitem(last=False)
            return codec.sync_response(snapshot)

    async def GetTopology(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.GetTopologyRequest, context: Context
    ) -> aegis_pb2.GetTopologyResponse:
        """Answers the whole topology as it is."""
        async with self._reader(request.sender_id, context):
            return codec.topology_response(self._own.topology.snapshot())

    @asynccontextmanager
    async def _reader(self, sender_id: str, context: Context) -> AsyncIterator[str]:
        """Lets a caller read the whole topology, unless it does so too often; yields its id."""
        caller = (await self._check_sender(sender_id, context)).node_id
        refusal = self._gate.enter(caller, time.monotonic())
        if refusal:
            self._complaints.warn(caller, "reads", "the topology was refused: %s", refusal)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, refusal)
        try:
            yield caller
        finally:
            self._gate.leave(caller)

    async def _check_sender(self, sender_id: str, context: Context) -> Caller:
        """The certificate says who speaks; a message that says otherwise is refused."""
        caller = await identify_caller(context)
        if sender_id and sender_id != caller.node_id:
            self._complaints.warn(
                caller.node_id, "id", "%s claims to be %.64r; refused", caller.node_id, sender_id
            )
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"sender_id is {sender_id[:64]!r}, the certificate says {caller.node_id}",
            )
        return caller


class FeedService(mesh_pb2_grpc.MeshServicer):
    """Serves feeds, until it is closed.

    Attributes:
        served: How many feeds were opened so far.
    """

    def __init__(self, own: LocalNode) -> None:
        self._own = own
        self._closing = False
        self._wakers: dict[asyncio.Event, str] = {}
        self._gate = RateLimiter(FEEDS)
        self._complaints = LogLimiter(_log)
        self.served = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def watchers(self) -> frozenset[str]:
        """Ids of those who hold a feed open."""
        return frozenset(self._wakers.values())

    async def close(self, timeout: float) -> frozenset[str]:
        """Tells every watcher the last news, ends all feeds with OK and waits for that, a while.

        Returns:
            Ids of those who took it.
        """
        told = self.watchers
        self._closing = True
        for waker in self._wakers:
            waker.set()
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            _log.info("%d watchers did not take the last news in time", len(self._wakers))
        return told - self.watchers

    async def Watch(  # noqa: N802 - the wire's name
        self, request: mesh_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[mesh_pb2.WatchResponse]:
        """Streams what the watcher lacks, then every change.

        While this node leaves, a new watcher is told just that: a refusal looks like a failure.
        """
        caller = (await identify_caller(context)).node_id
        refusal = self._gate.enter(caller, time.monotonic())
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
            self._gate.leave(caller)
            self._wakers.pop(waker, None)
            if not self._wakers:
                self._idle.set()

    async def _feed(
        self, request: mesh_pb2.WatchRequest, caller: str, waker: asyncio.Event
    ) -> AsyncGenerator[mesh_pb2.WatchResponse, None]:
        topology = self._own.topology
        writer = FeedWriter(topology, self._own.chain_of, watcher=caller, request=request)
        pacer = FeedPacer(time.monotonic())
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # In a flood nearly all changes find it awake, and each call into the loop is dear.
            if not waker.is_set():
                loop.call_soon_threadsafe(waker.set)

        unsubscribe = topology.subscribe_changed(wake)
        try:
            while True:
                waker.clear()
                # Asked before the news are: what comes while they are sent goes with the next ones.
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
        """Ends the call where its request cannot be served; takes in the record of one that joins.

        From then on the mesh knows it.
        """
        if request.mesh != self._own.mesh:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is mesh {self._own.mesh!r}, not {request.mesh[:64]!r}",
            )
        problem = request_problem(request)
        if problem:
            await self._refuse(caller, grpc.StatusCode.INVALID_ARGUMENT, problem, context)
        if request.HasField("record"):
            await self._let_join(request, caller, context)
        elif not self._own.has_joined():
            # A client would believe that there is nobody but us.
            why = f"{self._own.node_id} is still joining the mesh; ask another node, or again"
            await context.abort(grpc.StatusCode.UNAVAILABLE, why)

    async def _let_join(
        self, request: mesh_pb2.WatchRequest, caller: str, context: Context
    ) -> None:
        try:
            if request.chain.certificates:
                self._own.verifier.add_chain(tuple(request.chain.certificates))
            record = self._own.verifier.verify(signed_from_wire(request.record))
            if record.id != caller or record.voucher is not None:
                raise InvalidRecordError(record.id, f"{caller} may not publish it")
        except InvalidRecordError as error:
            await self._refuse(caller, grpc.StatusCode.PERMISSION_DENIED, str(error), context)
        topology = self._own.topology
        if topology.is_full and topology.get_node(caller) is None:
            full = f"the mesh is full with {len(topology.nodes)} nodes; {caller} cannot join"
            await self._refuse(caller, grpc.StatusCode.RESOURCE_EXHAUSTED, full, context)
        result = topology.merge_records([record], origin=caller)
        if result.foreign is not None:
            self._own.on_foreign(result.foreign)

    async def _refuse(
        self, caller: str, code: grpc.StatusCode, why: str, context: Context
    ) -> NoReturn:
        """Ends a call that no honest caller makes, and says so in the log, now and then."""
        self._complaints.warn(caller, why, "a feed for %s was refused: %s", caller, why)
        await context.abort(code, why)
