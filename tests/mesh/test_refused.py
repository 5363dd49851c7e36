"""Nodes and clients that may not join the mesh are refused."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, CertsError, KeyType, TLSConfig
from aegis_core import ConfigError
from aegis_core.aio import Node
from aegis_discovery import DEFAULT_MESH, NodeInfo, Topology
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.feed import FeedReader
from aegis_discovery.proto import mesh_pb2, mesh_pb2_grpc
from aegis_discovery.records import RecordSigner, RecordVerifier
from cryptography.hazmat.primitives.serialization import Encoding


@asynccontextmanager
async def watching(
    tls: TLSConfig, node: Any, record_of: str, signed_by: TLSConfig
) -> AsyncIterator[Any]:
    """Opens a feed with any record, as no honest node would."""
    topology = Topology(signer=RecordSigner.of(signed_by, mesh=DEFAULT_MESH))
    topology.add_node(NodeInfo(record_of, address="127.0.0.1:9"))
    verifier = RecordVerifier(tls.bundle, mesh=DEFAULT_MESH, trust_domain=tls.trust_domain)
    reader = FeedReader(topology, verifier, trusts_statuses=False)
    chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in signed_by.chain)
    request = reader.request(DEFAULT_MESH, topology.get_record(record_of), chain, source=node.id)
    async with open_channel(tls, node.id, node.address) as channel:
        yield mesh_pb2_grpc.MeshStub(channel).Watch(request, timeout=10)


async def refusal(
    tls: TLSConfig, node: Any, *, record_of: str, signed_by: TLSConfig | None = None
) -> str:
    async with watching(tls, node, record_of, signed_by or tls) as call:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    refusals = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
    assert caught.value.code() in refusals
    assert list(node.topology.nodes) == [node.id]
    return str(caught.value.details())


async def test_a_node_of_another_ca_is_refused_and_learns_why(
    start: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start("a")
    other_ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    b = await start("b", a, tls=other_ca.issue_in_memory("b"), join_timeout=1)
    assert list(a.topology.nodes) == ["a"]
    assert list(b.topology.nodes) == ["b"]
    assert "both sides need certificates of one CA" in caplog.text


async def test_a_client_only_certificate_is_refused_for_a_node(
    start: Any, ca: CertificateAuthority
) -> None:
    tls = ca.issue_in_memory("client", client_only=True)
    with pytest.raises((ConfigError, CertsError), match="must not be used as a server"):
        await Node("client", address="127.0.0.1:0", tls=tls).start()
    a = await start("a")
    assert "must not be used as a server" in await refusal(tls, a, record_of="client")


async def test_an_expired_certificate_is_refused_for_a_node(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=30)
    old_ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256, at=long_ago)
    tls = old_ca.issue_in_memory("a", days=1, at=long_ago)
    with pytest.raises((ConfigError, CertsError), match="expired"):
        await Node("a", address="127.0.0.1:0", tls=tls).start()


async def test_a_node_can_join_only_with_its_own_record(start: Any, identity: Any) -> None:
    a = await start("a")
    b, c = identity("b"), identity("c")
    assert "c may not publish it" in await refusal(c, a, record_of="b", signed_by=b)
    assert "it was signed by c" in await refusal(c, a, record_of="b")


async def test_a_node_of_another_trust_domain_is_refused(
    start: Any, tmp_path: Path, identity: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ally_ca = CertificateAuthority.create(
        tmp_path, key_type=KeyType.P256, trust_domain="ally.example"
    )
    ally, own = ally_ca.issue_in_memory("b"), identity("a")
    # Each side trusts the CA of the other for TLS, but the trust domains still differ.
    both = own.trust_bundle + ally.trust_bundle
    a = await start("a", tls=TLSConfig("a", own.certificate_chain, own.private_key, both))
    trusting = TLSConfig("b", ally.certificate_chain, ally.private_key, both)
    with caplog.at_level(logging.INFO, "aegis"):
        b = await start("b", a, tls=trusting, join_timeout=1)
    assert list(a.topology.nodes) == ["a"]
    assert list(b.topology.nodes) == ["b"]
    assert "is of trust domain aegis.internal, we are of ally.example" in caplog.text
    assert "b is of trust domain ally.example" in await refusal(trusting, a, record_of="b")


async def test_a_node_of_another_mesh_gets_no_feed(start: Any, identity: Any) -> None:
    a = await start("a", mesh="one")
    async with open_channel(identity("b"), "a", a.address) as channel:
        call = mesh_pb2_grpc.MeshStub(channel).Watch(mesh_pb2.WatchRequest(mesh="two"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "this is mesh 'one', not 'two'"
