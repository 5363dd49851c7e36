"""Documents that the CA of the mesh has not signed, or that would harm who believes them."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import (
    CertificateAuthority,
    DocumentSigner,
    KeyType,
    PublishedFiles,
    TLSConfig,
    TrustBundle,
)
from aegis_core import PeerInfo
from aegis_core.aio import Node
from aegis_discovery import DEFAULT_MESH
from aegis_discovery.aio import connect
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.documents import (
    DocumentKind,
    DocumentStore,
    SignedDocument,
    document_to_wire,
    encode_bundle,
    publish_policy,
    sign_document,
)
from aegis_discovery.proto import mesh_pb2
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .attacker import Attacker

each_server = pytest.mark.parametrize("server", ["aio", "blocking", "public"], indirect=True)

ALL = b'[[provide]]\nservices = ["*"]\nids = ["*"]\n'
OPEN = ALL + b'[[call]]\nservices = ["*"]\nids = ["*"]\n'
CLOSED = ALL + b'[[call]]\nservices = ["test.Echo"]\nids = ["friend"]\n'
DAY = dt.timedelta(days=1)


class Site:
    """A CA, and machines that each have a directory of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ca = CertificateAuthority.create(root / "ca", key_type=KeyType.P256)
        self.nodes: list[Node] = []

    def machine(self, node_id: str) -> Path:
        """Makes the directory of one machine, which has only what belongs there."""
        directory = self.root / node_id
        if not directory.exists():
            directory.mkdir(mode=0o700)
            self.ca.issue(node_id, key_type=KeyType.P256)
            for name in ("ca-cert.pem", f"{node_id}-cert.pem", f"{node_id}-key.pem"):
                shutil.copy(self.ca.directory / name, directory / name)
        return directory

    async def issuer(self, **options: Any) -> Node:
        self.ca.issue("ca-1", key_type=KeyType.P256)
        return await self._start("ca-1", cert_dir=self.ca.directory, issuer=True, **options)

    async def start(self, node_id: str, *seeds: Any, **options: Any) -> Node:
        addresses = [seed.address for seed in seeds]
        directory = self.machine(node_id)
        return await self._start(node_id, cert_dir=directory, seed_peers=addresses, **options)

    async def _start(self, node_id: str, **options: Any) -> Node:
        node = Node(node_id, address="127.0.0.1:0", **options)
        self.nodes.append(node)
        await node.start()
        return node

    def sign(
        self,
        content: bytes = OPEN,
        *,
        ahead: float = 0,
        kind: DocumentKind = DocumentKind.POLICY,
        signer: DocumentSigner | None = None,
        mesh: str = DEFAULT_MESH,
    ) -> SignedDocument:
        sequence = round((time.time() + ahead) * 1000)
        return sign_document(
            kind, content, sequence, signer or self.ca.document_signer(), mesh=mesh
        )

    def publish(self, policy: bytes) -> None:
        publish_policy(PublishedFiles(self.ca.directory), policy)


def documents(node: Any) -> DocumentStore:
    store: DocumentStore = node._parts.state.documents
    return store


def policies(*nodes: Any) -> list[bytes | None]:
    held = [documents(node).get(DocumentKind.POLICY) for node in nodes]
    return [document and document.content for document in held]


def send(attacker: Attacker, *signed: SignedDocument) -> None:
    message = mesh_pb2.WatchResponse(documents=map(document_to_wire, signed), cursor=b"any")
    attacker.send_bytes(message.SerializeToString())


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    yield site
    await asyncio.gather(*(node.stop(grace=0) for node in site.nodes))


@pytest.fixture
async def mallory(site: Site) -> AsyncIterator[Attacker]:
    attacker = Attacker(site.ca.issue("mallory", key_type=KeyType.P256))
    await attacker.start()
    yield attacker
    await attacker.stop()


@pytest.fixture
async def settle(mallory: Attacker, until: Any) -> Callable[..., Awaitable[None]]:
    """Waits until nodes have processed all that the attacker sent so far."""

    async def wait(*nodes: Node) -> None:
        marker = mallory.publish_marker()
        for node in nodes:
            await until(lambda n=node: n.topology.get_service_providers(marker, "v1"))

    return wait


async def say(caller: Any, node: Node) -> grpc.StatusCode:
    """Calls a service of a node's; returns the code."""
    async with open_channel(caller, node.id, node.address) as channel:
        code: grpc.StatusCode = await channel.unary_unary("/test.Echo/Say")(b"x", timeout=10).code()
        return code


