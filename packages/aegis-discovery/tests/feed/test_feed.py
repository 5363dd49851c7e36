from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, TLSConfig
from aegis_discovery import InvalidRecordError, NodeInfo, NodeStatus, ServiceInfo, Topology
from aegis_discovery.aio.feed import follow
from aegis_discovery.feed import (
    FeedReader,
    FeedWriter,
    ReceiveResult,
    request_problem,
    split_message,
)
from aegis_discovery.feed._limits import MAX_CHECKS
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import Opinion, RecordSigner, RecordVerifier
from aegis_discovery.records._codec import signed_to_wire
from aegis_discovery.records._signer import LeafKey
from cryptography.hazmat.primitives.serialization import Encoding

MESH = "test"
MIB = 1 << 20
ALIVE, SUSPECTED, FAILED = NodeStatus.ALIVE, NodeStatus.SUSPECTED, NodeStatus.FAILED


class Side:
    """One process with all that a feed needs, at either end."""

    def __init__(
        self, tls: TLSConfig, *, trust_domain: str | None = None, is_node: bool = True
    ) -> None:
        self.tls = tls
        self.id = tls.node_id
        self.topology = Topology(owner=self.id, signer=RecordSigner.of(tls, mesh=MESH))
        self.verifier = RecordVerifier(
            tls.bundle, mesh=MESH, trust_domain=trust_domain or tls.trust_domain
        )
        self.chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in tls.chain)
        if is_node:
            self.verifier.add_chain(self.chain)
        self.reader = FeedReader(self.topology, self.verifier, trusts_statuses=not is_node)
        self.received: list[mesh_pb2.WatchResponse] = []

    def declare(self, *services: str) -> None:
        info = NodeInfo(
            self.id,
            address="10.0.0.1:1",
            services=tuple(ServiceInfo(name, "v1") for name in services),
        )
        self.topology.add_node(info)

    def record(self, node_id: str | None = None) -> mesh_pb2.SignedRecord:
        record = self.topology.get_record(node_id or self.id)
        assert record is not None
        return signed_to_wire(record)

    def serve(self, request: mesh_pb2.WatchRequest, watcher: str) -> FeedWriter:
        def chain_of(fingerprint: bytes) -> tuple[bytes, ...] | None:
            leaf = self.verifier.leaf(fingerprint)
            return leaf.chain if leaf else None

        return FeedWriter(self.topology, chain_of, watcher=watcher, request=request)

    def open(self, server: Side) -> FeedWriter:
        """Opens a feed from the server, as the wire would."""
        own = self.topology.get_record(self.id)
        sent = self.reader.request(
            MESH, own, self.chain if own else (), source="server"
        ).SerializeToString()
        return server.serve(mesh_pb2.WatchRequest.FromString(sent), self.id)

    def pull(self, feed: FeedWriter) -> list[ReceiveResult]:
        """Takes in what the feed has to tell now."""
        self.received = [
            mesh_pb2.WatchResponse.FromString(message.SerializeToString())
            for message in feed.messages()
        ]
        return [self.reader.receive(message, source="server") for message in self.received]

    @property
    def told(self) -> list[str]:
        """Ids of the nodes of the last pull."""
        bodies = [record.body for message in self.received for record in message.records]
        return [mesh_pb2.RecordBody.FromString(body).id for body in bodies]

    @property
    def chains(self) -> int:
        return sum(len(message.chains) for message in self.received)


MakeSide = Callable[..., Side]


@pytest.fixture
def side(ca: CertificateAuthority) -> MakeSide:
    def make(node_id: str, *services: str, is_node: bool = True) -> Side:
        made = Side(ca.issue_in_memory(node_id), is_node=is_node)
        if is_node:
            made.declare(*services)
        return made

    return make


@pytest.fixture
def server(side: MakeSide) -> Side:
    return side("server")


def populate(side: Side, make: MakeSide) -> None:
    """Makes a mesh of 3 000 nodes: few identities sign for many, or the test would take long."""
    for voucher in (make(f"voucher-{i}") for i in range(15)):
        vouch_for(voucher, (f"{voucher.id}-{i}" for i in range(199)))
        side.pull(side.open(voucher))


