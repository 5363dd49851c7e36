"""The files of a running node change: it loads good ones and refuses bad ones."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aegis_discovery as discovery
import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType, TLSConfig, TLSOptions
from aegis_core import ServiceInfo
from aegis_core.aio import Node
from aegis_discovery import aio as discovery_aio
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.identity import IdentityEvent
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from .conftest import ticks, who

pytestmark = pytest.mark.usefixtures("poll_often")
Until = Callable[[Callable[[], object]], Awaitable[None]]
REFUSED = grpc.StatusCode.UNAUTHENTICATED
DAY = timedelta(days=1)
P256 = KeyType.P256


def register(server: grpc.aio.Server) -> None:
    handlers = {
        "Who": grpc.unary_unary_rpc_method_handler(who),
        "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))


def register_name(node_id: str, server: grpc.aio.Server) -> None:
    async def name(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return node_id.encode()

    handlers = {"Name": grpc.unary_unary_rpc_method_handler(name)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))


def past() -> datetime:
    return datetime.now(UTC) - 30 * DAY


@pytest.fixture
def own_ca(tmp_path: Path) -> CertificateAuthority:
    # Old enough to have issued certificates that have expired or are due for renewal.
    return CertificateAuthority.create(tmp_path / "certs", key_type=P256, at=past())


def copy_to(ca: CertificateAuthority, directory: Path, *node_ids: str) -> Path:
    """Copies what an operator copies to another machine: all files but the key of the CA."""
    directory.mkdir(mode=0o700, exist_ok=True)
    names = [f"{node_id}-{part}.pem" for node_id in node_ids for part in ("key", "cert")]
    for name in ("ca-cert.pem", *names):
        shutil.copy(ca.directory / name, directory)
    return directory


StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start() -> AsyncIterator[StartNode]:
    async with AsyncExitStack() as stack:

        async def start_node(node_id: str, directory: Path, *seeds: Node, **options: Any) -> Node:
            options.setdefault("cert_dir", directory)
            node = Node(
                node_id,
                address="127.0.0.1:0",
                grace=0,
                services=[ServiceInfo("who", "v1")] if node_id.startswith("provider") else (),
                registrars=[register, partial(register_name, node_id)],
                seed_peers=[seed.address for seed in seeds],
                **options,
            )
            await stack.enter_async_context(node)
            return node

        yield start_node


def identity_events(node: Node) -> list[IdentityEvent]:
    events: list[IdentityEvent] = []
    node.subscribe_identity(events.append)
    return events


def kinds(events: list[IdentityEvent]) -> list[str]:
    return [str(event.kind) for event in events]


async def served(node: Node, asking: TLSConfig, directory: Path) -> x509.Certificate:
    """Returns the certificate that the node serves a new connection with."""
    pem = directory / "asking.pem"
    pem.write_bytes(asking.certificate_chain + asking.private_key)
    context = ssl.create_default_context(cadata=asking.trust_bundle.decode())
    context.load_cert_chain(pem)

    def peer_certificate() -> bytes:
        host, port = node.address.rsplit(":", 1)
        with (
            socket.create_connection((host, int(port)), 5) as raw,
            context.wrap_socket(raw, server_hostname=node.id) as secure,
        ):
            return secure.getpeercert(binary_form=True) or b""

    return x509.load_der_x509_certificate(await asyncio.to_thread(peer_certificate))


def encrypted(key: bytes) -> bytes:
    return load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


def bad_files(ca: CertificateAuthority, tmp_path: Path, kind: str) -> dict[str, bytes | None]:
    """Returns bad replacements of the files of node `a`; None removes a file."""
    fresh = ca.issue_in_memory("a")
    other_ca = CertificateAuthority.create(tmp_path / "other", key_type=P256, trust_domain="b.org")
    b, ended = ca.issue_in_memory("b"), ca.issue_in_memory("a", days=1, at=past())
    stranger, client = other_ca.issue_in_memory("a"), ca.issue_in_memory("a", client_only=True)

    def both(tls: TLSConfig) -> dict[str, bytes | None]:
        return {"a-key.pem": tls.private_key, "a-cert.pem": tls.certificate_chain}

    found: dict[str, dict[str, bytes | None]] = {
        "torn certificate": {"a-cert.pem": fresh.certificate_chain[:300]},
        "torn key": {"a-key.pem": fresh.private_key[:100]},
        "empty certificate": {"a-cert.pem": b""},
        "empty key": {"a-key.pem": b""},
        "binary": {"a-cert.pem": bytes(range(256)) * 9},
        "broken certificate": {
            "a-cert.pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        },
        "another key": {"a-key.pem": fresh.private_key},
        "another certificate": {"a-cert.pem": fresh.certificate_chain},
        "encrypted key": both(fresh) | {"a-key.pem": encrypted(fresh.private_key)},
        "gone": {"a-cert.pem": None, "a-key.pem": None},
        "expired": both(ended),
        "another node's": both(b),
        "another CA's": both(stranger),
        "another CA's, all of it": both(stranger) | {"ca-cert.pem": stranger.trust_bundle},
        "another bundle": {"ca-cert.pem": stranger.trust_bundle},
        "torn bundle": {"ca-cert.pem": fresh.trust_bundle[:200]},
        "no bundle": {"ca-cert.pem": None},
        "a client's": both(client),
    }
    return found[kind]


BAD = [
    "torn certificate", "torn key", "empty certificate", "empty key", "binary",
    "broken certificate", "another key", "another certificate", "encrypted key", "gone", "expired",
    "another node's", "another CA's", "another CA's, all of it", "another bundle", "torn bundle",
    "no bundle", "a client's",
]  # fmt: skip


@pytest.mark.parametrize("source", ["directory", "options"])
@pytest.mark.parametrize("kind", BAD)
async def test_bad_new_files_are_refused_with_a_log_line_and_an_event(
    start: StartNode,
    own_ca: CertificateAuthority,
    tmp_path: Path,
    until: Until,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    source: str,
) -> None:
    own_ca.issue("a", key_type=P256)
    away = copy_to(own_ca, tmp_path / "away", "a")
    files = [away / name for name in ("a-cert.pem", "a-key.pem", "ca-cert.pem")]
    given = TLSOptions(cert_file=files[0], key_file=files[1], ca_file=files[2])
    node = await start("a", away, **({"tls_options": given} if source == "options" else {}))
    asking = own_ca.issue_in_memory("asking")
    channel = open_channel(asking, "a", node.address)
    stream = channel.unary_stream("/t/Ticks")(b"")
    assert await stream.read() == b"tick"
    events, before = identity_events(node), node.tls
    with caplog.at_level(logging.ERROR, "aegis"):
        for name, data in bad_files(own_ca, tmp_path, kind).items():
            (away / name).unlink() if data is None else (away / name).write_bytes(data)
        await until(lambda: "refused" in kinds(events))
    assert {*kinds(events)} == {"refused"}
    assert all(event.reason and event.tls is before for event in events)
    assert "a keeps its identity" in caplog.text
    assert "PRIVATE" not in caplog.text
    assert "Traceback" not in caplog.text, "such files are expected"
    assert node.tls is before
    assert await served(node, asking, tmp_path) == before.certificate
    assert await stream.read() == b"tick"
    new = own_ca.issue("a", key_type=P256)
    copy_to(own_ca, away, "a")
    await until(lambda: node.tls == new)
    assert events[-1].kind == "changed"
    assert await served(node, asking, tmp_path) == new.certificate
    assert await stream.read() == b"tick"
    stream.cancel()
    await channel.close()


async def test_a_bad_crl_is_refused_and_the_last_good_one_stays_in_force(
    start: StartNode,
    own_ca: CertificateAuthority,
    tmp_path: Path,
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own_ca.issue("a", key_type=P256)
    away = copy_to(own_ca, tmp_path / "away", "a")
    crl, here = away / "crl.pem", own_ca.directory / "crl.pem"
    node = await start("a", away)
    events = identity_events(node)
    victims = [own_ca.issue(name, key_type=P256) for name in ("v-1", "v-2")]
    channels = [open_channel(tls, "a", node.address) for tls in victims]

    async def codes() -> list[grpc.StatusCode]:
        calls = [channel.unary_unary("/t/Who")(b"", timeout=5) for channel in channels]
        return [await call.code() for call in calls]

    fine = grpc.StatusCode.OK
    assert await codes() == [fine, fine]
    own_ca.write_revocations()
    older = here.read_bytes()
    own_ca.revoke("v-1")
    shutil.copy(here, crl)
    await until(lambda: kinds(events) == ["revocations"])
    assert await codes() == [REFUSED, fine]
    other = CertificateAuthority.create(tmp_path / "other", key_type=P256, name=own_ca.name)
    other.issue("v-2", key_type=P256)
    other.revoke("v-2")
    forged = (other.directory / "crl.pem").read_bytes()
    good = crl.read_bytes()
    bad = [b"", b"junk", bytes(range(256)), good[:200], older, forged, None]
    for number, data in enumerate(bad, 1):
        caplog.clear()
        with caplog.at_level(logging.ERROR, "aegis"):
            crl.unlink() if data is None else crl.write_bytes(data)
            await until(lambda: kinds(events).count("refused") == number)  # noqa: B023 - used at once
        assert "changed files were refused" in caplog.text
        assert await codes() == [REFUSED, fine], data
        crl.write_bytes(good)
        await until(lambda: events[-1].kind == "revocations")
    own_ca.revoke("v-2")
    seen = len(events)
    shutil.copy(here, crl)
    await until(lambda: kinds(events)[seen:] == ["revocations"])
    assert await codes() == [REFUSED, REFUSED]
    for channel in channels:
        await channel.close()


async def test_a_node_that_starts_with_a_bad_crl_logs_it_and_loads_the_repaired_one(
    start: StartNode,
    own_ca: CertificateAuthority,
    tmp_path: Path,
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own_ca.issue("a", key_type=P256)
    away = copy_to(own_ca, tmp_path / "away", "a")
    (away / "crl.pem").write_bytes(b"junk")
    with caplog.at_level(logging.ERROR, "aegis"):
        node = await start("a", away)
    assert "it has no CRL" in caplog.text
    channel = open_channel(own_ca.issue("victim", key_type=P256), "a", node.address)
    assert await channel.unary_unary("/t/Who")(b"", timeout=5)
    own_ca.revoke("victim")
    events = identity_events(node)
    shutil.copy(own_ca.directory / "crl.pem", away)
    await until(lambda: kinds(events) == ["revocations"])
    assert await channel.unary_unary("/t/Who")(b"", timeout=5).code() is REFUSED
    await channel.close()


async def test_a_blocking_client_does_not_call_a_revoked_provider(
    start: StartNode, own_ca: CertificateAuthority, tmp_path: Path
) -> None:
    nodes: list[Node] = []
    for node_id in ("seed", "provider-1", "provider-2"):
        own_ca.issue(node_id, key_type=P256)
        nodes.append(await start(node_id, own_ca.directory, *nodes[:1]))
    own_ca.issue("client", key_type=P256)
    away = copy_to(own_ca, tmp_path / "away", "client")

    def call_all(seed: str) -> set[bytes]:
        with discovery.connect(seed, node_id="client", cert_dir=away) as mesh:
            method = mesh.pool.channel("who", "v1").unary_unary("/t/Name")

            def providers() -> list[str]:
                return [node.id for node in mesh.topology.get_service_providers("who", "v1")]

            assert wait(lambda: providers() == ["provider-1", "provider-2"])
            assert {method(b"", timeout=5) for _ in range(4)} == {b"provider-1", b"provider-2"}
            own_ca.revoke("provider-1")
            shutil.copy(own_ca.directory / "crl.pem", away)
            assert wait(lambda: providers() == ["provider-2"])
            return {method(b"", timeout=5) for _ in range(4)}

    assert await asyncio.to_thread(call_all, nodes[0].address) == {b"provider-2"}


def wait(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 15
    pause = threading.Event()
    while not condition() and time.monotonic() < deadline:
        pause.wait(0.02)
    return condition()


async def test_a_caller_below_a_revoked_intermediate_is_refused(
    start: StartNode, tmp_path: Path, until: Until
) -> None:
    sub = CertificateAuthority.create(tmp_path / "sub", key_type=P256, intermediate=True)
    root = CertificateAuthority.load(tmp_path / "sub-root")
    below = sub.issue("below", key_type=P256)
    # Both CAs of one root are trusted, as during a rotation; the new CA issued the node.
    sub.prepare_rotation(key_type=P256, root_directory=tmp_path / "sub-root")
    sub.activate_rotation(confirm=True)
    sub.issue("a", key_type=P256)
    node = await start("a", copy_to(sub, tmp_path / "away", "a"))
    channel = open_channel(below, "a", node.address)
    method = channel.unary_unary("/t/Who")
    assert await method(b"", timeout=5)
    stream = channel.unary_stream("/t/Ticks")(b"")
    assert await stream.read() == b"tick"
    (tmp_path / "away" / "crl.pem").write_bytes(crl_of(root, below.chain[1]))

    async def read_on() -> None:
        while True:
            await stream.read()

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await asyncio.wait_for(read_on(), 15)
    assert ended.value.code() is REFUSED
    assert await method(b"", timeout=5).code() is REFUSED
    fine = open_channel(sub.issue_in_memory("fine"), "a", node.address)
    assert await fine.unary_unary("/t/Who")(b"", timeout=5)
    await fine.close()
    await channel.close()


def crl_of(ca: CertificateAuthority, revoked: x509.Certificate) -> bytes:
    """Returns a CRL that the owner of the CA signs by hand."""
    from cryptography.hazmat.primitives import hashes

    now = datetime.now(UTC)
    key = load_pem_private_key((ca.directory / "ca-key.pem").read_bytes(), None)
    entry = x509.RevokedCertificateBuilder().serial_number(revoked.serial_number)
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(now)
        .next_update(now + DAY)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_revoked_certificate(entry.revocation_date(now).build())
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]  # it is an EC key
        .public_bytes(Encoding.PEM)
    )


async def test_a_revocation_list_that_has_ended_still_revokes_and_is_warned_of(
    start: StartNode, own_ca: CertificateAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone, fine, _ = (own_ca.issue(node_id, key_type=P256) for node_id in ("gone", "fine", "a"))
    own_ca.revoke("gone", at=past())  # a list is good for 30 days
    directory = copy_to(own_ca, tmp_path / "away", "a")
    shutil.copy(own_ca.directory / "crl.pem", directory)
    node = await start("a", directory)
    for tls, code in ((gone, REFUSED), (fine, grpc.StatusCode.OK)):
        async with open_channel(tls, "a", node.address) as channel:
            assert await channel.unary_unary("/t/Who")(b"", timeout=5).code() is code
    warned = [record for record in caplog.records if "should have been replaced" in record.message]
    assert len(warned) == 1


async def test_nodes_without_the_key_of_the_ca_load_certificates_renewed_elsewhere(
    start: StartNode, own_ca: CertificateAuthority, tmp_path: Path, until: Until
) -> None:
    own_ca.issue("provider", key_type=P256)
    seed = await start("provider", copy_to(own_ca, tmp_path / "one", "provider"))
    # This node is overdue from its start; its renewal fails with an event.
    own_ca.issue("caller", key_type=P256, days=40, at=past())
    two = copy_to(own_ca, tmp_path / "two", "caller")
    caller = await start("caller", two, seed)
    events, before = identity_events(caller), caller.tls
    method = caller.pool.channel("who", "v1").unary_unary("/t/Who")
    assert int(await method(b"", timeout=5)) == before.certificate.serial_number
    await until(lambda: "renewal_failed" in kinds(events))
    assert not (two / "ca-key.pem").exists()
    new = own_ca.renew("caller")
    (two / "caller-cert.pem").write_bytes(new.certificate_chain)
    (two / "caller-key.pem").write_bytes(new.private_key)
    await until(lambda: caller.tls == new)
    assert new.private_key != before.private_key
    assert int(await method(b"", timeout=5)) == new.certificate.serial_number
    await until(lambda: seed.get_certificate("caller") == new.certificate)


async def test_an_expired_node_is_left_out_until_its_certificate_is_renewed(
    start: StartNode, own_ca: CertificateAuthority, tmp_path: Path, until: Until
) -> None:
    own_ca.issue("seed", key_type=P256)
    seed = await start("seed", copy_to(own_ca, tmp_path / "one", "seed"))
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
    own_ca.issue("provider", key_type=P256, days=20, at=ends - 20 * DAY)
    two = copy_to(own_ca, tmp_path / "two", "provider")
    provider = await start("provider", two, seed)
    own_ca.issue("caller", key_type=P256)
    client = copy_to(own_ca, tmp_path / "three", "caller")
    async with await discovery_aio.connect(seed.address, node_id="caller", cert_dir=client) as mesh:

        def providers() -> list[str]:
            return [node.id for node in mesh.topology.get_service_providers("who", "v1")]

        await until(lambda: providers() == ["provider"])
        await until(lambda: providers() == [])
        assert datetime.now(UTC) >= ends - timedelta(seconds=1)
        await until(lambda: "provider" not in seed.topology.nodes)
        new = own_ca.issue("provider", key_type=P256)
        copy_to(own_ca, two, "provider")
        await until(lambda: provider.tls == new)
        await until(lambda: providers() == ["provider"])
        method = mesh.pool.channel("who", "v1").unary_unary("/t/Who")
        assert await method(b"", timeout=5)


@pytest.mark.parametrize("with_passphrase", [True, False], ids=["at hand", "elsewhere"])
async def test_a_node_renews_with_a_protected_ca_key_if_it_has_the_passphrase(
    start: StartNode,
    tmp_path: Path,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
    with_passphrase: bool,
) -> None:
    ca = CertificateAuthority.create(
        tmp_path / "certs", key_type=P256, passphrase="secret", at=past()
    )
    ca.issue("a", key_type=P256)
    node = await start("a", ca.directory)
    events = identity_events(node)
    if with_passphrase:
        monkeypatch.setenv("AEGIS_CA_PASSPHRASE", "secret")
    overdue = ca.issue("a", key_type=P256, days=40, at=past())
    if with_passphrase:
        await until(lambda: kinds(events)[:2] == ["changed", "changed"])
        assert node.tls.not_after > overdue.not_after
    else:
        await until(lambda: kinds(events)[:2] == ["changed", "renewal_failed"])
        new = ca.renew("a")
        await until(lambda: node.tls == new)
    assert b"ENCRYPTED" in (ca.directory / "ca-key.pem").read_bytes()


async def test_a_node_renews_with_an_issuing_ca_whose_root_key_is_elsewhere(
    start: StartNode, tmp_path: Path, until: Until
) -> None:
    ca = CertificateAuthority.create(
        tmp_path / "certs", key_type=P256, intermediate=True, at=past()
    )
    shutil.rmtree(tmp_path / "certs-root")
    ca.issue("provider", key_type=P256)
    provider = await start("provider", ca.directory)
    ca.issue("caller", key_type=P256)
    caller = await start("caller", ca.directory, provider)
    before = {node.tls.certificate for node in (provider, caller)}
    events = identity_events(provider), identity_events(caller)
    for node_id in ("provider", "caller"):
        ca.issue(node_id, key_type=P256, days=40, at=past())
    for stream in events:
        await until(lambda: kinds(stream)[:2] == ["changed", "changed"])  # noqa: B023 - used at once
    assert before.isdisjoint({provider.tls.certificate, caller.tls.certificate})
    assert len(caller.tls.chain) == 2
    method = caller.pool.channel("who", "v1").unary_unary("/t/Who")
    await until(lambda: provider.get_certificate("caller") == caller.tls.certificate)
    assert int(await method(b"", timeout=5)) == caller.tls.certificate.serial_number
