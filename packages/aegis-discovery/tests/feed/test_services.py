from __future__ import annotations

import pytest
from aegis_certs import CertificateAuthority, TLSConfig
from aegis_discovery import ServiceInfo
from aegis_discovery.feed import FeedReader
from aegis_discovery.proto import mesh_pb2

from .conftest import MESH, SUSPECTED, MakeSide, Side, set_status, vouch

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


def test_a_feed_of_some_services_sends_their_providers_only(server: Side, client: Client) -> None:
    vouch(server, "one", "greeter/v1", "other/v1")
    vouch(server, "two", "greeter/v2")
    vouch(server, "three", "other/v1")
    feed = client.open(server)
    assert [received.complete for received in client.pull(feed)] == [True]
    assert client.nodes == client.received_ids == ["one"]
    vouch(server, "four", "greeter/v1")
    vouch(server, "five", "other/v1")
    client.pull(feed)
    assert client.nodes == ["four", "one"]


def test_a_service_without_a_version_means_all_versions(
    server: Side, ca: CertificateAuthority
) -> None:
    client = Client(ca.issue_in_memory("client"), ServiceInfo("greeter", ""))
    vouch(server, "one", "greeter/v1")
    vouch(server, "two", "greeter/v2")
    vouch(server, "three", "greeter-of-others/v1")
    client.pull(client.open(server))
    assert client.nodes == ["one", "two"]


def test_a_node_that_stops_providing_a_service_leaves_and_returns_with_it(
    server: Side, client: Client
) -> None:
    vouch(server, "one", "greeter/v1")
    vouch(server, "two", "greeter/v1")
    feed = client.open(server)
    client.pull(feed)
    vouch(server, "one", "other/v1")
    client.pull(feed)
    assert (client.received_ids, client.nodes) == (["one"], ["two"])
    vouch(server, "one", "another/v1")
    assert client.pull(feed) == [], "the server sent only that this node stopped"
    vouch(server, "one", "greeter/v1")
    client.pull(feed)
    assert client.nodes == ["one", "two"]
    assert client.events[-2:] == ["left one", "joined one"]


def test_a_node_that_left_is_removed_and_an_older_record_does_not_restore_it(
    server: Side, client: Client
) -> None:
    vouch(server, "one", "greeter/v1")
    feed = client.open(server)
    client.pull(feed)
    (replayed,) = client.received
    server.topology.unvouch("one")
    client.pull(feed)
    assert (client.received_ids, client.nodes) == (["one"], [])
    replayed.complete = False
    client.reader.receive(replayed, source="server")
    assert client.nodes == []
    server.topology.unvouch("never-told")
    assert client.pull(feed) == []


def test_a_replayed_record_without_the_service_removes_no_node(
    server: Side, client: Client
) -> None:
    vouch(server, "one", "other/v1")
    before = server.record("one")
    vouch(server, "one", "greeter/v1")
    feed = client.open(server)
    client.pull(feed)
    client.reader.receive(mesh_pb2.WatchResponse(records=[before]), source="server")
    assert client.nodes == ["one"]


def test_records_of_nodes_that_were_not_requested_are_ignored(server: Side, client: Client) -> None:
    vouch(server, "one", "other/v1")
    everything = server.serve(mesh_pb2.WatchRequest(mesh=MESH), "client")
    client.reader.request(MESH, source="server")
    for message in everything.messages():
        client.reader.receive(message, source="server")
    assert client.nodes == []


def test_another_server_decides_which_nodes_exist(
    server: Side, side: MakeSide, client: Client
) -> None:
    other = side("other", "greeter")
    vouch(server, "gone", "greeter/v1")
    server.pull(server.open(other))
    client.pull(client.open(server))
    assert client.nodes == ["gone", "other"]
    feed = client.open(other)
    assert client.nodes == ["gone", "other"], "until the other server has sent all that it holds"
    client.pull(feed)
    assert client.nodes == ["other"]


def test_a_feed_of_some_services_has_neither_cursor_nor_digest_and_never_diverges(
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


def test_a_cursor_does_not_skip_the_start_of_a_feed_of_some_services(
    server: Side, side: MakeSide
) -> None:
    vouch(server, "one", "greeter/v1")
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(server))
    request = watcher.reader.request(MESH, source="server")
    request.services.add(name="greeter", version="v1")
    (message,) = server.serve(request, "watcher").messages()
    assert len(message.records) == 1


def test_statuses_are_sent_for_requested_nodes_only(server: Side, client: Client) -> None:
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
    assert client.topology.nodes["two"].status is SUSPECTED, "it was suspected before it was sent"