def vouch_for(side: Side, node_ids: Iterable[str]) -> None:
    for node_id in node_ids:
        services = tuple(ServiceInfo(f"service-{i}", "v1") for i in range(10))
        side.topology.vouch(NodeInfo(node_id, address="10.0.0.1:1", services=services))


def test_a_snapshot_of_3000_nodes_comes_in_messages_below_one_mebibyte(
    server: Side, side: MakeSide
) -> None:
    populate(server, side)
    watcher = side("watcher", is_node=False)
    feed = watcher.open(server)
    outcomes = watcher.pull(feed)
    assert len(watcher.received) > 3
    assert max(message.ByteSize() for message in watcher.received) < MIB
    assert watcher.topology.digest == server.topology.digest
    assert watcher.topology.version == server.topology.version
    # Nothing is complete, and no cursor is passed, before the last message.
    assert [received.complete for received in outcomes] == [False] * (len(outcomes) - 1) + [True]
    assert [bool(message.cursor) for message in watcher.received].count(True) == 1
    assert not any(received.diverged for received in outcomes), "or it would never come to its end"
    assert watcher.chains == 16
    assert watcher.pull(feed) == []


def test_changes_follow_the_snapshot_and_nothing_comes_twice(server: Side, side: MakeSide) -> None:
    watcher = side("watcher", is_node=False)
    feed = watcher.open(server)
    watcher.pull(feed)
    assert watcher.told == ["server"]
    server.declare("new")
    server.declare("newer")
    assert [received.complete for received in watcher.pull(feed)] == [False]
    assert watcher.told == ["server"], "two changes of one node are one record"
    assert watcher.chains == 0, "a chain travels once a stream"
    assert watcher.topology.get_service_providers("newer", "v1")
    server.topology.remove_node("server")
    watcher.pull(feed)
    assert watcher.topology.nodes == {}


def test_a_chain_travels_again_only_where_the_watcher_cannot_have_it(
    server: Side, side: MakeSide
) -> None:
    peer, watcher = side("peer"), side("watcher")
    server.pull(server.open(peer))
    watcher.pull(watcher.open(server))
    assert watcher.chains == 2

    server.topology.publish_verdict("peer", Opinion.SUSPECT)
    peer.declare("changed")
    vouch_for(peer, ["go-1"])
    server.pull(server.open(peer))
    watcher.pull(watcher.open(server))
    assert set(watcher.told) == {"peer", "go-1"}
    assert sum(len(message.verdicts) for message in watcher.received) == 1
    assert watcher.chains == 0, "a record, what it vouches for and a verdict, by who was told of"

    renewed = side("peer")
    renewed.pull(renewed.open(server))
    renewed.declare("renewed")
    server.pull(server.open(renewed))
    watcher.pull(watcher.open(server))
    assert watcher.topology.get_service_providers("renewed", "v1")
    assert watcher.chains == 1


def test_a_feed_that_is_taken_up_again_tells_only_what_was_missed(
    server: Side, side: MakeSide
) -> None:
    vouch_for(server, ("go-1", "go-2"))
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(server))
    vouch_for(server, ("go-3",))
    server.topology.unvouch("go-1")
    watcher.pull(watcher.open(server))
    assert watcher.told == ["go-3", "go-1"]
    assert list(watcher.topology.nodes) == ["go-2", "go-3", "server"]


def test_a_broken_snapshot_is_begun_anew(server: Side, side: MakeSide) -> None:
    populate(server, side)
    watcher = side("watcher", is_node=False)
    first = next(iter(watcher.open(server).messages()))
    watcher.reader.receive(first, source="server")
    watcher.pull(watcher.open(server))
    assert len(watcher.told) == 3001
    assert watcher.topology.digest == server.topology.digest


def test_an_unknown_cursor_means_a_snapshot(server: Side, side: MakeSide) -> None:
    other = side("other")
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(other))
    watcher.pull(watcher.open(server))
    assert watcher.told == ["server"]
    assert list(watcher.topology.nodes) == ["other", "server"]


