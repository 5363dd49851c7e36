"""Strangers, holders of tokens and members flood a running issuer with `Enroll`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType, Token
from aegis_core import aio
from aegis_core._rate_limit import CERTIFICATES
from aegis_discovery.aio import enroll
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import issuer_pb2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ..enrolment.conftest import home, token_for
from .test_one_caller import WAIT, Until, both, frames, statuses

__all__ = ["home", "token_for"]  # fixtures

ENROLL = "/aegis.mesh.v1.Issuer/Enroll"
PING = "/aegis.MeshService/Ping"
P256 = KeyType.P256
REFUSED = grpc.StatusCode.PERMISSION_DENIED.value[0]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


class Issuer:
    """A running issuer, and those who do what is right meanwhile."""

    def __init__(self, node: Any, home: CertificateAuthority, directory: Path) -> None:
        self.node = node
        self._home = home
        self._directory = directory
        self._member = home.issue("member", key_type=P256)
        self.enrolled = 0

    async def serve_honestly(self) -> None:
        """Enrols a machine, and answers a call of a member."""
        self.enrolled += 1
        token = self._home.create_token(f"new-{self.enrolled}", ttl=timedelta(minutes=5))
        tls = await enroll(token, self._directory / token.node_id, key_type=P256, timeout=WAIT)
        assert tls.node_id == token.node_id
        async with open_channel(self._member, "ca-1", self.node.address) as channel:
            assert await channel.unary_unary(PING)(b"", timeout=WAIT) is not None


@pytest.fixture
async def issuer(home: CertificateAuthority, server: str, tmp_path: Path) -> Any:
    options: dict[str, Any] = {"cert_dir": home.directory, "issuer": True, "grace": 0}
    async with aio.Node("ca-1", address="127.0.0.1:0", **options) as node:
        yield Issuer(node, home, tmp_path)


@pytest.fixture
def connect(issuer: Issuer) -> Iterator[Callable[[ssl.SSLContext], Any]]:
    with ExitStack() as stack:

        def connect(context: ssl.SSLContext) -> Any:
            made = frames.Connection(issuer.node.address, "ca-1", context, timeout=WAIT)
            return stack.enter_context(made)

        yield connect


Connect = Callable[[ssl.SSLContext], Any]


def request(size: int = 0) -> bytes:
    """Returns an `Enroll` with a request for a certificate, of so many bytes at least."""
    name = x509.DNSName(f"{'a' * 60}.example")
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if size:
        names = x509.SubjectAlternativeName([name] * (size // 70 + 1))
        csr = csr.add_extension(names, critical=False)
    signed = csr.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return issuer_pb2.EnrollRequest(csr=signed.public_bytes(Encoding.DER)).SerializeToString()


def garbage(size: int) -> bytes:
    return issuer_pb2.EnrollRequest(csr=b"\x30" * size).SerializeToString()


def call_until_closed(connection: Any, requests: list[bytes]) -> list[int]:
    """Calls `Enroll` until the node closes the connection; returns the statuses."""
    found: list[int] = []
    with suppress(OSError):
        for number in range(2_000):
            connection.call(ENROLL, requests[number % len(requests)])
            found += statuses(connection, 1)
        pytest.fail("the issuer lets the caller ask 2 000 times")
    return found


@both
@pytest.mark.parametrize("foreign", [False, True])
async def test_strangers_who_ask_an_issuer_leave_nothing_behind(
    issuer: Issuer,
    connect: Connect,
    logged: Callable[..., list[str]],
    until: Until,
    tmp_path: Path,
    foreign: bool,
) -> None:
    """Without a certificate, or with that of a token of another CA."""
    context = frames.client_context(None, issuer.node.tls.trust_bundle)
    if foreign:
        other = CertificateAuthority.create(tmp_path / "other", key_type=P256)
        tls = other.create_token("new-1", ttl=timedelta(minutes=5)).tls()
        identity = tmp_path / "identity.pem"
        identity.write_bytes(tls.private_key + tls.certificate_chain)
        context.load_cert_chain(identity)
    body = request()

    def ask() -> None:
        for _ in range(60):
            with suppress(OSError):  # TLS 1.3 tells a client late
                connection = connect(context)
                for _ in range(10):
                    connection.call(ENROLL, body)
                while True:
                    for got in connection.receive():
                        assert not got.ends_stream, "the issuer answers a stranger"

    asking = asyncio.create_task(asyncio.to_thread(ask))
    await issuer.serve_honestly()
    await asking
    await issuer.serve_honestly()
    assert issuer.node.stats().calls.refused == 0, "no call arrived"
    await until(lambda: len(issuer.node.server._checks.callers) == 0)
    assert logged("refused") == logged("Traceback") == []


@both
async def test_who_asks_again_and_again_with_a_used_token_is_refused_and_disconnected(
    issuer: Issuer,
    connect: Connect,
    token_for: Callable[..., Token],
    logged: Callable[..., list[str]],
    until: Until,
    tmp_path: Path,
) -> None:
    token = token_for("used")
    await enroll(token, tmp_path / "used", key_type=P256)
    context = frames.client_context(token.tls())
    bodies = [request(), request(12_000), garbage(100), garbage(15_000), b"\xff"]
    connections = [connect(context) for _ in range(3)]

    def ask() -> list[int]:
        return [code for one in connections for code in call_until_closed(one, bodies)]

    asking = asyncio.create_task(asyncio.to_thread(ask))
    await issuer.serve_honestly()
    codes = await asking
    assert codes.count(REFUSED) <= CERTIFICATES.burst + WAIT * CERTIFICATES.per_second
    assert 0 not in codes
    await until(lambda: issuer.node.stats().calls.closed_connections >= len(connections))
    assert "enroll/used" in issuer.node.server._checks.callers.blocked
    await issuer.serve_honestly()
    assert len(logged("enroll/used", "certificate")) <= 6, "one for each reason"
    assert logged("Traceback") == []


@both
async def test_requests_for_certificates_that_do_not_arrive_keep_nobody_waiting(
    issuer: Issuer, connect: Connect, token_for: Callable[..., Token], until: Until
) -> None:
    context = frames.client_context(token_for("stolen").tls())
    connections = [connect(context) for _ in range(4)]
    part = frames.message(request())[:-1]
    for connection in connections:
        for _ in range(50):
            stream = connection.open(ENROLL)
            connection.send(frames.frame(frames.DATA, stream, part))
    await issuer.serve_honestly()
    for connection in connections:
        connection.close()
    callers = issuer.node.server._checks.callers
    await until(lambda: len(callers) == len(callers.blocked) + len(callers._cancelled))
    assert len(issuer.node.server._checks.reads) == 0


@both
async def test_a_member_that_calls_enroll_without_end_is_named_and_disconnected(
    issuer: Issuer,
    home: CertificateAuthority,
    connect: Connect,
    logged: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_AT_ONCE", 100.0)
    monkeypatch.setattr("aegis_core._server.caller_limits.CANCELLED_PER_SECOND", 50.0)
    connection = connect(frames.client_context(home.issue("mallory", key_type=P256)))
    asking = asyncio.create_task(asyncio.to_thread(call_until_closed, connection, [request()]))
    await issuer.serve_honestly()
    assert set(await asking) == {REFUSED}
    await issuer.serve_honestly()
    assert len(logged("by mallory was refused", "not that of a token")) == 1
    assert len(logged("mallory cancels more than")) == 1
