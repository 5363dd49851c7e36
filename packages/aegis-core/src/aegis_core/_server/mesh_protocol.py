"""Answers the mesh's own requests: the five calls of the unsigned protocol, and new feeds. Pure."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from aegis_certs import MAX_WORKERS, owner_of
from aegis_discovery import InvalidRecordError, NodeInfo, NodeStatus, Topology
from aegis_discovery.documents import DocumentStore
from aegis_discovery.feed import FeedWriter, request_problem
from aegis_discovery.proto import aegis_pb2, mesh_pb2
from aegis_discovery.records import Record, RecordVerifier, signed_from_wire
from aegis_discovery.signals import LogLimiter

from aegis_core._access.authorization import CallerVerifier
from aegis_core._access.caller import Caller
from aegis_core._health.checks import HealthInfo
from aegis_core._rate_limit import FEEDS, READS, RateLimiter
from aegis_core._unsigned_peers import codec

_log = logging.getLogger("aegis.server")

MAX_SYNCED = 1024
"""Callers whose last answer is remembered; no node has so many unsigned peers."""


class LocalNode(NamedTuple):
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
    confirm: Callable[[str], Awaitable[bool]]
    is_behind: Callable[[str], bool]
    caller_verifier: CallerVerifier
    has_joined: Callable[[], bool]
    documents: DocumentStore
    drain: Callable[[str], None]


def live_workers(topology: Topology, identity: str) -> int:
    """Returns how many processes share the limits of a caller: 1 for a node or a client."""
    nodes = topology.get_nodes_by_identity(identity)
    live = sum(node.status is not NodeStatus.FAILED for node in nodes)
    return max(1, min(live, MAX_WORKERS))


class RequestRefusedError(Exception):
    """A request is not answered.

    Attributes:
        code: The name of the gRPC status code.
        text: What the caller is told.
    """

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(text)


class UnsignedProtocol:
    """Answers the five unary calls of the unsigned protocol.

    Every method raises `RequestRefusedError` for a message whose sender is not the caller.
    """

    def __init__(self, node: LocalNode) -> None:
        self._node = node
        self._synced: OrderedDict[str, bytes] = OrderedDict()
        self._rate_limiter = RateLimiter(READS)
        self._log_limiter = LogLimiter(_log)

    def ping(self, request: aegis_pb2.PingRequest, caller: Caller) -> aegis_pb2.PingResponse:
        self._check_sender(request.sender_id, caller)
        node = self._node
        has_left = node.topology.get_node(node.node_id) is None
        looked_up = node.topology.get_node(request.look_up) if request.look_up else None
        return codec.ping_response(
            node.node_id,
            instance="" if has_left else node.instance,
            address=looked_up.address if looked_up else "",
        )

    def health(self, request: aegis_pb2.HealthRequest, caller: Caller) -> aegis_pb2.HealthResponse:
        self._check_sender(request.sender_id, caller)
        return codec.health_to_wire(self._node.health())

    def node_info(
        self, request: aegis_pb2.NodeInfoRequest, caller: Caller
    ) -> aegis_pb2.NodeInfoResponse:
        self._check_sender(request.sender_id, caller)
        return codec.node_info_to_wire(self._node.info(), self._node.health())

    @contextmanager
    def reading(self, sender_id: str, caller: Caller, now: float) -> Iterator[None]:
        """Counts a read of the whole topology, of which a caller may make only so many."""
        self._check_sender(sender_id, caller)
        workers = live_workers(self._node.topology, caller.node_id)
        refusal = self._rate_limiter.enter(caller.node_id, now, workers=workers)
        if refusal:
            self._log_limiter.warn(caller.node_id, "reads", "the topology was refused: %s", refusal)
            raise RequestRefusedError("RESOURCE_EXHAUSTED", refusal)
        try:
            yield
        finally:
            self._rate_limiter.leave(caller.node_id)

    def sync_topology(
        self, request: aegis_pb2.TopologySyncRequest, caller: Caller, *, is_confirmed: bool
    ) -> aegis_pb2.TopologySyncResponse:
        """Returns the whole topology, with a version that makes the caller adopt it.

        Call it within `reading`, with the result of `LocalNode.confirm`.

        The caller sends only its own version, and adopts the whole topology of a higher one. So
        this node's version is raised above the caller's, unless the caller's last answer had the
        same nodes and the caller was seen to hold them.

        A caller that is not in the topology as it is now gets no version above its own: it would
        adopt a topology without itself, or with its older self, and so forget its own services.
        """
        caller_id, topology = caller.node_id, self._node.topology
        snapshot = topology.snapshot()
        answer = codec.sync_response(snapshot, caller_id)
        if caller_id not in snapshot.nodes or not is_confirmed:
            answer.version = min(request.version, answer.version)
            return answer
        digest = codec.digest_of(answer)
        has_ours = self._synced.get(caller_id) == digest
        if request.version >= answer.version and (not has_ours or self._node.is_behind(caller_id)):
            answer.version = topology.advance_version_past(request.version)
        self._synced[caller_id] = digest
        self._synced.move_to_end(caller_id)
        if len(self._synced) > MAX_SYNCED:
            self._synced.popitem(last=False)
        return answer

    def topology(self, caller: Caller) -> aegis_pb2.GetTopologyResponse:
        """Returns the whole topology. Call it within `reading`."""
        return codec.topology_response(self._node.topology.snapshot(), caller.node_id)

    def _check_sender(self, sender_id: str, caller: Caller) -> None:
        if sender_id and sender_id != caller.node_id:
            line = "%s claims to be %.64r; refused"
            self._log_limiter.warn(caller.node_id, "id", line, caller.node_id, sender_id)
            raise RequestRefusedError(
                "PERMISSION_DENIED",
                f"sender_id is {sender_id[:64]!r}, the certificate says {caller.node_id}",
            )


class FeedAdmission:
    """Decides who may watch this node.

    Attributes:
        served: How many feeds were opened so far.
    """

    def __init__(self, node: LocalNode) -> None:
        self._node = node
        self._rate_limiter = RateLimiter(FEEDS)
        self._log_limiter = LogLimiter(_log)
        self.served = 0

    def admit(self, request: mesh_pb2.WatchRequest, caller: Caller, now: float) -> FeedWriter:
        """Merges the record of a joining node; returns the writer of the caller's feed.

        Call `release` at the end of the feed.

        Raises:
            RequestRefusedError: The feed is refused, and needs no `release`.
        """
        workers = live_workers(self._node.topology, caller.node_id)
        refusal = self._rate_limiter.enter(caller.node_id, now, workers=workers)
        if refusal:
            raise self._refusal(caller, "RESOURCE_EXHAUSTED", refusal)
        try:
            watcher = self._check(request, caller)
            writer = FeedWriter(
                self._node.topology,
                self._node.chain_of,
                watcher=watcher,
                request=request,
                documents=self._node.documents,
            )
        except BaseException:
            self.release(caller)
            raise
        self.served += 1
        return writer

    def release(self, caller: Caller) -> None:
        """Counts one feed of the caller less."""
        self._rate_limiter.leave(caller.node_id)

    def _check(self, request: mesh_pb2.WatchRequest, caller: Caller) -> str:
        """Returns the id of the watcher: that of a worker, if its record proves it."""
        if request.mesh != self._node.mesh:
            reason = f"this is mesh {self._node.mesh!r}, not {request.mesh[:64]!r}"
            raise RequestRefusedError("FAILED_PRECONDITION", reason)
        problem = request_problem(request)
        if problem:
            raise self._refusal(caller, "INVALID_ARGUMENT", problem)
        if request.HasField("record"):
            return self._admit_node(request, caller)
        if not self._node.has_joined():
            # A client would take this node for the whole mesh.
            reason = f"{self._node.node_id} is still joining the mesh; ask another node, or again"
            raise RequestRefusedError("UNAVAILABLE", reason)
        return caller.node_id

    def _admit_node(self, request: mesh_pb2.WatchRequest, caller: Caller) -> str:
        try:
            if request.chain.certificates:
                self._node.verifier.add_chain(tuple(request.chain.certificates))
            record = self._node.verifier.verify(signed_from_wire(request.record))
            if owner_of(record.id) != caller.node_id or record.voucher is not None:
                raise InvalidRecordError(record.id, f"{caller.node_id} may not publish it")
        except InvalidRecordError as error:
            # By this code the caller knows that its clock was ahead.
            code = "OUT_OF_RANGE" if error.is_ahead else "PERMISSION_DENIED"
            raise self._refusal(caller, code, str(error)) from error
        own, info = self._node.info(), record.info
        if request.HasField("region") and request.region not in (own.region, info and info.region):
            reason = f"{own.id} is in region {own.region!r}, not {request.region[:64]!r}"
            raise self._refusal(caller, "FAILED_PRECONDITION", reason)
        topology = self._node.topology
        if topology.is_full and topology.get_node(record.id) is None:
            full = f"the mesh is full with {topology.node_count} nodes; {record.id} cannot join"
            raise self._refusal(caller, "RESOURCE_EXHAUSTED", full)
        result = topology.merge_records([record], origin=record.id)
        if result.foreign is not None:
            self._node.on_foreign(result.foreign)
        return record.id

    def _refusal(self, caller: Caller, code: str, reason: str) -> RequestRefusedError:
        """Returns the refusal of what no honest caller asks, and logs it at a limited rate."""
        line = "a feed for %s was refused: %s"
        self._log_limiter.warn(caller.node_id, reason, line, caller.node_id, reason)
        return RequestRefusedError(code, reason)
