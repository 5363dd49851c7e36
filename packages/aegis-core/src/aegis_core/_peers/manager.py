"""Calls to single peers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import grpc
from aegis_certs import CertsError, TLSConfig, parse_worker_id
from aegis_discovery import ClosedError, ConnectError, InvalidAddressError, NodeInfo
from aegis_discovery.aio.transport import ChannelCache, open_channel
from aegis_discovery.feed import split_message
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc, mesh_pb2_grpc
from aegis_discovery.records import nodes_from_unsigned
from aegis_discovery.signals import LogLimiter
from aegis_discovery.transport import describe_call_error, split_address

from aegis_core._health.checks import HealthInfo
from aegis_core._peers.info import PeerInfo
from aegis_core._peers.session import Session
from aegis_core._state import NodeState
from aegis_core._unsigned_peers import codec
from aegis_core._unsigned_peers.vouching import Vouching
from aegis_core.errors import PeerNotFoundError

_log = logging.getLogger("aegis.peers")

HOLDER_TIMEOUT = 2.0
"""Seconds in which another process under this node's id must answer, or it is replaced."""

TIMEOUT = 5.0
"""Seconds for one call to a peer: one that hangs must not block a sync for ever."""

NESTED_POLL_TIMEOUT = 1.0
"""Seconds for polling a peer that waits for an answer of this node meanwhile."""


class SyncReport(NamedTuple):
    """The result of a sync with all peers.

    Attributes:
        synced: Ids of the peers that answered.
        failed: Reasons why the others did not, by id.
    """

    synced: tuple[str, ...]
    failed: Mapping[str, str]