def forgeries(site: Site, other: CertificateAuthority) -> dict[str, SignedDocument]:
    """Returns policies that allow everything, none of which the CA has signed as it should."""
    domain, member = site.ca.trust_domain, site.ca.issue_in_memory("forger")
    past = dt.datetime.now(dt.UTC) - 30 * DAY
    old = CertificateAuthority.create(
        site.root / "expired", key_type=KeyType.P256, at=past, days=365
    )
    good = site.sign()
    root = site.ca._session.issuer
    return {
        "by a member": site.sign(
            signer=DocumentSigner(member.certificate, member.key, domain), ahead=1
        ),
        "by the root itself": site.sign(
            signer=DocumentSigner(root.certificate, root.key, domain), ahead=2
        ),
        "by the authority of another root": site.sign(signer=other.document_signer(), ahead=3),
        "by an expired signer": site.sign(signer=old.document_signer(at=past), ahead=4),
        "with a bundle that has a root which nobody had": site.sign(
            encode_bundle(TrustBundle([*site.ca.bundle.certificates, *other.bundle.certificates])),
            kind=DocumentKind.BUNDLE,
            signer=other.document_signer(),
            ahead=5,
        ),
        "far ahead": site.sign(ahead=3600),
        "changed": good._replace(body=good.body.replace(b"call", b"CALL")),
        "for another mesh": site.sign(mesh="other", ahead=6),
        "with a signer that signs something else": good._replace(
            signer=site.ca.certificate.public_bytes(Encoding.DER)
        ),
    }


@each_server
@pytest.mark.usefixtures("server")
async def test_only_documents_of_the_authority_are_kept(
    site: Site, mallory: Attacker, until: Any, settle: Any, logged: Any, tmp_path: Path
) -> None:
    issuer = await site.issuer()
    a = await site.start("a", issuer)
    site.publish(CLOSED)
    await until(lambda: policies(issuer, a) == [CLOSED, CLOSED])
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    held = documents(a).digest
    await mallory.join(a)
    await until(lambda: mallory.watchers >= {"a", "ca-1"})
    async with connect(a.address, node_id="cl", cert_dir=site.machine("cl")) as client:
        for signed in forgeries(site, other).values():
            for _ in range(3):
                send(mallory, signed)
        # An honest document that has been replaced since: a lower sequence.
        send(mallory, site.sign(ahead=-3600))
        await settle(issuer, a)
        assert documents(issuer).digest == documents(a).digest == held
        assert client._client.documents.digest == held
        assert 1 <= len(logged("document", "from mallory")) <= 2, "once for each node"
        assert a.topology.nodes.keys() == {"a", "ca-1", "mallory"}


@each_server
@pytest.mark.usefixtures("server")
async def test_the_authority_is_no_caller(site: Site, provider: Any) -> None:
    issuer = await site.issuer(**provider("ca-1"))
    signer = site.ca.document_signer()
    tls = TLSConfig(
        "authority",
        signer.certificate.public_bytes(Encoding.PEM),
        signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        site.ca.bundle.pem,
    )
    code = await say(tls, issuer)
    assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)
    async with open_channel(tls, issuer.id, issuer.address) as channel:
        watch = channel.unary_stream(
            "/aegis.mesh.v1.Mesh/Watch", mesh_pb2.WatchRequest.SerializeToString
        )(mesh_pb2.WatchRequest(mesh=DEFAULT_MESH), timeout=10)
        assert await watch.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.UNAUTHENTICATED,
        )


async def test_a_published_bundle_never_leaves_a_node_without_its_own_root(
    site: Site, until: Any, tmp_path: Path, provider: Any
) -> None:
    """The CA itself has signed it: somebody retired the old CA too early."""
    issuer = await site.issuer()
    a = await site.start("a", issuer, **provider("a"))
    b = await site.start("b", issuer)
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    signed = site.sign(encode_bundle(other.bundle), kind=DocumentKind.BUNDLE, ahead=1)
    documents(b).receive(signed)
    nodes = (issuer, a, b)
    await until(lambda: len({documents(node).digest for node in nodes}) == 1)
    # The issuer's own file is the source of the published roots; it takes none from elsewhere.
    await until(
        lambda: [len(node._parts.state.tls.bundle.certificates) for node in nodes] == [1, 2, 2]
    )
    assert all(site.ca.certificate in n._parts.state.tls.bundle.certificates for n in nodes)
    written = site.machine("b") / "ca-cert.pem"
    await until(lambda: written.read_text().count("BEGIN CERTIFICATE") == 2)
    assert await say(b._parts.state.tls, a) is grpc.StatusCode.OK
    late = await site.start("late", a)
    await until(lambda: all("late" in node.topology.nodes for node in nodes))
    await late.stop()


async def test_ten_megabytes_of_crl_leave_nothing(
    site: Site, mallory: Attacker, until: Any, settle: Any, logged: Any
) -> None:
    issuer = await site.issuer()
    a = await site.start("a", issuer)
    await mallory.join(a)
    await until(lambda: mallory.watchers >= {"a", "ca-1"})
    serial = site.ca.write_revocations().crls[0]
    body = mesh_pb2.DocumentBody(
        context="aegis.mesh.v1 document",
        mesh=DEFAULT_MESH,
        trust_domain=site.ca.trust_domain,
        kind="crl",
        content=serial + bytes(512 * 1024 - len(serial)),
    )
    for number in range(20):
        body.sequence = number
        send(mallory, SignedDocument(body.SerializeToString()))
    body.content = serial + bytes(1000 * 1024 - len(serial))
    send(mallory, SignedDocument(body.SerializeToString()))
    await settle(issuer, a)
    await until(lambda: documents(a).digest == documents(issuer).digest)
    assert [one.kind for one in documents(a) if len(one.content) > 100_000] == []
    assert len([one for one in documents(a) if one.kind is DocumentKind.CRL]) <= 1
    feeds = mallory.feeds_served
    body.content = bytes(10 * 1024 * 1024)
    send(mallory, SignedDocument(body.SerializeToString()))
    await until(lambda: mallory.feeds_served > feeds)
    assert a.topology.nodes["ca-1"].status == "alive"


