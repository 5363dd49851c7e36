"""Collects the facts of `aegis mesh status`: the topology, and the answers of each node."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc.aio
from aegis_certs import TLSConfig
from aegis_discovery import NodeInfo
from aegis_discovery.aio import Mesh
from aegis_discovery.aio.transport import ChannelCache
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc, stats_pb2, stats_pb2_grpc
from aegis_discovery.transport import describe_call_error

ANSWER_TIMEOUT = 3.0
"""Seconds that a node has for one answer; all nodes are asked in parallel."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a node.

    Attributes:
        health: `healthy`, `unhealthy` or `unknown`.
        message: Its health in words.
        error: Why it is not healthy; empty otherwise.
        round_trip: Seconds that one ping took on an open connection.
    """

    health: str
    message: str
    error: str
    round_trip: float


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node, as the mesh and as the node itself describe it.

    Attributes:
        info: The node in the topology.
        answer: Its answer; None if it did not answer.
        problem: Why it did not answer.
        certificate: Start and end of the certificate that signed its record; None if another node
            vouches for it.
        stats: Its counters; None if it does not publish them.
    """

    info: NodeInfo
    answer: Answer | None = None
    problem: str = ""
    certificate: tuple[datetime, datetime] | None = None
    stats: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class MeshFacts:
    """A mesh at one moment."""

    taken_at: datetime
    version: int
    digest: str
    updated_at: datetime
    nodes: tuple[NodeFacts, ...]


class Collector:
    """Collects the facts of a mesh, repeatedly if needed over the same connections."""

    def __init__(self, mesh: Mesh, tls: TLSConfig) -> None:
        self._mesh = mesh
        self._tls = tls
        self._channels = ChannelCache(tls)
        self._held: list[grpc.aio.Channel] = []

    async def close(self) -> None:
        """Closes the connections to the nodes; those of the mesh stay open."""
        await self._channels.close()

    async def collect(self, *, with_stats: bool = False) -> MeshFacts:
        """Asks all nodes of the topology, for at most three timeouts."""
        snapshot = self._mesh.topology.snapshot()
        nodes = tuple(snapshot.nodes.values())
        channels = [self._channels.get(node.id, node.address) for node in nodes]
        # The cache keeps only channels that are in use: this closes those of removed nodes.
        self._held = channels
        probes = [_Probe(channel, self._tls) for channel in channels]
        await asyncio.gather(*(probe.ask_health() for probe in probes))
        # Only after all have connected: handshakes in parallel would lengthen the round trip.
        await asyncio.gather(*(probe.ping() for probe in probes))
        if with_stats:
            await asyncio.gather(*(probe.ask_stats() for probe in probes))
        return MeshFacts(
            datetime.now(UTC),
            snapshot.version,
            snapshot.digest.hex(),
            snapshot.updated_at,
            tuple(
                NodeFacts(node, probe.answer, probe.problem, self._certificate(node), probe.stats)
                for node, probe in zip(nodes, probes, strict=True)
            ),
        )

    def _certificate(self, node: NodeInfo) -> tuple[datetime, datetime] | None:
        certificate = self._mesh.get_certificate(node.id)
        if certificate is None or node.vouched_by is not None:
            return None
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc


class _Probe:
    """The calls to one node."""

    def __init__(self, channel: grpc.aio.Channel, tls: TLSConfig) -> None:
        self._stub = aegis_pb2_grpc.MeshServiceStub(channel)
        self._introspection = stats_pb2_grpc.IntrospectionStub(channel)
        self._tls = tls
        self._health: aegis_pb2.HealthResponse | None = None
        self.answer: Answer | None = None
        self.problem = ""
        self.stats: Mapping[str, object] | None = None

    async def ask_health(self) -> None:
        request = aegis_pb2.HealthRequest(sender_id=self._tls.node_id)
        try:
            self._health = await self._stub.GetHealth(request, timeout=ANSWER_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            self._set_problem(error)

    async def ping(self) -> None:
        health = self._health
        if health is None:
            return
        request = aegis_pb2.PingRequest(sender_id=self._tls.node_id, timestamp=int(time.time()))
        began = time.perf_counter()
        try:
            await self._stub.Ping(request, timeout=ANSWER_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            self._set_problem(error)
        else:
            round_trip = time.perf_counter() - began
            self.answer = Answer(health.status, health.message, health.error, round_trip)

    async def ask_stats(self) -> None:
        """Asks for the counters of the node; nodes of other kinds do not implement the call."""
        if self.answer is None:
            return
        with suppress(grpc.aio.AioRpcError, ValueError):
            request = stats_pb2.GetStatsRequest()
            stats = json.loads(
                (await self._introspection.GetStats(request, timeout=ANSWER_TIMEOUT)).json
            )
            self.stats = stats if isinstance(stats, dict) else None

    def _set_problem(self, error: grpc.aio.AioRpcError) -> None:
        timed_out = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        self.problem = (
            f"no answer within {ANSWER_TIMEOUT:g} s"
            if timed_out
            else describe_call_error(error, self._tls)
        )
