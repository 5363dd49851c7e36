"""Rows S1 to S4: the parts of a node and the source of its identity."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, KeyType, load_or_generate_tls
from aegis_core import (
    CertificateSource,
    Node,
    PeerInfo,
    TLSConfig,
    TLSOptions,
    Topology,
)
from aegis_core.aio import MeshServer, PeerManager
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

BACKDATE = timedelta(minutes=5)


async def test_s01_a_node_has_server_peers_topology_and_tls(
    start: Any, identity: Any, provider: Any, until: Any
) -> None:
    a = await start("a", **provider("a"))
    assert isinstance(a.server, MeshServer)
    assert isinstance(a.peers, PeerManager)
    assert isinstance(a.topology, Topology)
    assert isinstance(a.tls, TLSConfig)
    channel = open_channel(identity("b"), "a", a.address)
    stub = aegis_pb2_grpc.MeshServiceStub(channel)
    pong = await stub.Ping(aegis_pb2.PingRequest(sender_id="b"))
    assert (pong.receiver_id, pong.success) == ("a", True)
    health = await stub.GetHealth(aegis_pb2.HealthRequest(sender_id="b"))
    assert (health.node_id, health.status) == ("a", "healthy")
    info = await stub.GetNodeInfo(aegis_pb2.NodeInfoRequest(sender_id="b"))
    assert (info.id, info.address, info.health.status) == ("a", a.address, "healthy")
    topology = await stub.GetTopology(aegis_pb2.GetTopologyRequest(sender_id="b"))
    assert [node.id for node in topology.nodes] == ["a"]
    assert [service.name for service in topology.nodes[0].services] == ["echo"]
    # A caller that is not in the topology gets no version above its own.
    request = aegis_pb2.TopologySyncRequest(sender_id="b", version=topology.version)
    synced = await stub.SyncTopology(request)
    assert synced.version == topology.version
    await channel.close()


async def test_s01_the_peer_manager_adds_connects_pings_and_syncs(start: Any) -> None:
    a, b = await start("a"), await start("b")
    a.peers.add_peer(PeerInfo("b", b.address))
    assert list(a.peers.added) == ["b"]
    assert await a.peers.ping_peer("b") > 0
    await a.peers.sync_topology("b")
    assert list(a.topology.nodes) == ["a", "b"]


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that was empty before a node started on it with the default options."""
    directory = tmp_path_factory.mktemp("first") / "certs"
    with Node("a", address="127.0.0.1:0", cert_dir=directory, grace=0):
        yield directory


def certificate(directory: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / f"{name}-cert.pem").read_bytes())


def rsa_bits(certificate: x509.Certificate) -> int:
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    return key.key_size


def life(certificate: x509.Certificate) -> timedelta:
    issued = certificate.not_valid_before_utc + BACKDATE
    return certificate.not_valid_after_utc - issued


def test_s02_a_start_without_a_ca_creates_one_with_rsa_4096_for_365_days(first_start: Path) -> None:
    ca = certificate(first_start, "ca")
    assert rsa_bits(ca) == 4096
    assert life(ca) == timedelta(days=365)
    assert (first_start / "ca-key.pem").exists()


def test_s02_a_ca_that_exists_is_loaded(ca: CertificateAuthority) -> None:
    before = (ca.directory / "ca-cert.pem").read_bytes()
    with Node("s02", address="127.0.0.1:0", cert_dir=ca.directory, grace=0) as node:
        assert node.tls.trust_bundle == before
    assert (ca.directory / "ca-cert.pem").read_bytes() == before


def test_s03_a_start_without_a_certificate_issues_one_with_rsa_2048_for_90_days(
    first_start: Path,
) -> None:
    leaf = certificate(first_start, "a")
    assert rsa_bits(leaf) == 2048
    assert life(leaf) == timedelta(days=90)
    leaf.verify_directly_issued_by(certificate(first_start, "ca"))
    assert (first_start / "a-key.pem").exists()


def test_s03_a_certificate_that_exists_is_loaded(first_start: Path) -> None:
    files = ("a-cert.pem", "a-key.pem", "ca-cert.pem")
    chain, key, bundle = ((first_start / name).read_bytes() for name in files)
    again = load_or_generate_tls("a", first_start)
    assert (again.certificate_chain, again.private_key, again.trust_bundle) == (chain, key, bundle)


async def test_s04_a_users_own_certificates_are_read_from_files_or_the_environment(
    tmp_path: Path, start: Any, until: Any, agree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = CertificateAuthority.create(tmp_path / "pki", key_type=KeyType.P256)
    for node_id in ("a", "b"):
        own.issue(node_id, key_type=KeyType.P384)
    pki = own.directory
    files = TLSOptions(
        cert_file=pki / "a-cert.pem", key_file=pki / "a-key.pem", ca_file=pki / "ca-cert.pem"
    )
    a = await start("a", tls_options=files)
    monkeypatch.setenv("AEGIS_TLS_CERT", (pki / "b-cert.pem").read_text())
    monkeypatch.setenv("AEGIS_TLS_KEY", (pki / "b-key.pem").read_text())
    monkeypatch.setenv("AEGIS_TLS_CA", (pki / "ca-cert.pem").read_text())
    b = await start("b", a, tls_options=TLSOptions(source=CertificateSource.ENV))
    await until(lambda: agree(a, b))
    assert await a.ping_peer("b") > 0
    assert a.tls.private_key == (pki / "a-key.pem").read_bytes()
    assert b.tls.private_key == (pki / "b-key.pem").read_bytes()
