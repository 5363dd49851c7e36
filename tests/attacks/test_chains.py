"""A malicious node sends harmful certificates and cursors."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from aegis_certs import TrustBundle
from aegis_core import NodeInfo
from aegis_discovery.aio import connect
from aegis_discovery.proto import mesh_pb2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

MIB = 1 << 20
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])


def self_issued(*extensions: x509.ExtensionType) -> bytes:
    """Returns a self-issued certificate (DER); all of them have the same key."""
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    builder = x509.CertificateBuilder(NAME, NAME, KEY.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + dt.timedelta(1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


KEY = ec.generate_private_key(ec.SECP256R1())
WORTHLESS = (
    self_issued(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
    *(self_issued(x509.BasicConstraints(True, None)) for _ in range(2)),
)
"""A chain for which a path search without limits tries every order of the certificates."""

X400_ADDRESS = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x02\xa3\x00")
ODD = (self_issued(X400_ADDRESS),)
"""A chain with a name type (x400Address) that the parser does not know."""


@pytest.fixture
def verified_lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of certificates in each chain that was verified."""
    counts: list[int] = []
    begin = TrustBundle.begin_verify

    def counted(self: TrustBundle, chain: Sequence[Any], *args: Any, **options: Any) -> Any:
        counts.append(len(chain))
        return begin(self, chain, *args, **options)

    monkeypatch.setattr(TrustBundle, "begin_verify", counted)
    return counts


async def test_a_message_full_of_self_issued_chains_costs_no_path_search(
    attacked: Any, logged: Any, verified_lengths: list[int]
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    message = mesh_pb2.WatchResponse(cursor=b"any")
    chain = mesh_pb2.Chain(certificates=WORTHLESS)
    while message.ByteSize() < MIB - 2000:
        message.chains.append(chain)
    assert len(message.chains) > 500
    verified_lengths.clear()
    mesh.attacker.send_bytes(message.SerializeToString())
    # Each node reads the whole message itself; the marker could reach one through the other first.
    await mesh.until(lambda: verified_lengths.count(1) >= len(message.chains) * len(mesh.nodes))
    await mesh.settle()
    await mesh.assert_intact()
    assert max(verified_lengths) == 1, "no path was searched through untrusted certificates"
    assert len(logged("from mallory:", "its certificate does not verify")) == len(mesh.nodes)


async def test_a_self_issued_chain_is_refused_without_a_path_search(
    attacked: Any, verified_lengths: list[int]
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    request = mesh.attacker.request(mesh.attacker.record())
    request.chain.CopyFrom(mesh_pb2.Chain(certificates=WORTHLESS))
    verified_lengths.clear()
    call = mesh.attacker.watch(mesh.nodes[0], request)
    with pytest.raises(grpc.aio.AioRpcError, match="does not verify"):
        await call.read()
    assert set(verified_lengths) == {1}
    await mesh.assert_intact()


async def test_an_unreadable_certificate_is_refused_like_any_untrusted_one(
    attacked: Any, logged: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    request = mesh.attacker.request(mesh.attacker.record())
    request.chain.CopyFrom(mesh_pb2.Chain(certificates=ODD))
    for _ in range(3):
        call = mesh.attacker.watch(mesh.nodes[0], request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert len(logged("a feed for mallory was refused", "its certificate does not verify")) == 1
    served = mesh.attacker.feeds_served
    mesh.attacker.send(mesh.attacker.record("still-heard"), chains=[ODD])
    for node in mesh.nodes:
        await mesh.until(lambda n=node: n.topology.get_service_providers("still-heard", "v1"))
    assert mesh.attacker.feeds_served == served, "no feed ended"
    assert len(logged("from mallory:", "its certificate does not verify")) == len(mesh.nodes)
    assert [line.message for line in caplog.records if line.levelno >= logging.ERROR] == []
    await mesh.assert_intact()


async def test_an_internal_error_is_logged_once_a_minute_with_the_peer_that_caused_it(
    attacked: Any, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()

    def receive(_reader: Any, _message: Any, *, source: str) -> None:
        raise ZeroDivisionError(f"of {source}")

    with monkeypatch.context() as patch:
        patch.setattr("aegis_discovery.feed._reader.FeedReader.receive", receive)
        served = mesh.attacker.feeds_served
        await mesh.until(lambda: mesh.attacker.feeds_served >= served + 3 * len(mesh.nodes))
    assert len(logged("watching mallory at", "failed")) == len(mesh.nodes)


async def test_a_cursor_does_not_make_other_nodes_refuse_a_client(
    attacked: Any, identity: Any, logged: Any, until: Any
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    attacker, (a, b) = mesh.attacker, mesh.nodes
    message = attacker.received[0]
    message.cursor = bytes(100_000)
    message.complete = True
    attacker.send_bytes(message.SerializeToString())
    async with await connect(
        attacker.address, a.address, b.address, tls=identity("visitor")
    ) as client:
        await until(lambda: logged("from mallory: a cursor of 100000 bytes was ignored"))
        await attacker.stop()
        a.topology.update_node(NodeInfo("a", address=a.address, type="changed"))
        await until(lambda: "changed" in {node.type for node in client.topology.nodes.values()})
    assert logged("a feed for visitor was refused") == []
