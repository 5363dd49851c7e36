"""A member of the mesh sends certificates, and cursors, that are made to do harm."""

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


def made_up(*extensions: x509.ExtensionType) -> bytes:
    """A certificate (DER) that names itself as its issuer; all of them have one key."""
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    builder = x509.CertificateBuilder(NAME, NAME, KEY.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + dt.timedelta(1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


KEY = ec.generate_private_key(ec.SECP256R1())
WORTHLESS = (
    made_up(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
    *(made_up(x509.BasicConstraints(True, None)) for _ in range(2)),
)
"""One for which a verifier tries each of its certificates above each, as far as it is let."""

X400_ADDRESS = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x02\xa3\x00")
ODD = (made_up(X400_ADDRESS),)
"""One with a kind of name that the parser does not know."""


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many certificates a path was tried through, each time."""
    counts: list[int] = []
    verify = TrustBundle.verify

    def counted(self: TrustBundle, chain: Sequence[Any], *args: Any, **options: Any) -> Any:
        counts.append(len(chain))
        return verify(self, chain, *args, **options)

    monkeypatch.setattr(TrustBundle, "verify", counted)
    return counts


async def test_a_message_full_of_worthless_chains_keeps_nobody_busy(
    attacked: Any, logged: Any, tried: list[int]
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    message = mesh_pb2.WatchResponse(cursor=b"any")
    chain = mesh_pb2.Chain(certificates=WORTHLESS)
    while message.ByteSize() < MIB - 2000:
        message.chains.append(chain)
    assert len(message.chains) > 500
    tried.clear()
    mesh.attacker.say(message.SerializeToString())
    # The news that one node has read all of it may come to the other one sooner than that has.
    await mesh.until(lambda: tried.count(1) >= len(message.chains) * len(mesh.nodes))
    await mesh.settle()
    await mesh.is_right()
    assert max(tried) == 1, "no path was tried through what somebody made up"
    assert len(logged("from mallory:", "its certificate does not verify")) == len(mesh.nodes)


async def test_a_worthless_chain_lets_nobody_in_and_costs_no_path(
    attacked: Any, tried: list[int]
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    request = mesh.attacker.request(mesh.attacker.record())
    request.chain.CopyFrom(mesh_pb2.Chain(certificates=WORTHLESS))
    tried.clear()
    call = mesh.attacker.watch(mesh.nodes[0], request)
    with pytest.raises(grpc.aio.AioRpcError, match="does not verify"):
        await call.read()
    assert set(tried) == {1}
    await mesh.is_right()


async def test_a_certificate_that_cannot_be_read_is_a_refusal_like_any_other(
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
    mesh.attacker.tell(mesh.attacker.record("still-heard"), chains=[ODD])
    for node in mesh.nodes:
        await mesh.until(lambda n=node: n.topology.get_service_providers("still-heard", "v1"))
    assert mesh.attacker.feeds_served == served, "no feed ended"
    assert len(logged("from mallory:", "its certificate does not verify")) == len(mesh.nodes)
    assert [line.message for line in caplog.records if line.levelno >= logging.ERROR] == []
    await mesh.is_right()


async def test_a_fault_of_ours_is_logged_now_and_then_with_who_brought_it_out(
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
    told = attacker.heard[0]
    told.cursor = bytes(100_000)
    told.complete = True
    attacker.say(told.SerializeToString())
    async with await connect(
        attacker.address, a.address, b.address, tls=identity("visitor")
    ) as client:
        await until(lambda: logged("from mallory: a cursor of 100000 bytes was ignored"))
        await attacker.stop()
        a.topology.update_node(NodeInfo("a", address=a.address, type="changed"))
        await until(lambda: "changed" in {node.type for node in client.topology.nodes.values()})
    assert logged("a feed for visitor was refused") == []
