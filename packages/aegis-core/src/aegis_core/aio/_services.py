"""The mesh's own services: the seed's five calls, and the feed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc
from aegis_discovery import InvalidRecordError, NodeInfo, Topology
from aegis_discovery.feed import BATCH, HEARTBEAT, FeedWriter
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc, mesh_pb2, mesh_pb2_grpc
from aegis_discovery.records import Record, RecordVerifier, signed_from_wire

from aegis_core import _seed_codec
from aegis_core._caller import Caller, caller_from_context
from aegis_core._caller_check import CallerCheck
from aegis_core._health import HealthInfo
from aegis_core.errors import CallerError

_log = logging.getLogger("aegis.server")


@dataclass(frozen=True, slots=True)
class OwnNode:
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
    check: CallerCheck


Context = grpc.aio.ServicerContext[object, object]


async def identify_caller(context: Context) -> Caller:
    """Tells who calls, or ends the call."""
    try:
        return caller_from_context(context)
    except CallerError as error:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))


class SeedService(aegis_pb2_grpc.MeshServiceServicer):
    """The five unary calls of the seed protocol."""

    def __init__(self, own: OwnNode) -> None:
        self._own = own
        self._answered: dict[str, bytes] = {}

    async def Ping(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.PingRequest, context: Context
    ) -> aegis_pb2.PingResponse:
        """Answers who received it."""
        await self._check_sender(request.sender_id, context)
        return _seed_codec.ping_response(self._own.node_id)

    async def GetHealth(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.HealthRequest, context: Context
    ) -> aegis_pb2.HealthResponse:
        """Answers the outcome of the last health checks."""
        await self._check_sender(request.sender_id, context)
        return _seed_codec.health_to_wire(self._own.health())

    async def GetNodeInfo(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.NodeInfoRequest, context: Context
    ) -> aegis_pb2.NodeInfoResponse:
        """Answers what this node says of itself."""
        await self._check_sender(request.sender_id, context)
        return _seed_codec.node_info_to_wire(self._own.info(), self._own.health())

    async def SyncTopology(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.TopologySyncRequest, context: Context
    ) -> aegis_pb2.TopologySyncResponse:
        """Answers the whole topology, with a version that makes the caller adopt it.

        The caller adopts the higher version whole, and tells nothing but its own one. Unless we
        gave it just these records, and it was seen to hold them, we go above it.
        """
        caller = await self._check_sender(request.sender_id, context)
        await self._own.meet(caller.node_id)
        topology = self._own.topology
        snapshot = topology.snapshot()
        has_ours = self._answered.get(caller.node_id) == snapshot.digest
        if request.version >= snapshot.version and (
            not has_ours or self._own.lacks(caller.node_id)
        ):
            topology.outrun(request.version)
            snapshot = topology.snapshot()
        self._answered[caller.node_id] = snapshot.digest
        return _seed_codec.sync_response(snapshot)

    async def GetTopology(  # noqa: N802 - the wire's name
        self, request: aegis_pb2.GetTopologyRequest, context: Context
    ) -> aegis_pb2.GetTopologyResponse:
        """Answers the whole topology as it is."""
        await self._check_sender(request.sender_id, context)
        return _seed_codec.topology_response(self._own.topology.snapshot())

    async def _check_sender(self, sender_id: str, context: Context) -> Caller:
        """The certificate says who speaks; a message that says otherwise is refused."""
        caller = await identify_caller(context)
        if sender_id and sender_id != caller.node_id:
            _log.warning("%s claims to be %.64r; refused", caller.node_id, sender_id)
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"sender_id is {sender_id[:64]!r}, the certificate says {caller.node_id}",
            )
        return caller


class FeedService(mesh_pb2_grpc.MeshServicer):
    """Serves feeds, until it is closed."""

    def __init__(self, own: OwnNode) -> None:
        self._own = own
        self._closing = False
        self._wakers: dict[asyncio.Event, str] = {}
        self.served = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def watchers(self) -> frozenset[str]:
        """Ids of those who hold a feed open."""
        return frozenset(self._wakers.values())

    async def close(self, timeout: float) -> None:
        """Tells every watcher the last news, ends all feeds with OK and waits for that, a while."""
        self._closing = True
        for waker in self._wakers:
            waker.set()
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            _log.info("%d watchers did not take the last news in time", len(self._wakers))

    async def Watch(  # noqa: N802 - the wire's name
        self, request: mesh_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[mesh_pb2.WatchResponse]:
        """Streams what the watcher lacks, then every change.

        While this node leaves, a new watcher is told just that: a refusal looks like a failure.
        """
        caller = await identify_caller(context)
        if request.mesh != self._own.mesh:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is mesh {self._own.mesh!r}, not {request.mesh[:64]!r}",
            )
        if request.HasField("record"):
            await self._let_join(request, caller, context)
        topology = self._own.topology
        writer = FeedWriter(
            topology,
            self._own.chain_of,
            watcher=caller.node_id,
            request=request,
        )
        waker = asyncio.Event()
        loop = asyncio.get_running_loop()
        unsubscribe = topology.on_wake(lambda: loop.call_soon_threadsafe(waker.set))
        self.served += 1
        self._wakers[waker] = caller.node_id
        self._idle.clear()
        try:
            while True:
                waker.clear()
                for message in writer.messages():
                    yield message
                if self._closing:
                    return
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await waker.wait()
                except TimeoutError:
                    yield writer.heartbeat()
                else:
                    if not self._closing:
                        await asyncio.sleep(BATCH)
        finally:
            unsubscribe()
            del self._wakers[waker]
            if not self._wakers:
                self._idle.set()

    async def _let_join(
        self, request: mesh_pb2.WatchRequest, caller: Caller, context: Context
    ) -> None:
        """Takes in the watcher's own record: from now on the mesh knows it."""
        try:
            if request.chain.certificates:
                self._own.verifier.learn(tuple(request.chain.certificates))
            record = self._own.verifier.verify(signed_from_wire(request.record))
            if record.id != caller.node_id or record.voucher is not None:
                raise InvalidRecordError(record.id, f"{caller.node_id} may not publish it")
        except InvalidRecordError as error:
            _log.warning("%s asked to join: %s", caller.node_id, error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        result = self._own.topology.merge_records([record], origin=caller.node_id)
        if result.foreign is not None:
            self._own.on_foreign(result.foreign)
