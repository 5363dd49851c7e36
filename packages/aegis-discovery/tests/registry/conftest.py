"""Nodes that publish in a registry, and a process that reads it, without any I/O."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aegis_certs import TLSConfig
from aegis_discovery import NodeInfo, Topology
from aegis_discovery.feed import FeedReader
from aegis_discovery.records import Opinion, RecordSigner, RecordVerifier
from aegis_discovery.registry import Contents, Keys, encode_record_entry, encode_verdict_entry
from cryptography.hazmat.primitives.serialization import Encoding

MESH = "test"
KEYS = Keys("prod", MESH)


class Publisher:
    """A node with a topology of its own."""

    def __init__(self, tls: TLSConfig) -> None:
        self.id = tls.node_id
        self.chain = tuple(one.public_bytes(Encoding.DER) for one in tls.chain)
        self.topology = Topology(owner=self.id, signer=RecordSigner.of(tls, mesh=MESH))
        self.topology.add_node(NodeInfo(self.id, address="10.0.0.1:1"))
        self.key = KEYS.node(self.id)

    @property
    def value(self) -> bytes:
        record = self.topology.get_record(self.id)
        assert record is not None
        return encode_record_entry(record, self.chain)

    def accuse(self, other: Publisher, opinion: Opinion) -> tuple[bytes, bytes]:
        """Returns the key and the value of a verdict on the present record of another node."""
        record = other.topology.get_record(other.id)
        assert record is not None
        self.topology.merge_records([record])
        self.topology.publish_verdict(other.id, opinion)
        verdict = self.topology.get_verdict(other.id, self.id)
        assert verdict is not None
        value = encode_verdict_entry(verdict.signed, self.chain)
        return KEYS.verdict(other.id, self.id), value


class Reading:
    """A client that reads a registry."""

    def __init__(self, tls: TLSConfig) -> None:
        self.topology = Topology(owner="")
        verifier = RecordVerifier(tls.bundle, mesh=MESH, trust_domain=tls.trust_domain)
        self.reader = FeedReader(self.topology, verifier, trusts_statuses=False)
        self.contents = Contents(KEYS)

    def read(self, *changes: tuple[bytes, bytes | None]) -> None:
        for message in self.contents.messages(changes):
            self.reader.receive(message, source="etcd")

    def read_all(self, *changes: tuple[bytes, bytes | None]) -> None:
        self.contents.begin()
        self.read(*changes)
        self.contents.end()


@pytest.fixture
def publish(identity: Callable[[str], TLSConfig]) -> Callable[[str], Publisher]:
    return lambda node_id: Publisher(identity(node_id))


@pytest.fixture
def reading(identity: Callable[[str], TLSConfig]) -> Reading:
    return Reading(identity("reader"))
