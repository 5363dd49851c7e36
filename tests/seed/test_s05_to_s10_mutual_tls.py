"""Rows S5 to S10: both sides of every connection prove their identity."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_core import Caller, PeerInfo, ServiceInfo, caller_from_context
from aegis_discovery import ConnectError
from aegis_discovery import aio as discovery_aio
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc

from ..conftest import serving

LONG_AGO = datetime.now(UTC) - timedelta(days=30)


@pytest.fixture(scope="session")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    directory = tmp_path_factory.mktemp("other-ca")
    return CertificateAuthority.create(directory, key_type=KeyType.P256)


@pytest.fixture(scope="session")
def old_ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """A CA that is old enough to have issued certificates that have expired."""
    directory = tmp_path_factory.mktemp("old-ca")
    return CertificateAuthority.create(directory, key_type=KeyType.P256, at=LONG_AGO)


async def ping(channel: grpc.aio.Channel) -> str:
    """Pings over a channel and closes it."""
    async with channel:
        answer = await aegis_pb2_grpc.MeshServiceStub(channel).Ping(
            aegis_pb2.PingRequest(), timeout=10
        )
    return str(answer.receiver_id)


async def test_s05_a_caller_without_a_certificate_gets_no_connection(start: Any) -> None:
    a = await start("a")
    anonymous = grpc.aio.secure_channel(
        a.address,
        grpc.ssl_channel_credentials(a.tls.trust_bundle),
        options=[("grpc.ssl_target_name_override", "a")],
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ping(anonymous)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_s05_a_caller_without_tls_gets_no_connection(start: Any) -> None:
    a = await start("a")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ping(grpc.aio.insecure_channel(a.address))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_s06_a_server_with_the_identity_of_another_node_is_not_called(
    start: Any, identity: Callable[[str], TLSConfig]
) -> None:
    a = await start("a")
    assert await ping(open_channel(identity("b"), "a", a.address)) == "a"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ping(open_channel(identity("b"), "c", a.address))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    b = await start("b")
    b.add_peer(PeerInfo("c", a.address))
    with pytest.raises(grpc.aio.AioRpcError):
        await b.ping_peer("c")
    assert "c" not in b.topology.nodes


async def test_s07_a_caller_of_another_ca_gets_no_connection(
    start: Any, other_ca: CertificateAuthority, ca: CertificateAuthority
) -> None:
    a = await start("a")
    stranger = other_ca.issue_in_memory("b")
    trusting = TLSConfig("b", stranger.certificate_chain, stranger.private_key, a.tls.trust_bundle)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ping(open_channel(trusting, "a", a.address))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ConnectError, match="both sides need certificates of one CA"):
        await discovery_aio.connect(a.address, tls=stranger, timeout=1)


async def test_s07_a_server_of_another_ca_is_not_called(
    start: Any, other_ca: CertificateAuthority
) -> None:
    a = await start("a")
    async with serving(
        other_ca.issue_in_memory("b"), aegis_pb2_grpc.MeshServiceServicer()
    ) as address:
        a.add_peer(PeerInfo("b", address))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await a.ping_peer("b")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_s08_a_caller_whose_certificate_has_expired_gets_no_connection(
    start: Any, old_ca: CertificateAuthority
) -> None:
    a = await start("a", tls=old_ca.issue_in_memory("a"))
    expired = old_ca.issue_in_memory("b", days=1, at=LONG_AGO)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ping(open_channel(expired, "a", a.address))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ConnectError, match="the certificate of b expired at"):
        await discovery_aio.connect(a.address, tls=expired, timeout=1)


async def test_s08_a_server_whose_certificate_has_expired_is_not_called(
    start: Any, old_ca: CertificateAuthority
) -> None:
    a = await start("a", tls=old_ca.issue_in_memory("a"))
    async with serving(
        old_ca.issue_in_memory("b", days=1, at=LONG_AGO), aegis_pb2_grpc.MeshServiceServicer()
    ) as address:
        a.add_peer(PeerInfo("b", address))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await a.ping_peer("b")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(ConnectError, match="has expired; renew it there"):
            await discovery_aio.connect(address, tls=a.tls, timeout=1)


async def test_s09_an_unexpected_common_name_is_refused(
    start: Any, identity: Callable[[str], TLSConfig]
) -> None:
    a = await start("a")
    with pytest.raises(ConnectError, match="another node than the expected one answered there"):
        await discovery_aio.connect(f"b@{a.address}", tls=identity("client"), timeout=1)
    async with await discovery_aio.connect(f"a@{a.address}", tls=identity("client")) as mesh:
        assert list(mesh.topology.nodes) == ["a"]


async def test_s09_a_node_that_publishes_the_address_of_another_gets_no_calls(
    start: Any, provider: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start("a", **provider("a"))
    with caplog.at_level(logging.WARNING):
        b = await start("b", a, advertise=a.address, services=[ServiceInfo("mine", "v1")])
        await until(lambda: "no feed from b" in caplog.text)
    method = a.pool.channel("mine", "v1").unary_unary("/test.Echo/Say")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert b.topology.nodes["b"].address == a.address


async def test_s10_handlers_get_the_callers_id_and_its_whole_certificate(start: Any) -> None:
    callers: list[Caller] = []

    async def async_handler(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        callers.append(caller_from_context(context))
        return request

    def sync_handler(request: bytes, context: grpc.ServicerContext) -> bytes:
        callers.append(caller_from_context(context))
        return request

    def register(server: Any) -> None:
        handlers = {
            "Async": grpc.unary_unary_rpc_method_handler(async_handler),
            "Sync": grpc.unary_unary_rpc_method_handler(sync_handler),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Who", handlers),)
        )

    a = await start("a", services=[ServiceInfo("who", "v1")], registrars=[register])
    b = await start("b", a)
    channel = b.pool.channel("who", "v1")
    for name in ("Async", "Sync"):
        assert await channel.unary_unary(f"/test.Who/{name}")(b"x", timeout=10) == b"x"
    assert [caller.node_id for caller in callers] == ["b", "b"]
    assert {caller.certificate for caller in callers} == {b.tls.certificate}
    assert callers[0].certificate is callers[1].certificate, "the certificate is parsed once"
