"""Renewal over the mesh, where the CA's key is elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateSource, IssuerAddress, KeyType, TLSOptions
from aegis_core import Policy
from aegis_discovery import EnrolmentError, enroll
from aegis_discovery.aio import connect, renew
from aegis_discovery.aio import enroll as enroll_async
from aegis_discovery.enrolment import ask_issuers
from aegis_discovery.proto import issuer_pb2, issuer_pb2_grpc

P256 = KeyType.P256


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every certificate is due as soon as it is issued, and identities are polled often."""
    monkeypatch.setattr("aegis_certs._identity.renewal_schedule._DUE", 0.0)
    monkeypatch.setattr("aegis_discovery.identity._run.POLL_INTERVAL", 0.05)


def _serials(home: Any, action: str, node_id: str) -> list[str]:
    lines = (home.directory / "audit.jsonl").read_text().splitlines()
    return [line for line in lines if f'"{action}"' in line and f'"{node_id}"' in line]


async def _member(home: Any, nodes: Any, there: Path, node_id: str, **options: Any) -> Any:
    await asyncio.to_thread(enroll, home.create_token(node_id), there, key_type=P256)
    return await nodes(node_id, cert_dir=there, **options)


async def test_a_node_renews_at_an_issuer_of_the_mesh(
    both: Any, home: Any, tmp_path: Path, until: Any, soon: None
) -> None:
    first = await both("ca-1", cert_dir=home.directory, issuer=True)
    there = tmp_path / "there"
    node = await _member(home, both, there, "orders-1", seed_peers=[first.address])
    old = node.tls.certificate
    await until(lambda: node.tls.certificate != old)
    assert len(_serials(home, "renew", "orders-1")) >= 1
    assert node.tls.certificate.public_key() != old.public_key()
    # What is in the directory is renewed too, and other nodes see the new certificate.
    await until(lambda: (there / "orders-1-cert.pem").read_bytes() != old)
    await until(lambda: first.get_certificate("orders-1") != old)


async def test_no_policy_keeps_a_member_from_renewing(
    both: Any, home: Any, tmp_path: Path, until: Any, soon: None
) -> None:
    nothing = Policy()
    first = await both("ca-1", cert_dir=home.directory, issuer=True, policy=nothing)
    node = await _member(home, both, tmp_path / "there", "orders-1", seed_peers=[first.address])
    old = node.tls.certificate
    await until(lambda: node.tls.certificate != old)


async def test_a_node_whose_identity_is_in_memory_renews_it_there(
    both: Any, home: Any, tmp_path: Path, until: Any, soon: None
) -> None:
    first = await both("ca-1", cert_dir=home.directory, issuer=True)
    there = tmp_path / "there"
    await asyncio.to_thread(enroll, home.create_token("orders-1"), there, key_type=P256)
    files = TLSOptions(
        source=CertificateSource.FILE,
        cert_file=there / "orders-1-cert.pem",
        key_file=there / "orders-1-key.pem",
        ca_file=there / "ca-cert.pem",
    )
    before = {path: path.read_bytes() for path in there.glob("*.pem")}
    node = await both("orders-1", tls_options=files, seed_peers=[first.address])
    old = node.tls.certificate
    await until(lambda: node.tls.certificate != old)
    assert {path: path.read_bytes() for path in there.glob("*.pem")} == before


async def test_a_client_renews_and_its_calls_go_on(
    nodes: Any, home: Any, tmp_path: Path, until: Any, soon: None
) -> None:
    first = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    token = home.create_token("web-1", client_only=True)
    there = tmp_path / "web"
    async with connect(first.address, node_id="web-1", cert_dir=there, token=token) as mesh:
        old = (there / "web-1-cert.pem").read_bytes()
        await until(lambda: (there / "web-1-cert.pem").read_bytes() != old)
        assert set(mesh.topology.nodes) == {"ca-1"}


async def test_only_issuers_that_the_ca_lists_are_asked(
    nodes: Any, home: Any, tmp_path: Path, until: Any, soon: None
) -> None:
    """A member that serves the methods of an issuer gets no request, whatever its record says."""
    asked = []

    class Pretender(issuer_pb2_grpc.IssuerServicer):
        async def Renew(self, request: Any, context: Any) -> Any:  # noqa: N802
            asked.append(context)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")

    first = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    mallory = await _member(
        home,
        nodes,
        tmp_path / "mallory",
        "mallory",
        seed_peers=[first.address],
        registrars=[
            lambda server: issuer_pb2_grpc.add_IssuerServicer_to_server(Pretender(), server)
        ],
    )
    node = await _member(home, nodes, tmp_path / "there", "orders-1", seed_peers=[mallory.address])
    old = node.tls.certificate
    await until(lambda: node.tls.certificate != old)
    assert asked == []