class PeerManager:
    """Knows peers, keeps their connections and calls them.

    Peers are those added here and all nodes of the topology. Calls raise `grpc.RpcError` if the
    peer does not answer, and `PeerNotFoundError` if the id is unknown.

    Attributes:
        channels: The connections, which the node's pool shares.
    """

    def __init__(self, state: NodeState, session: Session, channels: ChannelCache) -> None:
        self._state = state
        self._session = session
        self.channels = channels
        self._vouching = Vouching(state.topology)
        self._log_limiter = LogLimiter(_log)
        self._closed = False
        # The cache holds weak references only, and a new channel costs a handshake.
        self._channels: dict[str, grpc.aio.Channel] = {}

    def __repr__(self) -> str:
        return f"<PeerManager {', '.join(sorted(self.added)) or 'no peers added'}>"

    @property
    def added(self) -> Mapping[str, PeerInfo]:
        """The peers that were added, by id."""
        return MappingProxyType({**self._session.peers.added})

    def add_peer(self, peer: PeerInfo) -> None:
        """Adds a peer. It is watched from now on, which adds it to the topology.

        A node that is known already is dialled at this address until it publishes another one.
        """
        if peer.id != self._state.node_id:
            self._session.peers.add(peer)

    def remove_peer(self, peer_id: str) -> None:
        """Removes a peer that was added; it stays known as a node of the topology.

        Raises:
            PeerNotFoundError: If it was not added.
        """
        self._session.peers.remove(peer_id)
        self._vouching.forget(peer_id)

    def channel(self, peer: PeerInfo) -> grpc.aio.Channel:
        """Returns the connection to a peer, which must prove its id."""
        channel = self._channels[peer.id] = self.channels.get(peer.id, peer.address)
        return channel

    def change_identity(self, tls: TLSConfig) -> None:
        """Uses another identity for new connections."""
        self._channels.clear()
        self.channels.change_identity(tls)

    def release(self, peer_id: str) -> None:
        """Drops the connection to a peer."""
        self._channels.pop(peer_id, None)

    async def ping_peer(self, peer_id: str) -> float:
        """Pings a peer; returns the seconds until its answer."""
        began = time.perf_counter()
        request = aegis_pb2.PingRequest(sender_id=self._state.identity, timestamp=int(time.time()))
        with self._closing_is_an_error():
            await self._stub(self._get(peer_id)).Ping(request, timeout=TIMEOUT)
        return time.perf_counter() - began

    async def get_peer_health(self, peer_id: str) -> HealthInfo:
        """Asks a peer for its health."""
        request = aegis_pb2.HealthRequest(sender_id=self._state.identity)
        with self._closing_is_an_error():
            answer = await self._stub(self._get(peer_id)).GetHealth(request, timeout=TIMEOUT)
        health = codec.health_from_wire(answer)
        return replace(health, node_id=_full_id(peer_id, health.node_id))

    async def get_peer_node_info(self, peer_id: str) -> NodeInfo:
        """Asks a peer for its own description."""
        with self._closing_is_an_error():
            request = aegis_pb2.NodeInfoRequest(sender_id=self._state.identity)
            answer = await self._stub(self._get(peer_id)).GetNodeInfo(request, timeout=TIMEOUT)
        node = codec.node_info_from_wire(answer)
        return replace(node, id=_full_id(peer_id, node.id))

    async def meet(self, seed: PeerInfo) -> tuple[PeerInfo, str]:
        """Asks a seed peer, of which only the identity is known, who it is.

        Returns:
            The peer with its full id, and the address that it has for this node's id; empty if it
            has none.

        Raises:
            ConnectError: If it does not answer.
        """
        sender, own_id, stub = self._state.identity, self._state.node_id, self._stub(seed)
        ping = aegis_pb2.PingRequest(sender_id=sender, look_up=own_id)
        try:
            answer = await stub.Ping(ping, timeout=TIMEOUT)
            if answer.node_id:
                # The certificate proves the identity only; a wrong number harms no other node.
                full_id = _full_id(answer.node_id, seed.id)
                if full_id != seed.id:
                    self.release(seed.id)
                return replace(seed, id=full_id), answer.address
            request = aegis_pb2.GetTopologyRequest(sender_id=sender)
            listed = await stub.GetTopology(request, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                reason = describe_call_error(error, self._state.tls)
                raise ConnectError(reason, {seed.address: reason}) from error
            return seed, ""  # it answered, so its feed will say more
        return seed, next((node.address for node in listed.nodes if node.id == own_id), "")

    async def ask_holder(self, address: str) -> tuple[str, str]:
        """Asks the process at an address that the topology has for this node's id.

        Returns:
            Its full id and its instance; empty if it does not answer, or is no such node.
        """
        state = self._state
        try:
            split_address(address)
        except InvalidAddressError:
            return "", ""
        async with open_channel(state.tls, state.node_id, address) as channel:
            stub = aegis_pb2_grpc.MeshServiceStub(channel)
            request = aegis_pb2.PingRequest(sender_id=state.identity)
            try:
                answer = await stub.Ping(request, timeout=HOLDER_TIMEOUT)
            except grpc.aio.AioRpcError:
                return "", ""
        return answer.node_id or answer.receiver_id, answer.instance

    async def sync_topology(self, peer_id: str) -> bool:
        """Merges a peer's topology now; returns whether that changed this node's topology.

        The peer receives this node's record too.
        """
        peer = self._get(peer_id)
        before = self._state.topology.full_digest
        with self._closing_is_an_error():
            try:
                await self._read_feed(peer)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                await self.poll(peer)
        return self._state.topology.full_digest != before

    async def sync_topology_with_all_peers(self) -> SyncReport:
        """Merges the topologies of all peers, concurrently."""
        known = self.added.keys() | self._state.topology.nodes.keys()
        peers = sorted(peer_id for peer_id in known if self._session.peers.get(peer_id))
        outcomes = await asyncio.gather(
            *(self.sync_topology(peer_id) for peer_id in peers), return_exceptions=True
        )
        failed: dict[str, str] = {}
        for peer_id, outcome in zip(peers, outcomes, strict=True):
            if isinstance(outcome, grpc.aio.AioRpcError):
                failed[peer_id] = describe_call_error(outcome, self._state.tls)
            elif isinstance(outcome, BaseException):
                failed[peer_id] = str(outcome) or type(outcome).__name__
        synced = tuple(peer_id for peer_id in peers if peer_id not in failed)
        return SyncReport(synced, MappingProxyType(failed))

    async def poll(self, peer: PeerInfo) -> None:
        """Asks a peer without a feed for its topology, and vouches for the nodes that it lists.

        Of the peer itself only the services are taken from its list; see `codec.own_node`.
        """
        topology, sender, stub = self._state.topology, self._state.identity, self._stub(peer)
        sync = aegis_pb2.TopologySyncRequest(sender_id=sender, version=topology.version)
        describe = aegis_pb2.NodeInfoRequest(sender_id=sender)
        try:
            answer, info = await asyncio.gather(
                stub.SyncTopology(sync, timeout=TIMEOUT),
                stub.GetNodeInfo(describe, timeout=TIMEOUT),
            )
        except grpc.aio.AioRpcError:
            self._vouching.mark_unanswered(peer.id)
            raise
        listed = codec.first_of(answer.nodes)
        if len(listed) < len(answer.nodes):
            line = "%s lists %d nodes; only the first %d, with their services, were read"
            numbers = len(answer.nodes), len(listed)
            self._log_limiter.warn(peer.id, "too long", line, peer.id, *numbers)
        nodes = {node.id: node for node in nodes_from_unsigned(listed)}
        # It answered, so it runs: such peers drop themselves when they adopt a topology.
        record = topology.get_record(peer.id)
        own = nodes.get(peer.id) or (record and record.info) or NodeInfo(peer.id)
        nodes[peer.id] = codec.own_node(own, info, dialled=peer.address)
        topology.merge_records((), version=answer.version)
        self._vouching.update(peer.id, nodes.values())

    async def confirm(self, peer_id: str) -> bool:
        """Returns whether the topology has a caller without signatures as it is now.

        It may have restarted with other services since anybody polled it. If it adopts whole
        topologies, an answer with its older entry, or without one, would make it forget itself. A
        peer that was added is polled; any other one is asked, and nothing of its answer is kept.
        """
        topology, added = self._state.topology, self.added.get(peer_id)
        node = topology.get_node(peer_id)
        if node is not None and node.vouched_by is None:
            return True
        if added is None and node is None:
            return False
        with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(NESTED_POLL_TIMEOUT):
                if added is not None:
                    await self.poll(added)
                    return topology.get_node(peer_id) is not None
                request = aegis_pb2.TopologySyncRequest(sender_id=self._state.identity)
                stub = self._stub(PeerInfo(peer_id, node.address if node else ""))
                answer = await stub.SyncTopology(request, timeout=TIMEOUT)
                listed = [one for one in codec.first_of(answer.nodes) if one.id == peer_id]
                own = next(iter(nodes_from_unsigned(listed)), None)
                return own is None or (node is not None and own.services == node.services)
        return False

    def is_behind(self, peer_id: str) -> bool:
        """Tells whether a peer that adopts whole topologies lacks nodes of this topology."""
        return self._vouching.is_behind(peer_id)

    async def close(self) -> None:
        """Closes all connections."""
        self._closed = True
        await self.channels.close()
        self._channels.clear()

    @contextlib.contextmanager
    def _closing_is_an_error(self) -> Iterator[None]:
        """Raises ClosedError for a call that ended because the node stops.

        gRPC raises CancelledError for these and for calls whose task was cancelled.
        """
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise ClosedError("node") from None
            raise

    async def _read_feed(self, peer: PeerInfo) -> None:
        """Reads a feed until the peer has sent all that it knows."""
        state, reader = self._state, self._state.new_reader()
        request = reader.request(state.mesh, state.own_record(), state.chain, source=peer.id)
        call = mesh_pb2_grpc.MeshStub(self.channel(peer)).Watch(request, timeout=TIMEOUT)
        try:
            async for message in call:
                for part in split_message(message):
                    received = reader.receive(part, source=peer.id)
                    self._session.apply(received, time.monotonic())
                    await asyncio.sleep(0)
                if message.complete:
                    return
        finally:
            call.cancel()

    def _stub(self, peer: PeerInfo) -> aegis_pb2_grpc.MeshServiceStub:
        return aegis_pb2_grpc.MeshServiceStub(self.channel(peer))

    def _get(self, peer_id: str) -> PeerInfo:
        peer = self._session.peers.get(peer_id)
        if peer is None:
            raise PeerNotFoundError(peer_id)
        return peer


def _full_id(full_id: str, identity: str) -> str:
    """Returns the id of a worker of this identity, or else the identity."""
    try:
        return full_id if parse_worker_id(full_id).identity == identity else identity
    except CertsError:
        return identity