@pytest.mark.parametrize("cursor", [b"", b"short", b"x" * 16, b"x" * 17])
def test_a_cursor_of_nobody_is_an_unknown_one(server: Side, cursor: bytes) -> None:
    request = mesh_pb2.WatchRequest(mesh=MESH, cursor=cursor)
    told = list(server.serve(request, "watcher").messages())
    assert [len(message.records) for message in told] == [1]


def test_equal_digests_need_no_snapshot_and_tombstones_count(server: Side, side: MakeSide) -> None:
    other = side("other")
    vouch_for(other, ("gone", "go"))
    other.topology.unvouch("gone")
    server.pull(server.open(other))
    other.pull(other.open(server))
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(server))
    watcher.pull(watcher.open(other))
    assert watcher.told == []
    assert [message.complete for message in watcher.received] == [True]
    other.topology.vouch(NodeInfo("gone", address="10.0.0.1:1"))
    other.topology.unvouch("gone")
    again = side("again", is_node=False)
    again.pull(again.open(server))
    again.pull(again.open(other))
    assert "gone" in again.told, "the same live nodes, but another tombstone"


def test_nobody_is_told_its_own_news(server: Side, side: MakeSide) -> None:
    watcher = side("watcher")
    to_server, to_watcher = server.open(watcher), watcher.open(server)
    server.reader.receive(next(iter(to_server.messages())), source="watcher")
    watcher.pull(to_watcher)
    vouch_for(watcher, ["go"])
    for message in to_server.messages():
        server.reader.receive(message, source="watcher")
    assert "go" in server.topology.nodes
    watcher.pull(to_watcher)
    assert watcher.told == []


def test_a_heartbeat_tells_version_and_digest_and_moves_no_cursor(
    server: Side, side: MakeSide
) -> None:
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(server))
    before = watcher.reader.request(MESH, source="server").cursor
    beat = watcher.open(server).heartbeat()
    assert (beat.version, beat.digest) == (server.topology.version, server.topology.digest)
    assert not watcher.reader.receive(beat, source="server").complete
    assert watcher.reader.request(MESH, source="server").cursor == before


def test_a_raised_version_is_told_though_no_record_changed(server: Side, side: MakeSide) -> None:
    watcher = side("watcher", is_node=False)
    feed = watcher.open(server)
    watcher.pull(feed)
    server.topology.advance_version_past(1000)
    watcher.pull(feed)
    assert watcher.topology.version == 1001


def test_a_client_takes_over_verdicts_and_a_node_judges_for_itself(
    server: Side, side: MakeSide
) -> None:
    client, node = side("client", is_node=False), side("node")
    vouch_for(server, ["x"])
    feeds = client.open(server), node.open(server)
    for status in (SUSPECTED, FAILED, ALIVE):
        set_status(server, "x", status)
        client.pull(feeds[0])
        node.pull(feeds[1])
        assert client.topology.nodes["x"].status is status
        assert node.topology.nodes["x"].status is ALIVE


def set_status(side: Side, node_id: str, status: NodeStatus) -> None:
    record = side.topology.get_record(node_id)
    assert record is not None
    side.topology.set_status(node_id, record.stamp, status)


