"""A bootstrap identity may call `Issuer.Enroll`, and nothing else, whatever the server."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import grpc
import pytest
from aegis_certs import KeyType
from aegis_core import CallerError, Node, ServiceInfo, caller_from_context
from aegis_discovery import enroll
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import issuer_pb2

from ..attacks.test_one_caller import frames

METHODS = {
    "the feed": "/aegis.mesh.v1.Mesh/Watch",
    "ping": "/aegis.MeshService/Ping",
    "the topology": "/aegis.MeshService/GetTopology",
    "statistics": "/aegis.mesh.v1.Introspection/GetStats",
    "health": "/grpc.health.v1.Health/Check",
    "watched health": "/grpc.health.v1.Health/Watch",
    "reflection": "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "old reflection": "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "renewal": "/aegis.mesh.v1.Issuer/Renew",
    "a user's service": "/test.Echo/Say",
    "any method of the user's": "/test.Any/Thing",
}


class Service:
    """A user's service that counts what it parses and serves, and one that serves any method."""

    def __init__(self) -> None:
        self.parsed: list[bytes] = []
        self.callers: list[Any] = []

    def __call__(self, server: Any) -> None:
        handler = grpc.unary_unary_rpc_method_handler(self._say, self._parse)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", {"Say": handler}), _Any(handler))
        )

    def _parse(self, request: bytes) -> bytes:
        self.parsed.append(request)
        return request

    def _say(self, request: bytes, context: Any) -> bytes:
        self.callers.append(caller_from_context(context))
        return request


class _Any(grpc.GenericRpcHandler):
    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handler


async def _call(channel: grpc.aio.Channel, method: str, request: bytes = b"\xff\xff") -> bytes:
    # Each kind of call is the same on the wire; a stream of answers serves for all.
    call = channel.unary_stream(method)(request, timeout=10)
    answers = [answer async for answer in call]
    return answers[0] if answers else b""


@pytest.fixture(params=[True, False], ids=["issuer", "no issuer"])
async def victim(request: pytest.FixtureRequest, both: Any, home: Any) -> Any:
    service = Service()
    node = await both(
        "ca-1",
        cert_dir=home.directory,
        issuer=request.param,
        services=[ServiceInfo("echo", "v1")],
        registrars=[service],
    )
    return node, service


@pytest.mark.parametrize("what", METHODS)
async def test_it_may_not_call(what: str, victim: Any, token_for: Any) -> None:
    node, service = victim
    channel = open_channel(token_for("orders-1").tls(), "ca-1", node.address)
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await _call(channel, METHODS[what])
    refused = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
    assert error.value.code() in refused
    assert (service.parsed, service.callers) == ([], [])


