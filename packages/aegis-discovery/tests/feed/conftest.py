"""What the tests of both ends of a feed share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from aegis_certs import TLSConfig
from aegis_discovery import NodeInfo, NodeStatus, ServiceInfo, Topology
from aegis_discovery.documents import DocumentStore, DocumentVerifier
from aegis_discovery.feed import FeedReader, FeedWriter, ReceiveResult
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import RecordSigner, RecordVerifier
from aegis_discovery.records._codec import signed_to_wire
from cryptography.hazmat.primitives.serialization import Encoding

MESH = "test"


ALIVE, SUSPECTED, FAILED = NodeStatus.ALIVE, NodeStatus.SUSPECTED, NodeStatus.FAILED


class Side:
    """One process with everything that a feed needs, at either end."""

    def __init__(
        self, tls: TLSConfig, *, trust_domain: str | None = None, is_node: bool = True
    ) -> None:
        self.tls = tls
        self.id = tls.node_id
        self.topology = Topology(owner=self.id, signer=RecordSigner.of(tls, mesh=MESH))
        self.verifier = RecordVerifier(
            tls.bundle, mesh=MESH, trust_domain=trust_domain or tls.trust_domain
        )
        self.chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in tls.chain)
        if is_node:
            self.verifier.add_chain(self.chain)
        self.documents = DocumentStore(
            DocumentVerifier(tls.bundle, mesh=MESH, trust_domain=tls.trust_domain)
        )
        self.reader = FeedReader(
            self.topology, self.verifier, trusts_statuses=not is_node, documents=self.documents
        )
        self.received: list[mesh_pb2.WatchResponse] = []

    def declare(self, *services: str) -> None:
        info = NodeInfo(
            self.id,
            address="10.0.0.1:1",
            services=tuple(ServiceInfo(name, "v1") for name in services),
        )
        self.topology.add_node(info)

    def record(self, node_id: str | None = None) -> mesh_pb2.SignedRecord:
        record = self.topology.get_record(node_id or self.id)
        assert record is not None
        return signed_to_wire(record)

    def serve(self, request: mesh_pb2.WatchRequest, watcher: str) -> FeedWriter:
        def chain_of(fingerprint: bytes) -> tuple[bytes, ...] | None:
            leaf = self.verifier.leaf(fingerprint)
            return leaf.chain if leaf else None

        return FeedWriter(
            self.topology, chain_of, watcher=watcher, request=request, documents=self.documents
        )

    def open(self, server: Side) -> FeedWriter:
        """Opens a feed from the server, as the wire would."""
        own = self.topology.get_record(self.id)
        sent = self.reader.request(
            MESH, own, self.chain if own else (), source="server"
        ).SerializeToString()
        return server.serve(mesh_pb2.WatchRequest.FromString(sent), self.id)

    def pull(self, feed: FeedWriter) -> list[ReceiveResult]:
        """Receives what the feed sends now."""
        self.received = [
            mesh_pb2.WatchResponse.FromString(message.SerializeToString())
            for message in feed.messages()
        ]
        return [self.reader.receive(message, source="server") for message in self.received]

    @property
    def received_ids(self) -> list[str]:
        """Ids of the nodes that the last pull received."""
        bodies = [record.body for message in self.received for record in message.records]
        return [mesh_pb2.RecordBody.FromString(body).id for body in bodies]

    @property
    def chains(self) -> int:
        return sum(len(message.chains) for message in self.received)


MakeSide = Callable[..., Side]


@pytest.fixture(scope="session")
def side(identity: Callable[[str], TLSConfig]) -> MakeSide:
    def make(node_id: str, *services: str, is_node: bool = True) -> Side:
        made = Side(identity(node_id), is_node=is_node)
        if is_node:
            made.declare(*services)
        return made

    return make


@pytest.fixture
def server(side: MakeSide) -> Side:
    return side("server")


@pytest.fixture(scope="module")
def large_server(side: MakeSide) -> Side:
    """One of 3 000 nodes: few identities vouch for many, since keys are slow to make."""
    server = side("server")
    for voucher in (side(f"voucher-{i}") for i in range(15)):
        vouch_for(voucher, (f"{voucher.id}-{i}" for i in range(199)))
        server.pull(server.open(voucher))
    return server


def vouch_for(side: Side, node_ids: Iterable[str]) -> None:
    for node_id in node_ids:
        services = tuple(ServiceInfo(f"service-{i}", "v1") for i in range(10))
        side.topology.vouch(NodeInfo(node_id, address="10.0.0.1:1", services=services))


def vouch(side: Side, node_id: str, *services: str) -> None:
    wanted = tuple(ServiceInfo(*service.split("/")) for service in services)
    side.topology.vouch(NodeInfo(node_id, address="10.0.0.1:1", services=wanted))


def set_status(side: Side, node_id: str, status: NodeStatus) -> None:
    record = side.topology.get_record(node_id)
    assert record is not None
    side.topology.set_status(node_id, record.stamp, status)