@pytest.mark.parametrize("server_knows", [ALIVE, SUSPECTED, FAILED])
@pytest.mark.parametrize("client_knew", [ALIVE, SUSPECTED, FAILED])
def test_a_client_that_moves_to_another_node_takes_over_who_is_alive_there(
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


def test_a_verdict_on_an_older_record_is_void(server: Side, side: MakeSide) -> None:
    client = side("client", is_node=False)
    client.pull(client.open(server))
    verdict = mesh_pb2.DerivedStatus(id="server", stamp=1, status=mesh_pb2.STATUS_FAILED)
    client.reader.receive(mesh_pb2.WatchResponse(statuses=[verdict]), source="x")
    assert client.topology.nodes["server"].status is ALIVE


def test_a_restarted_node_is_told_of_its_earlier_life(server: Side, side: MakeSide) -> None:
    earlier = side("a")
    server.pull(server.open(earlier))
    now = Side(earlier.tls)
    feed = now.open(server)
    now.pull(feed)
    assert "a" in now.told
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
    """Signs the side's own record with any changes, as only a liar would."""
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
def test_a_lie_is_logged_with_its_teller_and_the_rest_of_the_message_counts(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    liar, reader = side("liar"), side("reader")
    message = mesh_pb2.WatchResponse(
        chains=[mesh_pb2.Chain(certificates=s.chain) for s in (liar, server)],
        records=[LIES[reason](signer_of(liar)), server.record()],
    )
    with caplog.at_level(logging.WARNING, "aegis.feed"):
        reader.reader.receive(message, source="teller")
    assert list(reader.topology.nodes) == ["reader", "server"]
    (logged,) = [record.message for record in caplog.records]
    assert logged.startswith("from teller: record of ")
    assert reason.strip() in logged


def test_records_of_certificates_that_prove_no_node_are_left_out(
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
        reader.reader.receive(message, source="teller")
    assert list(reader.topology.nodes) == ["reader", "server"]
    logged = [record.message for record in caplog.records]
    assert len(logged) == 3, "one for each chain; both records are refused for the same reason"
    assert "not trusted" in logged[0]
    assert "not made for a server" in logged[1]


def test_the_same_replayed_message_changes_nothing(server: Side, side: MakeSide) -> None:
    reader = side("reader")
    reader.pull(reader.open(server))
    (replayed,) = reader.received
    server.topology.remove_node("server")
    reader.pull(reader.open(server))
    version = reader.topology.version
    reader.reader.receive(replayed, source="server")
    assert list(reader.topology.nodes) == ["reader"]
    assert reader.topology.version == version


def test_a_server_that_goes_back_on_what_it_told_is_named(
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


def test_a_server_that_knows_less_than_it_did_on_its_last_feed_is_not_named(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    reader = side("reader")
    feed = reader.open(server)
    reader.pull(feed)
    (old,) = reader.received
    server.declare("new")
    reader.pull(feed)
    # It started anew, and heard what it knows of one that was cut off for a while.
    reader.open(server)
    reader.reader.receive(old, source="server")
    assert caplog.records == []


def test_of_few_nodes_it_is_remembered_what_was_told(
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


def test_sides_that_rest_and_know_different_things_meet_again(
    side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, watcher = side("server"), side("watcher")
    with monkeypatch.context() as patch:
        patch.setattr(watcher.verifier, "_clock", lambda: time.time() - 3600)
        feed = watcher.open(server)
        watcher.pull(feed)
    assert "server" not in watcher.topology.nodes, "its stamp was an hour ahead of a slow clock"
    beats = [watcher.reader.receive(feed.heartbeat(), source="server") for _ in range(3)]
    assert [received.diverged for received in beats] == [False, False, True]
    watcher.pull(watcher.open(server))
    assert "server" in watcher.topology.nodes


def test_sides_that_stay_apart_for_a_reason_try_ever_more_rarely(side: MakeSide) -> None:
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


def test_one_heartbeat_that_agrees_does_not_make_it_impatient_again(side: MakeSide) -> None:
    watcher = side("watcher")
    apart = mesh_pb2.WatchResponse(digest=b"another")

    def beats_until_apart() -> int:
        return next(
            beat
            for beat in itertools.count(1)
            if watcher.reader.receive(apart, source="server").diverged
        )

    patience = []
    for _ in range(4):
        agreed = mesh_pb2.WatchResponse(digest=watcher.topology.digest)
        watcher.reader.receive(agreed, source="server")
        patience.append(beats_until_apart())
    assert patience == [3, 6, 12, 24]
    for _ in range(48):
        agreed = mesh_pb2.WatchResponse(digest=watcher.topology.digest)
        watcher.reader.receive(agreed, source="server")
    assert beats_until_apart() == 3, "it was in order for as long as it would have waited"


def test_a_chain_that_would_swell_every_feed_is_refused(side: MakeSide) -> None:
    server, watcher = side("server"), side("watcher")
    junk = (*server.chain, *[server.chain[0]] * 50)
    with pytest.raises(InvalidRecordError, match="51 certificates"):
        watcher.verifier.add_chain(junk)


def test_nobody_may_vouch_without_bound(
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


GREETER = ServiceInfo("greeter", "v1")


class Client(Side):
    """A client that asks for some services only."""

    def __init__(self, tls: TLSConfig, *services: ServiceInfo) -> None:
        super().__init__(tls, is_node=False)
        self.reader = FeedReader(
            self.topology, self.verifier, trusts_statuses=True, services=services
        )
        self.events: list[str] = []
        self.topology.subscribe(lambda event: self.events.append(f"{event.kind} {event.node.id}"))

    @property
    def nodes(self) -> list[str]:
        return list(self.topology.nodes)


@pytest.fixture
def client(ca: CertificateAuthority) -> Client:
    return Client(ca.issue_in_memory("client"), GREETER)


def vouch(side: Side, node_id: str, *services: str) -> None:
    wanted = tuple(ServiceInfo(*service.split("/")) for service in services)
    side.topology.vouch(NodeInfo(node_id, address="10.0.0.1:1", services=wanted))


def test_a_feed_of_some_services_tells_of_their_providers_only(
    server: Side, client: Client
) -> None:
    vouch(server, "one", "greeter/v1", "other/v1")
    vouch(server, "two", "greeter/v2")
    vouch(server, "three", "other/v1")
    feed = client.open(server)
    assert [received.complete for received in client.pull(feed)] == [True]
    assert client.nodes == client.told == ["one"]
    vouch(server, "four", "greeter/v1")
    vouch(server, "five", "other/v1")
    client.pull(feed)
    assert client.nodes == ["four", "one"]


def test_a_service_without_a_version_means_all_of_them(
    server: Side, ca: CertificateAuthority
) -> None:
    client = Client(ca.issue_in_memory("client"), ServiceInfo("greeter", ""))
    vouch(server, "one", "greeter/v1")
    vouch(server, "two", "greeter/v2")
    vouch(server, "three", "greeter-of-others/v1")
    client.pull(client.open(server))
    assert client.nodes == ["one", "two"]


def test_who_stops_providing_it_goes_and_comes_back_with_it(server: Side, client: Client) -> None:
    vouch(server, "one", "greeter/v1")
    vouch(server, "two", "greeter/v1")
    feed = client.open(server)
    client.pull(feed)
    vouch(server, "one", "other/v1")
    client.pull(feed)
    assert (client.told, client.nodes) == (["one"], ["two"])
    vouch(server, "one", "another/v1")
    assert client.pull(feed) == [], "it was told that this one stopped, and that is all"
    vouch(server, "one", "greeter/v1")
    client.pull(feed)
    assert client.nodes == ["one", "two"]
    assert client.events[-2:] == ["left one", "joined one"]


def test_who_leaves_goes_and_an_older_record_does_not_bring_it_back(
    server: Side, client: Client
) -> None:
    vouch(server, "one", "greeter/v1")
    feed = client.open(server)
    client.pull(feed)
    (replayed,) = client.received
    server.topology.unvouch("one")
    client.pull(feed)
    assert (client.told, client.nodes) == (["one"], [])
    replayed.complete = False
    client.reader.receive(replayed, source="server")
    assert client.nodes == []
    server.topology.unvouch("never-told")
    assert client.pull(feed) == []


def test_a_replayed_record_without_the_service_removes_nobody(server: Side, client: Client) -> None:
    vouch(server, "one", "other/v1")
    before = server.record("one")
    vouch(server, "one", "greeter/v1")
    feed = client.open(server)
    client.pull(feed)
    client.reader.receive(mesh_pb2.WatchResponse(records=[before]), source="server")
    assert client.nodes == ["one"]


def test_a_server_that_tells_of_others_is_not_listened_to(server: Side, client: Client) -> None:
    vouch(server, "one", "other/v1")
    everything = server.serve(mesh_pb2.WatchRequest(mesh=MESH), "client")
    client.reader.request(MESH, source="server")
    for message in everything.messages():
        client.reader.receive(message, source="server")
    assert client.nodes == []


def test_another_server_is_believed_on_who_is_there_at_all(
    server: Side, side: MakeSide, client: Client
) -> None:
    other = side("other", "greeter")
    vouch(server, "gone", "greeter/v1")
    server.pull(server.open(other))
    client.pull(client.open(server))
    assert client.nodes == ["gone", "other"]
    feed = client.open(other)
    assert client.nodes == ["gone", "other"], "until the other one has told all it knows"
    client.pull(feed)
    assert client.nodes == ["other"]


def test_a_feed_of_some_services_has_neither_cursor_nor_digest_and_is_never_apart(
    server: Side, client: Client
) -> None:
    vouch(server, "one", "greeter/v1")
    feed = client.open(server)
    client.pull(feed)
    beat = feed.heartbeat()
    assert (beat.digest, beat.version) == (b"", server.topology.version)
    assert [(m.cursor, m.digest) for m in client.received] == [(b"", b"")]
    request = client.reader.request(MESH, source="server")
    assert (request.cursor, request.digest) == (b"", b"")
    assert not any(client.reader.receive(beat, source="server").diverged for _ in range(10))


def test_a_cursor_does_not_skip_what_a_feed_of_some_services_begins_with(
    server: Side, side: MakeSide
) -> None:
    vouch(server, "one", "greeter/v1")
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(server))
    request = watcher.reader.request(MESH, source="server")
    request.services.add(name="greeter", version="v1")
    (message,) = server.serve(request, "watcher").messages()
    assert len(message.records) == 1


def test_statuses_come_of_those_that_were_asked_for(server: Side, client: Client) -> None:
    vouch(server, "one", "greeter/v1")
    vouch(server, "two", "other/v1")
    feed = client.open(server)
    client.pull(feed)
    set_status(server, "two", SUSPECTED)
    assert client.pull(feed) == []
    set_status(server, "one", SUSPECTED)
    client.pull(feed)
    assert client.topology.nodes["one"].status is SUSPECTED
    vouch(server, "two", "greeter/v1")
    client.pull(feed)
    assert client.topology.nodes["two"].status is SUSPECTED, "it was so before it was told of"


def test_a_client_that_goes_by_a_nodes_id_hears_what_that_node_told(
    server: Side, side: MakeSide
) -> None:
    node, client = side("node"), side("node", is_node=False)
    feed = client.open(server)
    client.pull(feed)
    vouch_for(node, ["x"])
    server.pull(server.open(node))
    client.pull(feed)
    assert {"node", "x"} <= set(client.told)


def test_a_cursor_is_void_once_another_server_told_something(
    server: Side, side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery.feed._writer.CHUNK", 1)
    other, client = side("other"), side("client", is_node=False)
    client.pull(client.open(server))
    client.reader.receive(next(iter(client.open(other).messages())), source="other")
    assert client.reader.request(MESH, source="server").cursor == b""


def test_a_slow_watcher_gets_the_latest_of_each_node_and_is_not_waited_for(
    server: Side, side: MakeSide
) -> None:
    vouch_for(server, ["x"])
    watcher = side("watcher", is_node=False)
    feed = watcher.open(server)
    watcher.pull(feed)
    for round_ in range(300):
        vouch(server, "x", f"service-{round_}/v1")
        vouch(server, f"y-{round_ % 3}", "other/v1")
    assert held_by(server) == 5, "nothing is kept for the one that reads slowly"
    watcher.pull(feed)
    assert sorted(watcher.told) == ["x", "y-0", "y-1", "y-2"]
    assert watcher.topology.get_service_providers("service-299", "v1")


def held_by(side: Side) -> int:
    return len(side.topology.changes_since(0).entries)


def test_a_message_of_more_pieces_than_any_honest_one_is_left_unread(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    reader = side("reader")
    flood = mesh_pb2.WatchResponse(records=[server.record()])
    flood.records.extend(mesh_pb2.SignedRecord() for _ in range(100_000))
    assert not reader.reader.receive(flood, source="liar").complete
    statuses = mesh_pb2.WatchResponse(complete=True)
    statuses.statuses.extend(mesh_pb2.DerivedStatus() for _ in range(100_000))
    assert not reader.reader.receive(statuses, source="liar").complete
    assert list(reader.topology.nodes) == ["reader"]
    (logged,) = [record.message for record in caplog.records]
    assert logged.startswith("from liar: a message of 100001 records")


def test_a_source_that_sends_rubbish_all_the_time_does_not_fill_the_log(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    reader = side("reader")
    rubbish = mesh_pb2.WatchResponse()
    rubbish.records.extend(mesh_pb2.SignedRecord(body=b"\xff%d" % i) for i in range(1000))
    for source in ("liar", "other-liar"):
        reader.reader.receive(rubbish, source=source)
        reader.reader.receive(rubbish, source=source)
    lines = [record.message for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["from liar", "from other-liar"]


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (mesh_pb2.WatchRequest(cursor=bytes(65_536)), "the limit is 65536"),
        (
            mesh_pb2.WatchRequest(services=[mesh_pb2.Service(name="x")] * 65),
            "65 services were requested, the limit is 64",
        ),
        (
            mesh_pb2.WatchRequest(services=[mesh_pb2.Service(name="x" * 257)]),
            "256 characters at most",
        ),
        (
            mesh_pb2.WatchRequest(services=[mesh_pb2.Service(name="x", version="1" * 257)]),
            "256 characters at most",
        ),
        (mesh_pb2.WatchRequest(services=[mesh_pb2.Service(version="v1")]), "has no name"),
        (
            mesh_pb2.WatchRequest(
                services=[mesh_pb2.Service(name="x")], record=mesh_pb2.SignedRecord()
            ),
            "a node needs the whole feed",
        ),
        (mesh_pb2.WatchRequest(services=[mesh_pb2.Service(name="x")] * 64), ""),
        (mesh_pb2.WatchRequest(record=mesh_pb2.SignedRecord(body=bytes(4096))), ""),
    ],
)
def test_a_request_beyond_what_a_feed_takes_is_refused(
    request_: mesh_pb2.WatchRequest, problem: str
) -> None:
    why = request_problem(request_)
    assert problem in why
    assert bool(problem) == bool(why)


def checks_of(message: mesh_pb2.WatchResponse) -> int:
    chains = sum(len(chain.certificates) for chain in message.chains)
    return len(message.records) + len(message.verdicts) + chains


def test_a_large_message_is_taken_in_by_parts_that_stand_alone(
    server: Side, side: MakeSide
) -> None:
    for number in range(MAX_CHECKS):
        voucher = side(f"voucher-{number}")
        vouch_for(voucher, [f"go-{number}-{i}" for i in range(3)])
        server.pull(server.open(voucher))
        server.topology.publish_verdict(voucher.id, Opinion.SUSPECT)
    watcher = side("watcher")
    whole = mesh_pb2.WatchResponse()
    for message in watcher.open(server).messages():
        whole.MergeFrom(message)
    cut = list(split_message(whole))
    assert len(cut) > 5
    assert max(map(checks_of, cut)) <= MAX_CHECKS + 1
    assert sum(map(checks_of, cut)) == checks_of(whole)
    outcomes = []
    for part in cut:
        outcomes.append(watcher.reader.receive(part, source="server"))
        watcher.verifier.retain(watcher.topology.signers)
    assert [received.complete for received in outcomes] == [False] * (len(cut) - 1) + [True]
    assert [bool(part.cursor) for part in cut] == [False] * (len(cut) - 1) + [True]
    assert watcher.topology.nodes.keys() == server.topology.nodes.keys() | {"watcher"}
    assert all(watcher.topology.get_verdict(f"voucher-{i}", "server") for i in range(MAX_CHECKS))
    assert watcher.open(server).heartbeat().digest == server.topology.digest


def test_chains_that_nothing_needs_come_a_few_at_a_time(server: Side, other_ca: Any) -> None:
    stranger = Side(other_ca.issue_in_memory("stranger"))
    junk = mesh_pb2.Chain(certificates=[*server.chain, *stranger.chain * 7])
    needless = mesh_pb2.Chain(certificates=stranger.chain * 8)
    good = mesh_pb2.Chain(certificates=server.chain)
    message = mesh_pb2.WatchResponse(
        chains=[good, *[junk, needless] * 50, mesh_pb2.Chain()], records=[server.record()]
    )
    cut = list(split_message(message))
    assert max(map(checks_of, cut)) <= MAX_CHECKS + 8
    assert [len(part.records) for part in cut] == [0] * (len(cut) - 1) + [1]
    assert list(cut[-1].chains)[-1] == good
    assert sum(len(part.chains) for part in cut) == 102


def test_a_message_that_is_left_unread_is_not_cut() -> None:
    flood = mesh_pb2.WatchResponse(chains=[mesh_pb2.Chain()] * 5000)
    assert [len(part.chains) for part in split_message(flood)] == [5000]


class Tape:
    """The messages of a feed, as `follow` reads them off a channel."""

    def __init__(self, *messages: mesh_pb2.WatchResponse) -> None:
        self._messages = list(messages)

    def unary_stream(self, *_: object, **__: object) -> Callable[..., Tape]:
        return lambda _request: self

    async def read(self) -> object:
        return self._messages.pop(0) if self._messages else grpc.aio.EOF

    def cancel(self) -> None:
        """As a call."""


async def test_others_have_their_turn_while_a_large_message_is_taken_in(
    server: Side, side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery._client.follow.SLICE", 0.0)
    for number in range(150):
        vouch(server, f"go-{number}")
    watcher = side("watcher")
    (message,) = watcher.open(server).messages()
    known: list[int] = []

    async def look() -> None:
        while True:
            known.append(len(watcher.topology.nodes))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    request = watcher.reader.request(MESH, source="server")
    feed: Any = Tape(message)
    await follow(feed, watcher.reader, request, source="server", on_message=lambda _: None)
    looking.cancel()
    assert len(watcher.topology.nodes) == 152
    assert len(set(known)) >= 5, "it saw them come"


def test_a_cursor_is_sent_to_nobody_but_the_server_that_gave_it(
    server: Side, side: MakeSide
) -> None:
    client = side("client", is_node=False)
    client.pull(client.open(server))
    assert client.reader.request(MESH, source="server").cursor
    assert client.reader.request(MESH, source="other").cursor == b""
    assert client.reader.request(MESH, source="server").cursor, "for when it comes back to it"


def test_a_cursor_that_would_swell_every_request_is_left(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    client = side("client", is_node=False)
    client.pull(client.open(server))
    client.reader.receive(mesh_pb2.WatchResponse(cursor=bytes(100_000)), source="server")
    assert client.reader.request(MESH, source="server").cursor == b""
    (logged,) = [record.message for record in caplog.records]
    assert logged == "from server: a cursor of 100000 bytes was ignored; the limit is 64"
    client.pull(client.open(server))
    assert client.reader.request(MESH, source="server").cursor


def test_certificates_that_sign_nothing_any_more_are_forgotten_by_a_feed(
    server: Side, side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery.feed._writer.MIN_CHAINS_SENT", 4)
    watcher = side("watcher")
    feed = watcher.open(server)
    peers = [side(f"peer-{number}") for number in range(20)]
    for peer in peers:
        server.pull(server.open(peer))
        watcher.pull(feed)
        server.topology.remove_revoked({peer.tls.fingerprint})
        watcher.topology.remove_revoked({peer.tls.fingerprint})
        assert len(feed._chains_sent) <= 2 * 2 + 4 + 1
    watcher.verifier.retain(watcher.topology.signers)
    server.pull(server.open(peers[0]))
    watcher.pull(feed)
    assert watcher.chains == 1, "the watcher has forgotten it as well"
    assert "peer-0" in watcher.topology.nodes


def test_a_chain_that_cannot_be_read_leaves_the_rest_of_the_message(
    server: Side, side: MakeSide, odd_certificate: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader = side("reader")
    chains = [mesh_pb2.Chain(certificates=chain) for chain in ([odd_certificate], server.chain)]
    message = mesh_pb2.WatchResponse(chains=chains, records=[server.record()])
    reader.reader.receive(message, source="teller")
    assert list(reader.topology.nodes) == ["reader", "server"]
    assert "from teller: record of an unknown node refused: its certificate does not" in caplog.text
