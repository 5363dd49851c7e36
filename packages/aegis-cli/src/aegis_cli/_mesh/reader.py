"""Reads a mesh for commands: one feed from one node, and calls to others where a command asks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc.aio
from aegis_certs import TLSConfig
from aegis_discovery import NodeInfo, NodeStatus, Topology
from aegis_discovery.aio import Mesh
from aegis_discovery.aio.transport import ChannelCache
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc, stats_pb2, stats_pb2_grpc
from aegis_discovery.transport import describe_call_error
from cryptography import x509
from cryptography.x509.oid import NameOID

from aegis_cli._view.model import (
    CertificateSeen,
    Reply,
    Seen,
    Stats,
    View,
    items_of,
    text_of,
    time_of,
)
from aegis_cli.errors import CliError, UnknownNodeError

ANSWER_TIMEOUT = 3.0
"""Seconds that a node has for one answer."""

MAX_AT_ONCE = 32
"""Nodes that are asked at the same time: each first answer costs a handshake."""

MAX_STATS = 4 * 1024 * 1024
"""Bytes of the statistics of one node that are read."""


class Reader:
    """Reads views of a mesh, one after another, over the same connections.

    Attributes:
        mesh: The feed.
    """

    def __init__(self, mesh: Mesh, tls: TLSConfig, source: NodeInfo) -> None:
        self.mesh = mesh
        self._tls = tls
        self._source = source
        self._channels = ChannelCache(tls)
        self._held: dict[str, grpc.aio.Channel] = {}
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def close(self) -> None:
        """Closes all connections."""
        await self._channels.close()
        await self.mesh.close()

    @property
    def topology(self) -> Topology:
        return self.mesh.topology

    @property
    def source(self) -> NodeInfo:
        """The node that is asked for what only one node has to tell."""
        return self.topology.get_node(self._source.id) or self._source

    def node(self, node_id: str) -> NodeInfo:
        """Returns a node.

        Raises:
            UnknownNodeError: The mesh knows no such node.
        """
        found = self.topology.get_node(node_id)
        if found is None:
            raise UnknownNodeError(node_id, sorted(self.topology.nodes))
        return found

    async def read(
        self,
        *,
        own: Sequence[str] = (),
        of_all: Sequence[str] = (),
        replies: bool = False,
    ) -> View:
        """Returns the mesh as it is now.

        Args:
            own: Which parts of the statistics of the source to read.
            of_all: Which parts of those of every node; nodes that have failed are not asked.
            replies: Whether each node is asked for its health and pinged.
        """
        snapshot = self.topology.snapshot()
        nodes = tuple(snapshot.nodes.values())
        answers: dict[str, Reply | str] = {}
        if replies:
            answers = await self._each(nodes, self._reply)
        stats: dict[str, Stats | str] = {}
        if of_all:
            asked = [
                node
                for node in nodes
                if node.status is not NodeStatus.FAILED
                and not node.vouched_by
                and not isinstance(answers.get(node.id), str)
            ]
            stats = await self._each(asked, lambda node: self._stats(node, of_all))
        if own:
            told = await self._own(own)
            held = stats.get(self.source.id)
            if isinstance(held, dict):
                stats[self.source.id] = {**held, **told}
            elif told or held is None:
                stats[self.source.id] = told  # else `held` says why it does not answer
        # The cache keeps only channels that are held: this closes those of removed nodes.
        kept = {*snapshot.nodes, self.source.id}
        self._held = {name: channel for name, channel in self._held.items() if name in kept}
        known = {node_id: one for node_id, one in stats.items() if not isinstance(one, str)}
        return View(
            datetime.now(UTC),
            self.source.id,
            snapshot.version,
            snapshot.digest.hex(),
            snapshot.updated_at,
            tuple(self._seen(nodes, answers, known.get(self.source.id, {}))),
            known,
            {node_id: one for node_id, one in stats.items() if isinstance(one, str)},
            self.silent_for,
            tuple(_certificate_seen(one) for one in self._tls.bundle.certificates),
        )

    @property
    def silent_for(self) -> float:
        """Seconds since the feed last brought anything."""
        return self.mesh.silent_for

    async def stats(self, node: NodeInfo, parts: Sequence[str] = ()) -> Stats:
        """Returns what a node tells about itself.

        Raises:
            CliError: It does not answer.
        """
        found = await self._stats(node, parts)
        if isinstance(found, str):
            raise CliError(f"{node.id} does not answer: {found}")
        return found

    async def explain(self, node_id: str) -> Stats:
        """Returns what the source knows of a node, and why.

        Raises:
            grpc.RpcError: The source does not answer.
        """
        node = self.source
        stub = stats_pb2_grpc.IntrospectionStub(self._channel(node))
        request = stats_pb2.ExplainRequest(node_id=node_id)
        return _parsed((await stub.Explain(request, timeout=ANSWER_TIMEOUT)).json)

    async def drain(self, node: NodeInfo, instance: str) -> None:
        """Orders a process of a node to drain.

        Raises:
            grpc.aio.AioRpcError: It refuses, or does not answer.
        """
        from aegis_discovery.proto import (
            operations_pb2,
            operations_pb2_grpc,
        )  # one command needs it

        stub = operations_pb2_grpc.OperationsStub(self._channel(node))
        request = operations_pb2.DrainRequest(instance=instance)
        await stub.Drain(request, timeout=ANSWER_TIMEOUT)

    async def ping(self, node: NodeInfo) -> float | str:
        """Returns the seconds of one round trip, or why there was no answer."""
        found = await self._ping(node)
        return found if isinstance(found, str) else found[0]

    async def _ping(self, node: NodeInfo) -> tuple[float, float] | str:
        """Returns the seconds of one round trip, and by how many the node's clock is ahead."""
        channel = self._channel(node)
        request = aegis_pb2.PingRequest(sender_id=self._tls.node_id, timestamp=int(time.time()))
        began = time.perf_counter()
        try:
            stub = aegis_pb2_grpc.MeshServiceStub(channel)
            answer = await stub.Ping(request, timeout=ANSWER_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return self._problem(error)
        trip = time.perf_counter() - began
        # The node's seconds are whole, so half a second is the best guess of the rest.
        return trip, answer.timestamp + 0.5 - (time.time() - trip / 2)

    def _channel(self, node: NodeInfo) -> grpc.aio.Channel:
        """The channel to a node, which stays open for the next question."""
        channel = self._channels.get(node.id, node.address)
        self._held[node.id] = channel
        return channel

    async def _own(self, parts: Sequence[str]) -> Stats:
        """Asks the source; if it is gone, another node takes its place."""
        told = await self._stats(self.source, parts)
        if not isinstance(told, str):
            return told
        others = [
            node
            for node in self.topology.nodes.values()
            if node.status is NodeStatus.ALIVE and not node.vouched_by and node != self.source
        ]
        for node in others[:3]:
            other = await self._stats(node, parts)
            if not isinstance(other, str):
                self._source = node
                return other
        return {}

    async def _each(
        self, nodes: Iterable[NodeInfo], ask: Callable[[NodeInfo], Awaitable[Any]]
    ) -> dict[str, Any]:
        async def one(node: NodeInfo) -> Any:
            async with self._slots:
                return await ask(node)

        chosen = list(nodes)
        found = await asyncio.gather(*map(one, chosen))
        return {node.id: answer for node, answer in zip(chosen, found, strict=True)}

    async def _stats(self, node: NodeInfo, parts: Sequence[str]) -> Stats | str:
        stub = stats_pb2_grpc.IntrospectionStub(self._channel(node))
        request = stats_pb2.GetStatsRequest(parts=parts)
        try:
            return _parsed((await stub.GetStats(request, timeout=ANSWER_TIMEOUT)).json)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return {}  # a node of another kind
            return self._problem(error)

    async def _reply(self, node: NodeInfo) -> Reply | str:
        stub = aegis_pb2_grpc.MeshServiceStub(self._channel(node))
        request = aegis_pb2.HealthRequest(sender_id=self._tls.node_id)
        try:
            health = await stub.GetHealth(request, timeout=ANSWER_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return self._problem(error)
        found = await self._ping(node)
        if isinstance(found, str):
            return found
        return Reply(health.status, health.message, health.error, *found)

    def _problem(self, error: grpc.aio.AioRpcError) -> str:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {ANSWER_TIMEOUT:g} s"
        return describe_call_error(error, self._tls)

    def _seen(
        self, nodes: Iterable[NodeInfo], answers: dict[str, Reply | str], told: Stats
    ) -> Iterable[Seen]:
        standings = {text_of(one.get("id")): one for one in items_of(told.get("standings"))}
        for node in nodes:
            standing = standings.get(node.id, {})
            since = node.joined_at
            by: tuple[str, ...] = ()
            if standing.get("status") == node.status:
                told_since = time_of(standing.get("since"))
                # A process that started later has had this status since it started.
                since = max(filter(None, (told_since, since)), default=None)
                accusers = standing.get("by")
                by = tuple(map(text_of, accusers[:8])) if isinstance(accusers, list) else ()
            elif node.status is not NodeStatus.ALIVE:
                since = None  # the node that was asked sees another status, or has no room for it
            answer = answers.get(node.id)
            yield Seen(
                node,
                since,
                by,
                self._certificate(node),
                answer if isinstance(answer, Reply) else None,
                answer if isinstance(answer, str) else "",
            )

    def _certificate(self, node: NodeInfo) -> CertificateSeen | None:
        certificate = self.mesh.get_certificate(node.id)
        if certificate is None or node.vouched_by is not None:
            return None
        return _certificate_seen(certificate)


def _certificate_seen(certificate: x509.Certificate) -> CertificateSeen:
    return CertificateSeen(
        _common_name(certificate.subject),
        _common_name(certificate.issuer),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _parsed(text: str) -> Stats:
    if len(text) > MAX_STATS:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
