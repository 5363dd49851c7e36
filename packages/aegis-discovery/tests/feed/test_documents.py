"""Documents in feeds: before everything else, and only where they are missing."""

from __future__ import annotations

import time

import pytest
from aegis_certs import CertificateAuthority
from aegis_discovery import ServiceInfo
from aegis_discovery.documents import (
    DocumentKind,
    SignedDocument,
    crl_document,
    document_to_wire,
    sign_document,
)
from aegis_discovery.feed import FeedReader, split_message
from aegis_discovery.proto import mesh_pb2

from .conftest import MESH, MakeSide, Side

MIB = 1 << 20
POLICY = b'[[call]]\nservices = ["*"]\nids = ["*"]\n'


def policy(ca: CertificateAuthority, content: bytes = POLICY, ahead: float = 0) -> SignedDocument:
    sequence = round((time.time() + ahead) * 1000)
    signer = ca.document_signer()
    return sign_document(DocumentKind.POLICY, content, sequence, signer, mesh=MESH)


def kinds(side: Side) -> list[str]:
    bodies = [one.body for message in side.received for one in message.documents]
    return [mesh_pb2.DocumentBody.FromString(body).kind for body in bodies]


@pytest.mark.parametrize("is_node", [True, False])
def test_documents_arrive_before_the_feed_is_complete(
    ca: CertificateAuthority, server: Side, side: MakeSide, is_node: bool
) -> None:
    server.documents.receive(policy(ca))
    watcher = side("watcher", is_node=is_node)
    feed = watcher.open(server)
    first = next(iter(feed.messages()))
    assert [document.body for document in first.documents]
    assert not first.complete
    watcher.reader.receive(first, source="server")
    assert watcher.documents.policy is not None


def test_a_change_is_sent_once_and_then_nothing(
    ca: CertificateAuthority, server: Side, side: MakeSide
) -> None:
    watcher = side("watcher")
    feed = watcher.open(server)
    watcher.pull(feed)
    server.documents.receive(policy(ca))
    watcher.pull(feed)
    assert kinds(watcher) == ["policy"]
    assert watcher.documents.digest == server.documents.digest
    assert watcher.pull(feed) == []


def test_a_watcher_with_equal_records_still_gets_documents(
    ca: CertificateAuthority, server: Side, side: MakeSide
) -> None:
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(server))
    server.documents.receive(policy(ca))
    feed = watcher.open(server)
    watcher.pull(feed)
    assert watcher.received_ids == []
    assert kinds(watcher) == ["policy"]


def test_a_watcher_that_has_all_documents_is_sent_none(
    ca: CertificateAuthority, server: Side, side: MakeSide
) -> None:
    server.documents.receive(policy(ca))
    watcher = side("watcher")
    watcher.pull(watcher.open(server))
    watcher.pull(watcher.open(server))
    assert kinds(watcher) == []
    other = side("other")
    watcher.pull(watcher.open(other))
    other.pull(other.open(watcher))
    assert kinds(other) == ["policy"], "it is passed on"
    watcher.pull(watcher.open(other))
    assert kinds(watcher) == []


def test_a_feed_of_some_services_has_documents_too(
    ca: CertificateAuthority, server: Side, side: MakeSide
) -> None:
    watcher = side("watcher", is_node=False)
    watcher.reader = FeedReader(
        watcher.topology,
        watcher.verifier,
        trusts_statuses=True,
        services=[ServiceInfo("orders", "v1")],
        documents=watcher.documents,
    )
    feed = watcher.open(server)
    watcher.pull(feed)
    server.documents.receive(policy(ca))
    watcher.pull(feed)
    assert watcher.documents.policy is not None
    assert watcher.pull(feed) == []