async def test_the_same_holds_with_the_public_api_of_grpc_only(
    home: Any, token_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unusable = "aegis_core._server.sync.grpc_internals.is_usable"
    monkeypatch.setattr(unusable, lambda: False)
    service = Service()
    node = Node(
        "ca-1",
        address="127.0.0.1:0",
        cert_dir=home.directory,
        issuer=True,
        services=[ServiceInfo("echo", "v1")],
        registrars=[service],
    )
    await asyncio.to_thread(node.start)
    try:
        token = token_for("orders-1")
        async with open_channel(token.tls(), "ca-1", node.address) as channel:
            for what, method in METHODS.items():
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await _call(channel, method)
                code = error.value.code()
                refused = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
                assert code in refused, what
        assert (service.parsed, service.callers) == ([], [])
        tls = await asyncio.to_thread(enroll, token, None, key_type=KeyType.P256)
        assert tls.node_id == "orders-1"
    finally:
        await asyncio.to_thread(node.stop, 0)


@pytest.mark.parametrize(
    "path",
    [
        "//aegis.mesh.v1.Issuer/Enroll",
        "/aegis.mesh.v1.Issuer/Enroll/",
        "/aegis.mesh.v1.Issuer//Enroll",
        "/aegis.mesh.v1.Issuer/enroll",
        "/aegis.mesh.v1.Issuer/Enroll?/test.Echo/Say",
        "/test.Echo/Say/../../aegis.mesh.v1.Issuer/Enroll",
        "aegis.mesh.v1.Issuer/Enroll",
        "*",
    ],
)
async def test_no_other_spelling_of_a_path_lets_it_in(
    path: str, victim: Any, token_for: Any
) -> None:
    """Over raw HTTP/2: a client of gRPC would not send all of these."""
    node, service = victim

    def attack() -> str:
        context = frames.client_context(token_for("orders-1").tls())
        connection = frames.Connection(node.address, "ca-1", context, timeout=10)
        try:
            stream = connection.next_stream()
            head = frames.request_headers(path, "ca-1")
            data = frames.message(b"\xff\xff")
            connection.send(
                frames.frame(frames.HEADERS, stream, head, frames.END_HEADERS)
                + frames.frame(frames.DATA, stream, data, frames.END_STREAM)
            )
            while True:
                for got in connection.receive():
                    if got.ends_stream:
                        found = re.search(rb"grpc-status.(\d+)", got.payload)
                        return found[1].decode() if found else "reset"
        except OSError:
            return "closed"
        finally:
            connection.close()

    assert await asyncio.to_thread(attack) != "0"
    assert (service.parsed, service.callers) == ([], [])


async def test_it_may_enrol_at_an_issuer_only(both: Any, home: Any, token_for: Any) -> None:
    node = await both("ca-1", cert_dir=home.directory)
    async with open_channel(token_for("orders-1").tls(), "ca-1", node.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await _call(channel, "/aegis.mesh.v1.Issuer/Enroll")
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_users_catch_all_handler_never_serves_an_enrolment(
    both: Any, home: Any, token_for: Any
) -> None:
    def pretend(server: Any) -> None:
        handler = grpc.unary_unary_rpc_method_handler(lambda request, _: b"mine")
        name = "aegis.mesh.v1.Issuer"
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"Enroll": handler}),)
        )

    node = await both("ca-1", cert_dir=home.directory, registrars=[pretend])
    async with open_channel(token_for("orders-1").tls(), "ca-1", node.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await _call(channel, "/aegis.mesh.v1.Issuer/Enroll")
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_every_refusal_of_an_issuer_looks_the_same(
    both: Any, home: Any, token_for: Any, identity: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node = await both("ca-1", cert_dir=home.directory, issuer=True)
    member = home.issue_in_memory("orders-1", key_type=KeyType.P256)
    token = token_for("billing-1")
    cancelled = token_for("edge")
    home.cancel_token("edge")
    garbage = issuer_pb2.EnrollRequest(csr=b"no request").SerializeToString()
    large = issuer_pb2.EnrollRequest(csr=bytes(100_000)).SerializeToString()
    enroll, renew = "/aegis.mesh.v1.Issuer/Enroll", "/aegis.mesh.v1.Issuer/Renew"
    seen = set()
    for tls, method, request in (
        (member, enroll, garbage),
        (member, renew, garbage),
        (member, renew, large),
        (token.tls(), enroll, garbage),
        (token.tls(), enroll, large),
        (token.tls(), renew, garbage),
        (cancelled.tls(), enroll, garbage),
    ):
        async with open_channel(tls, "ca-1", node.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await _call(channel, method, request)
        seen.add((error.value.code(), error.value.details()))
    assert len(seen) == 1
    assert seen.pop()[0] is grpc.StatusCode.PERMISSION_DENIED
    reasons = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert any("orders-1" in line and "100000 bytes" in line for line in reasons)


async def test_it_has_no_caller_for_the_users_code() -> None:
    class Context:
        def auth_context(self) -> Any:
            return {"x509_pem_cert": [self.pem]}

        def peer(self) -> str:
            return "ipv4:192.0.2.1:1"

    context = Context()
    context.pem = b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
    with pytest.raises(CallerError):
        caller_from_context(context)


async def test_it_never_becomes_a_node_or_client(both: Any, home: Any, token_for: Any) -> None:
    node = await both("ca-1", cert_dir=home.directory, issuer=True)
    from aegis_core import aio
    from aegis_discovery import ConnectError
    from aegis_discovery.aio import connect

    tls = token_for("orders-1").tls()
    with pytest.raises(Exception, match=r"names no node|no identity|SPIFFE"):
        await aio.Node("orders-1", address="127.0.0.1:0", tls=tls).start()
    with pytest.raises((ConnectError, Exception)) as error:
        await connect(node.address, tls=tls, timeout=1)
    assert not isinstance(error.value, asyncio.TimeoutError)
    assert list(node.topology.nodes) == ["ca-1"]
