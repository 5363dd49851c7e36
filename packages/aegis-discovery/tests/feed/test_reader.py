from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable

import pytest
from aegis_certs import CertificateAuthority
from aegis_discovery import NodeStatus
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records._signer import LeafKey

from .conftest import ALIVE, FAILED, MESH, SUSPECTED, MakeSide, Side, set_status, vouch_for


def test_a_client_adopts_statuses_and_a_node_derives_its_own(server: Side, side: MakeSide) -> None:
    client, node = side("client", is_node=False), side("node")
    vouch_for(server, ["x"])
    feeds = client.open(server), node.open(server)
    for status in (SUSPECTED, FAILED, ALIVE):
        set_status(server, "x", status)
        client.pull(feeds[0])
        node.pull(feeds[1])
        assert client.topology.nodes["x"].status is status
        assert node.topology.nodes["x"].status is ALIVE


@pytest.mark.parametrize("server_knows", [ALIVE, SUSPECTED, FAILED])
@pytest.mark.parametrize("client_knew", [ALIVE, SUSPECTED, FAILED])
def test_a_client_that_moves_to_another_node_adopts_the_statuses_there(
    server: Side, side: MakeSide, client_knew: NodeStatus, server_knows: NodeStatus
) -> None:
    before, client = side("before"), side("client", is_node=False)
    vouch_for(before, ["x"])
    server.pull(server.open(before))
    before.pull(before.open(server))
    set_status(before, "x", client_knew)
    set_status(server, "x", server_knows)
    client.pull(client.open(before))
    assert client.topology.nodes["x"].status is client_knew
    client.pull(client.open(server))
    assert client.topology.nodes["x"].status is server_knows


def test_a_status_for_an_older_record_is_void(server: Side, side: MakeSide) -> None:
    client = side("client", is_node=False)
    client.pull(client.open(server))
    verdict = mesh_pb2.DerivedStatus(id="server", stamp=1, status=mesh_pb2.STATUS_FAILED)
    client.reader.receive(mesh_pb2.WatchResponse(statuses=[verdict]), source="x")
    assert client.topology.nodes["server"].status is ALIVE


def test_a_restarted_node_receives_the_record_of_its_earlier_instance(
    server: Side, side: MakeSide
) -> None:
    earlier = side("a")
    server.pull(server.open(earlier))
    now = Side(earlier.tls)
    feed = now.open(server)
    now.pull(feed)
    assert "a" in now.received_ids
    now.declare()
    earlier.declare("new")
    earlier.declare("newer")  # the second stamp is above the first, even in the same millisecond
    server.pull(server.open(earlier))
    (received,) = now.pull(feed)
    assert received.foreign is not None
    assert received.foreign.body == earlier.record().body
    assert now.topology.get_service_providers("newer", "v1") == ()


Sign = Callable[..., mesh_pb2.SignedRecord]


def signer_of(side: Side) -> Sign:
    """Signs the side's own record with any changes, as only a liar does."""
    honest = side.record()
    key = LeafKey(side.tls)

    def sign(**changes: object) -> mesh_pb2.SignedRecord:
        body = mesh_pb2.RecordBody.FromString(honest.body)
        for name, value in changes.items():
            setattr(body, name, value)
        data = body.SerializeToString()
        return mesh_pb2.SignedRecord(body=data, signature=key.sign(data), signer=key.fingerprint)

    return sign


def forged(sign: Sign) -> mesh_pb2.SignedRecord:
    record = sign()
    record.signature = sign(name="other").signature
    return record


def altered(sign: Sign) -> mesh_pb2.SignedRecord:
    record = sign(address="10.0.0.1:1")
    record.body = record.body.replace(b"10.0.0.1", b"10.6.6.6")
    return record


SIX_MINUTES = 360_000