@asynccontextmanager
async def _issuer(tls: Any, answer: Any) -> AsyncIterator[IssuerAddress]:
    """A node that answers requests for certificates as it likes."""

    class Servicer(issuer_pb2_grpc.IssuerServicer):
        async def Renew(self, request: Any, context: Any) -> Any:  # noqa: N802
            return await answer(request)

    server = grpc.aio.server()
    issuer_pb2_grpc.add_IssuerServicer_to_server(Servicer(), server)
    credentials = grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate_chain)],
        tls.trust_bundle,
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield IssuerAddress(tls.node_id, f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


async def _ask(home: Any, issuers: list[IssuerAddress], request: Any, tls: Any, **more: Any) -> Any:
    return await asyncio.to_thread(
        ask_issuers,
        issuers,
        tls,
        "Renew",
        request.csr,
        lambda answer: request.verify(tuple(answer.chain)),
        **{"timeout": 20, **more},
    )


@pytest.fixture
async def lying(home: Any) -> Any:
    """An identity to renew, its request, and what a lying issuer could answer with."""
    from aegis_certs import IdentitySource

    tls = home.issue_in_memory("orders-1", key_type=P256)
    source = IdentitySource.fixed(tls)
    source.load()
    return tls, source


LIES = (
    "nothing",
    "the old certificate",
    "another node's",
    "another key's",
    "another CA's",
    "garbage",
    "a client-only one",
    "an expired one",
)


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_is_refused_and_another_issuer_is_asked(
    lie: str, nodes: Any, home: Any, lying: Any, tmp_path: Path
) -> None:
    from aegis_certs import CertificateAuthority

    tls, source = lying
    honest = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    liar = home.issue_in_memory("ca-2", key_type=P256)
    other = CertificateAuthority.create(tmp_path / "other", key_type=P256)

    def chain_for(csr: bytes) -> list[bytes]:
        from cryptography.hazmat.primitives.serialization import Encoding

        def of(made: Any) -> list[bytes]:
            return [one.public_bytes(Encoding.DER) for one in made.chain]

        past = datetime.now(UTC) - timedelta(hours=20)
        match lie:
            case "nothing":
                return []
            case "the old certificate":
                return of(tls)
            case "another node's":
                return of(home.issue_in_memory("edge", key_type=P256))
            case "another key's":
                return of(home.issue_in_memory("orders-1", key_type=P256))
            case "another CA's":
                return of(other.issue_in_memory("orders-1", key_type=P256))
            case "garbage":
                return [b"\x30\x82" * 100]
            case "a client-only one":
                return of(home.issue_in_memory("orders-1", key_type=P256, client_only=True))
            case _:
                return of(home.issue_in_memory("orders-1", key_type=P256, at=past, days=0.1))

    async def answer(request: Any) -> Any:
        return issuer_pb2.IssuedIdentity(chain=chain_for(request.csr))

    async with _issuer(liar, answer) as false:
        true = IssuerAddress("ca-1", honest.address)
        with source.requesting(tls) as request:
            with pytest.raises(EnrolmentError, match="its answer is not usable"):
                await _ask(home, [false], request, tls, rounds=1)
            pair = await _ask(home, [false, true], request, tls)
    assert pair.chain[0] != tls.certificate
    assert len(_serials(home, "renew", "orders-1")) == 1


async def test_a_frozen_issuer_does_not_keep_from_asking_another(
    nodes: Any, home: Any, lying: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery.enrolment._search.FIRST_TIMEOUT", 0.3)
    tls, source = lying
    honest = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    frozen = home.issue_in_memory("ca-2", key_type=P256)
    asked = asyncio.Event()

    async def answer(request: Any) -> Any:
        asked.set()
        await asyncio.sleep(60)

    async with _issuer(frozen, answer) as silent:
        true = IssuerAddress("ca-1", honest.address)
        with source.requesting(tls) as request:
            for _ in range(20):  # in random order
                await _ask(home, [silent, true], request, tls)
                if asked.is_set():
                    break
    assert asked.is_set()
    assert len(_serials(home, "renew", "orders-1")) == 1


async def test_a_leaf_is_renewed_by_one_key_only(
    both: Any, home: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from aegis_certs import IdentitySource

    first = await both("ca-1", cert_dir=home.directory, issuer=True)
    tls = home.issue_in_memory("orders-1", key_type=P256)
    issuers = [IssuerAddress("ca-1", first.address)]
    owner, thief = IdentitySource.fixed(tls), IdentitySource.fixed(tls)
    with owner.requesting(tls) as request:
        one = await _ask(home, issuers, request, tls)
    with owner.requesting(tls) as request:
        again = await _ask(home, issuers, request, tls)
    assert one.chain == again.chain
    with thief.requesting(tls) as request, pytest.raises(EnrolmentError) as error:
        await _ask(home, issuers, request, tls)
    assert error.value.is_refused
    assert any("thief" in record.message for record in caplog.records)


async def test_a_revoked_or_expired_leaf_is_not_renewed(both: Any, home: Any, until: Any) -> None:
    from aegis_certs import IdentitySource

    first = await both("ca-1", cert_dir=home.directory, issuer=True)
    tls = home.issue_in_memory("orders-1", key_type=P256)
    home.revoke(f"{tls.certificate.serial_number:x}")
    issuers = [IssuerAddress("ca-1", first.address)]
    with IdentitySource.fixed(tls).requesting(tls) as request, pytest.raises(EnrolmentError):
        await _ask(home, issuers, request, tls, timeout=5)
    past = datetime.now(UTC) - timedelta(hours=20)
    old = home.issue_in_memory("edge", key_type=P256, at=past, days=0.1)
    source = IdentitySource.fixed(old)
    with source.requesting(old) as request, pytest.raises(EnrolmentError):
        await _ask(home, issuers, request, old, timeout=1)
    assert _serials(home, "renew", "orders-1") == _serials(home, "renew", "edge") == []


async def test_an_expired_identity_says_that_only_a_token_helps(
    nodes: Any, home: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from aegis_certs import IdentitySource
    from aegis_discovery.identity import IdentityRotator

    class Possible:
        is_possible, is_running = True, False

        def obstacle(self, tls: Any) -> str:
            return ""

        def begin(self, tls: Any) -> None:
            raise AssertionError("an issuer was asked for an expired certificate")

    past = datetime.now(UTC) - timedelta(hours=20)
    old = home.issue_in_memory("edge", key_type=P256, at=past, days=0.1)
    source = IdentitySource.fixed(old)
    source.load()
    rotator = IdentityRotator(source, old, remote=Possible())
    for _ in range(3):
        rotator.poll()
    lines = [r.message for r in caplog.records if "new token" in r.message]
    assert len(lines) == 1
    assert "aegis certs token edge" in lines[0]


async def test_renewal_does_not_need_the_issuer_at_the_start_of_a_node(
    nodes: Any, home: Any, tmp_path: Path, until: Any, soon: None
) -> None:
    first = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    there = tmp_path / "there"
    node = await _member(home, nodes, there, "orders-1", seed_peers=[first.address])
    await until(lambda: _serials(home, "renew", "orders-1"))
    await nodes.stop(node)
    address = first.address
    await nodes.stop(first)
    node = await nodes("orders-1", cert_dir=there, seed_peers=[address], join_timeout=0.1)
    old, count = node.tls.certificate, len(_serials(home, "renew", "orders-1"))
    # The issuer is back, at the same address.
    await nodes("ca-1", cert_dir=home.directory, issuer=True, address=address)
    await until(lambda: len(_serials(home, "renew", "orders-1")) > count)
    await until(lambda: node.tls.certificate != old)


async def test_workers_of_one_identity_renew_it_once(
    nodes: Any, home: Any, tmp_path: Path, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery.identity._run.POLL_INTERVAL", 0.05)
    first = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    there = tmp_path / "there"
    await asyncio.to_thread(enroll, home.create_token("orders-1"), there, key_type=P256)
    workers = [
        await nodes(f"orders-1#{n}", cert_dir=there, seed_peers=[first.address]) for n in range(3)
    ]
    await until(lambda: all(worker._parts.state.documents.issuers for worker in workers))
    old = workers[0].tls.certificate
    for worker in workers:
        worker._parts._rotator._renew_at = 0.0
    await until(lambda: len({w.tls.certificate for w in workers} | {old}) == 2)
    await until(lambda: all(w.tls.certificate != old for w in workers))
    assert len(_serials(home, "renew", "orders-1")) == 1


async def test_workers_without_a_directory_do_not_ask_each_with_a_key_of_its_own(
    home: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from aegis_certs import IdentitySource
    from aegis_discovery.enrolment import MeshRenewal

    tls = home.issue_in_memory("orders-1", key_type=P256)
    issuers = [IssuerAddress("ca-1", "192.0.2.1:1")]
    renewal = MeshRenewal(IdentitySource.fixed(tls), lambda: issuers, is_shared=True)
    assert "workers need a directory" in renewal.obstacle(tls)
    with pytest.raises(EnrolmentError, match="workers need a directory"):
        await asyncio.to_thread(renewal.renew, tls)


async def test_an_identity_is_renewed_by_hand_through_any_node(
    nodes: Any, home: Any, tmp_path: Path, until: Any
) -> None:
    first = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    there = tmp_path / "there"
    node = await _member(home, nodes, there, "orders-1", seed_peers=[first.address])
    await until(lambda: node._parts.state.documents.issuers)
    old = await enroll_async(home.create_token("edge"), there, key_type=P256)
    tls = await renew(node.address, node_id="edge", cert_dir=there)
    assert tls.certificate != old.certificate
    assert tls.node_id == "edge"