def test_a_watcher_without_documents_passes_over_them(
    ca: CertificateAuthority, server: Side, side: MakeSide
) -> None:
    server.documents.receive(policy(ca))
    watcher = side("watcher", is_node=False)
    watcher.reader = FeedReader(watcher.topology, watcher.verifier, trusts_statuses=True)
    results = watcher.pull(watcher.open(server))
    assert results[-1].complete


def test_a_mesh_without_documents_sends_no_byte_more(server: Side, side: MakeSide) -> None:
    watcher = side("watcher")
    own = watcher.topology.get_record("watcher")
    request = watcher.reader.request(MESH, own, watcher.chain, source="server")
    assert request.documents == b""
    watcher.pull(watcher.open(server))
    assert kinds(watcher) == []


def test_the_largest_documents_stay_below_one_mebibyte(
    ca: CertificateAuthority, server: Side, side: MakeSide
) -> None:
    filler = b"# " + b"x" * 65_000 + b"\n"
    server.documents.receive(policy(ca, POLICY + filler[: 64 * 1024 - len(POLICY)]))
    largest = crl_document(bytes(512 * 1024), mesh=MESH, trust_domain=ca.trust_domain)
    verifier = server.documents._verifier
    held = verifier.verify(policy(ca))
    assert held is not None
    for number in range(3):
        server.documents.put(held._replace(key=f"crl:{number}", signed=largest))
        held = verifier.verify(policy(ca, ahead=number + 1))
        assert held is not None
    watcher = side("watcher", is_node=False)
    sizes = [message.ByteSize() for message in watcher.open(server).messages()]
    assert max(sizes) < MIB
    assert sum(sizes) > 512 * 1024


def test_a_document_ahead_of_this_clock_arrives_later(
    ca: CertificateAuthority, server: Side, side: MakeSide
) -> None:
    """One that was refused because a clock was wrong is asked for again, ever more rarely."""
    ahead = policy(ca, ahead=330)
    server.documents._clock = server.documents._verifier._clock = lambda: time.time() + 600
    server.documents.receive(ahead)
    watcher = side("watcher", is_node=False)
    feed = watcher.open(server)
    watcher.pull(feed)
    assert len(watcher.documents) == 0
    heartbeats = 0
    while not watcher.reader.receive(feed.heartbeat(), source="server").diverged:
        heartbeats += 1
        assert heartbeats < 10
    watcher.documents._verifier._clock = lambda: time.time() + 600
    watcher.pull(watcher.open(server))
    assert watcher.documents.policy is not None
    results = [watcher.reader.receive(feed.heartbeat(), source="server") for _ in range(20)]
    assert not any(result.diverged for result in results)


def test_bad_documents_are_logged_once_for_each_sender(
    ca: CertificateAuthority, server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = side("watcher")
    bad = document_to_wire(policy(ca)._replace(signature=b"bad"))
    for _ in range(50):
        watcher.reader.receive(mesh_pb2.WatchResponse(documents=[bad]), source="liar")
    lines = [line for line in caplog.messages if "document" in line]
    assert len(lines) == 1
    assert "liar" in lines[0]
    assert len(watcher.documents) == 0


def test_too_many_documents_in_one_message_are_left_unread(
    ca: CertificateAuthority, side: MakeSide
) -> None:
    watcher = side("watcher")
    good = document_to_wire(policy(ca))
    watcher.reader.receive(mesh_pb2.WatchResponse(documents=[good] * 65), source="liar")
    assert len(watcher.documents) == 0
    watcher.reader.receive(mesh_pb2.WatchResponse(documents=[good] * 64), source="liar")
    assert len(watcher.documents) == 1


def test_a_large_message_is_split_at_its_documents(ca: CertificateAuthority) -> None:
    good = document_to_wire(policy(ca))
    message = mesh_pb2.WatchResponse(documents=[good] * 20, complete=True, version=3)
    parts = list(split_message(message))
    assert sum(len(part.documents) for part in parts) == 20
    assert [part.complete for part in parts] == [False] * (len(parts) - 1) + [True]