LIES: dict[str, Callable[[Sign], mesh_pb2.SignedRecord]] = {
    "its signature is not by liar": forged,
    "its signature is not by liar ": altered,
    "belongs to mesh 'other'": lambda sign: sign(mesh="other"),
    "names trust domain 'other.example'": lambda sign: sign(trust_domain="other.example"),
    "was signed by liar": lambda sign: sign(id="server"),
    "cannot vouch for itself": lambda sign: sign(voucher="liar"),
    "s ahead of this clock": lambda sign: sign(stamp=time.time_ns() // 1_000_000 + SIX_MINUTES),
    "the limit is 4096": lambda sign: sign(name="x" * 5000),
    "its bytes cannot be read": lambda _: mesh_pb2.SignedRecord(body=b"\xff\xff"),
    "was not sent": lambda sign: mesh_pb2.SignedRecord(body=sign().body, signer=b"nobody"),
}


@pytest.mark.parametrize("reason", LIES)
def test_a_lie_is_logged_with_its_sender_and_the_rest_of_the_message_counts(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    liar, reader = side("liar"), side("reader")
    message = mesh_pb2.WatchResponse(
        chains=[mesh_pb2.Chain(certificates=s.chain) for s in (liar, server)],
        records=[LIES[reason](signer_of(liar)), server.record()],
    )
    with caplog.at_level(logging.WARNING, "aegis.feed"):
        reader.reader.receive(message, source="relay")
    assert list(reader.topology.nodes) == ["reader", "server"]
    (logged,) = [record.message for record in caplog.records]
    assert logged.startswith("from relay: record of ")
    assert reason.strip() in logged


def test_records_of_certificates_that_identify_no_node_are_left_out(
    server: Side,
    side: MakeSide,
    ca: CertificateAuthority,
    other_ca: CertificateAuthority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stranger = Side(other_ca.issue_in_memory("stranger"))
    client = Side(ca.issue_in_memory("client", client_only=True), is_node=False)
    for liar in (stranger, client):
        liar.declare()
    message = mesh_pb2.WatchResponse(
        chains=[mesh_pb2.Chain(certificates=s.chain) for s in (stranger, client, server)],
        records=[s.record() for s in (stranger, client, server)],
    )
    reader = side("reader")
    with caplog.at_level(logging.WARNING, "aegis.feed"):
        reader.reader.receive(message, source="relay")
    assert list(reader.topology.nodes) == ["reader", "server"]
    logged = [record.message for record in caplog.records]
    assert len(logged) == 3, "one per chain; both records are refused for the same reason"
    assert "not trusted" in logged[0]
    assert "must not be used as a server" in logged[1]


def test_a_replayed_message_changes_nothing(server: Side, side: MakeSide) -> None:
    reader = side("reader")
    reader.pull(reader.open(server))
    (replayed,) = reader.received
    server.topology.remove_node("server")
    reader.pull(reader.open(server))
    version = reader.topology.version
    reader.reader.receive(replayed, source="server")
    assert list(reader.topology.nodes) == ["reader"]
    assert reader.topology.version == version


def test_a_server_that_sends_an_older_record_after_a_newer_one_is_named(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    reader = side("reader")
    feed = reader.open(server)
    reader.pull(feed)
    (old,) = reader.received
    server.declare("new")
    reader.pull(feed)
    for _ in range(3):
        reader.reader.receive(old, source="server")
    assert [node.id for node in reader.topology.get_service_providers("new", "v1")] == ["server"]
    logged = [record.message for record in caplog.records]
    assert logged == ["from server: an older record of server after a newer one"]


def test_a_server_that_knows_less_than_on_its_last_feed_is_not_named(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    reader = side("reader")
    feed = reader.open(server)
    reader.pull(feed)
    (old,) = reader.received
    server.declare("new")
    reader.pull(feed)
    # It restarted, and got its records from a node that was cut off for a while.
    reader.open(server)
    reader.reader.receive(old, source="server")
    assert caplog.records == []


def test_a_reader_remembers_the_stamps_of_a_limited_number_of_nodes(
    server: Side, side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery.feed._reader.MAX_STAMPS", 2)
    for node_id in "abc":
        other = side(node_id)
        other.declare()
        server.pull(server.open(other))
    reader = side("reader")
    reader.pull(reader.open(server))
    assert len(reader.topology.nodes) == 5
    assert len(reader.reader._stamps) == 2


def test_idle_sides_with_different_records_converge_again(
    side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, watcher = side("server"), side("watcher")
    with monkeypatch.context() as patch:
        patch.setattr(watcher.verifier, "_clock", lambda: time.time() - 3600)
        feed = watcher.open(server)
        watcher.pull(feed)
    assert "server" not in watcher.topology.nodes, "its stamp was an hour ahead of a slow clock"
    heartbeats = [watcher.reader.receive(feed.heartbeat(), source="server") for _ in range(3)]
    assert [received.diverged for received in heartbeats] == [False, False, True]
    watcher.pull(watcher.open(server))
    assert "server" in watcher.topology.nodes


def test_sides_that_differ_for_a_reason_reopen_the_feed_ever_more_rarely(side: MakeSide) -> None:
    server, watcher = side("server"), side("watcher")
    watcher.verifier.retain(())
    watcher.verifier._mesh = "another"
    feed = watcher.open(server)
    watcher.pull(feed)
    tries = [
        beat
        for beat in range(1, 100)
        if watcher.reader.receive(feed.heartbeat(), source="server").diverged
    ]
    assert tries == [3, 9, 21, 45, 93]


def test_one_equal_heartbeat_does_not_reset_how_long_a_reader_waits(side: MakeSide) -> None:
    watcher = side("watcher")
    other_digest = mesh_pb2.WatchResponse(digest=b"another")

    def heartbeats_until_diverged() -> int:
        return next(
            beat
            for beat in itertools.count(1)
            if watcher.reader.receive(other_digest, source="server").diverged
        )

    patience = []
    for _ in range(4):
        agreed = mesh_pb2.WatchResponse(digest=watcher.topology.digest)
        watcher.reader.receive(agreed, source="server")
        patience.append(heartbeats_until_diverged())
    assert patience == [3, 6, 12, 24]
    for _ in range(48):
        agreed = mesh_pb2.WatchResponse(digest=watcher.topology.digest)
        watcher.reader.receive(agreed, source="server")
    assert heartbeats_until_diverged() == 3, "both were equal for as long as it would have waited"


def test_no_node_may_vouch_without_limit(
    server: Side, side: MakeSide, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    liar, watcher = side("liar"), side("watcher")
    vouch_for(liar, (f"ghost-{index}" for index in range(5)))
    server.pull(server.open(liar))
    monkeypatch.setattr("aegis_discovery._topology.limits.MAX_VOUCHED", 3)
    watcher.pull(watcher.open(server))
    assert sum(node.vouched_by == "liar" for node in watcher.topology.nodes.values()) == 3
    (line,) = caplog.messages
    assert line == (
        "liar vouches for 3 nodes, the most it may: "
        "dropped ghost-3, vouched for by liar, from server"
    )


def test_a_cursor_is_void_once_another_server_sent_something(
    server: Side, side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery.feed._writer.CHUNK", 1)
    other, client = side("other"), side("client", is_node=False)
    client.pull(client.open(server))
    client.reader.receive(next(iter(client.open(other).messages())), source="other")
    assert client.reader.request(MESH, source="server").cursor == b""


def test_a_cursor_is_sent_only_to_the_server_that_gave_it(server: Side, side: MakeSide) -> None:
    client = side("client", is_node=False)
    client.pull(client.open(server))
    assert client.reader.request(MESH, source="server").cursor
    assert client.reader.request(MESH, source="other").cursor == b""
    assert client.reader.request(MESH, source="server").cursor, "for when the client returns to it"


def test_a_chain_that_cannot_be_parsed_leaves_the_rest_of_the_message(
    server: Side, side: MakeSide, odd_certificate: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader = side("reader")
    chains = [mesh_pb2.Chain(certificates=chain) for chain in ([odd_certificate], server.chain)]
    message = mesh_pb2.WatchResponse(chains=chains, records=[server.record()])
    reader.reader.receive(message, source="relay")
    assert list(reader.topology.nodes) == ["reader", "server"]
    assert "from relay: record of an unknown node refused: its certificate does not" in caplog.text