@each_server
@pytest.mark.usefixtures("server")
async def test_equal_sequences_converge_to_one_document(site: Site, until: Any) -> None:
    issuer = await site.issuer()
    nodes = [issuer]
    for node_id in "abc":
        nodes.append(await site.start(node_id, *nodes[:1]))
    signer, sequence = site.ca.document_signer(), round(time.time() * 1000)
    for node, comment in zip(nodes, (b"#1", b"#2", b"#3", b"#4"), strict=True):
        documents(node).receive(
            sign_document(DocumentKind.POLICY, OPEN + comment, sequence, signer, mesh=DEFAULT_MESH)
        )
    await until(lambda: len({*policies(*nodes)}) == 1)
    assert len({documents(node).digest for node in nodes}) == 1


async def test_a_peer_that_withholds_documents_is_not_the_only_one(
    site: Site, mallory: Attacker, until: Any
) -> None:
    issuer = await site.issuer()
    site.publish(CLOSED)
    await until(lambda: policies(issuer) == [CLOSED])
    await mallory.join(issuer)
    late = await site.start("late", mallory)
    assert policies(late) == [None], "its only seed peer says that this is all"
    await mallory_tells(mallory, issuer)
    await until(lambda: policies(late) == [CLOSED])


async def mallory_tells(mallory: Attacker, node: Node) -> None:
    """Lets the attacker pass on the record of a node, as it must not to hide a mesh."""
    records = mallory.records_of(node.id)
    chains = [chain.certificates for message in mallory.received for chain in message.chains]
    mallory.send(records[-1], chains=chains)


async def test_a_client_keeps_no_documents_of_another_mesh(
    site: Site, mallory: Attacker, until: Any
) -> None:
    issuer = await site.issuer()
    await mallory.join(issuer)
    async with connect(issuer.address, node_id="cl", cert_dir=site.machine("cl")) as client:
        store = client._client.documents
        await until(lambda: len(store) == 2)
    held = store.digest
    send(mallory, site.sign(mesh="other", ahead=5))
    own = site.sign(OPEN, ahead=6)
    send(mallory, own)
    async with connect(mallory.address, node_id="cl", cert_dir=site.machine("cl")) as client:
        store = client._client.documents
        await until(lambda: store.get(DocumentKind.POLICY) is not None)
        policy = store.get(DocumentKind.POLICY)
        assert policy is not None
        assert policy.signed == own
    assert held


@each_server
@pytest.mark.usefixtures("server")
async def test_no_call_is_served_before_the_first_complete_feed(
    site: Site, until: Any, provider: Any
) -> None:
    """So the policy of the mesh is never missing at the start."""
    issuer = await site.issuer()
    site.publish(CLOSED)
    await until(lambda: policies(issuer) == [CLOSED])
    # The seed peer answers, but its feed is never complete.
    silent = Attacker(site.ca.issue("silent", key_type=KeyType.P256))
    silent._watch = _silent  # type: ignore[method-assign]
    await silent.start()
    starting = asyncio.create_task(
        site.start("a", silent, join_timeout=60, **provider("a")), name="start"
    )
    try:
        await until(lambda: site.nodes[-1].id == "a" and _address(site.nodes[-1]))
        a, friend = site.nodes[-1], site.ca.issue_in_memory("friend")
        stranger = site.ca.issue_in_memory("stranger")
        assert await say(friend, a) is grpc.StatusCode.UNAVAILABLE
        assert await say(stranger, a) is grpc.StatusCode.UNAVAILABLE
        assert await health(friend, a) == health_pb2.HealthCheckResponse.NOT_SERVING
        a.add_peer(PeerInfo(issuer.id, issuer.address))
        await starting
        assert policies(a) == [CLOSED]
        assert await say(friend, a) is grpc.StatusCode.OK
        assert await say(stranger, a) is grpc.StatusCode.PERMISSION_DENIED
        assert await health(friend, a) == health_pb2.HealthCheckResponse.SERVING
    finally:
        starting.cancel()
        await silent.stop()


async def _silent(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    while True:
        yield mesh_pb2.WatchResponse(version=1).SerializeToString()
        await asyncio.sleep(0.5)


def _address(node: Node) -> str:
    try:
        return node.address
    except Exception:  # noqa: BLE001 - it is starting
        return ""


async def health(caller: Any, node: Node) -> Any:
    async with open_channel(caller, node.id, node.address) as channel:
        request = health_pb2.HealthCheckRequest()
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
        return answer.status
