from __future__ import annotations

import pytest
from aegis_certs import CertificateAuthority
from aegis_discovery import NodeInfo
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import Opinion

from .conftest import MESH, MakeSide, Side, vouch, vouch_for

MIB = 1 << 20


def test_a_snapshot_of_3000_nodes_is_sent_in_messages_below_one_mebibyte(
    large_server: Side, side: MakeSide
) -> None:
    watcher = side("watcher", is_node=False)
    feed = watcher.open(large_server)
    results = watcher.pull(feed)
    assert len(watcher.received) > 3
    assert max(message.ByteSize() for message in watcher.received) < MIB
    assert watcher.topology.digest == large_server.topology.digest
    assert watcher.topology.version == large_server.topology.version
    # Nothing is complete, and no cursor is passed, before the last message.
    assert [received.complete for received in results] == [False] * (len(results) - 1) + [True]
    assert [bool(message.cursor) for message in watcher.received].count(True) == 1
    assert not any(received.diverged for received in results), "or it would never end"
    assert watcher.chains == 16
    assert watcher.pull(feed) == []


def test_changes_follow_the_snapshot_and_nothing_is_sent_twice(
    server: Side, side: MakeSide
) -> None:
    watcher = side("watcher", is_node=False)
    feed = watcher.open(server)
    watcher.pull(feed)
    assert watcher.received_ids == ["server"]
    server.declare("new")
    server.declare("newer")
    assert [received.complete for received in watcher.pull(feed)] == [False]
    assert watcher.received_ids == ["server"], "two changes of one node are one record"
    assert watcher.chains == 0, "a chain is sent once per stream"
    assert watcher.topology.get_service_providers("newer", "v1")
    server.topology.remove_node("server")
    watcher.pull(feed)
    assert watcher.topology.nodes == {}


def test_a_chain_is_sent_again_only_if_the_watcher_cannot_have_it(
    ca: CertificateAuthority, server: Side, side: MakeSide
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
    assert set(watcher.received_ids) == {"peer", "go-1"}
    assert sum(len(message.verdicts) for message in watcher.received) == 1
    assert watcher.chains == 0, "all of these are of known signers"

    renewed = Side(ca.issue_in_memory("peer"))
    renewed.declare()
    renewed.pull(renewed.open(server))
    renewed.declare("renewed")
    server.pull(server.open(renewed))
    watcher.pull(watcher.open(server))
    assert watcher.topology.get_service_providers("renewed", "v1")
    assert watcher.chains == 1


def test_a_chain_that_is_not_known_for_a_moment_is_sent_with_the_next_record(
    server: Side, side: MakeSide
) -> None:
    """The thread of another feed may ask for it while the node changes its trust bundle."""
    watcher = side("watcher", is_node=False)
    feed = watcher.open(server)
    chain_of = feed._chain_of
    feed._chain_of = lambda _: None
    watcher.pull(feed)
    assert watcher.chains == 0
    feed._chain_of = chain_of
    server.declare("new")
    watcher.pull(feed)
    assert watcher.chains == 1
    assert watcher.topology.get_service_providers("new", "v1")


def test_a_resumed_feed_sends_only_what_was_missed(server: Side, side: MakeSide) -> None:
    vouch_for(server, ("go-1", "go-2"))
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(server))
    vouch_for(server, ("go-3",))
    server.topology.unvouch("go-1")
    watcher.pull(watcher.open(server))
    assert watcher.received_ids == ["go-3", "go-1"]
    assert list(watcher.topology.nodes) == ["go-2", "go-3", "server"]


def test_a_broken_snapshot_starts_again(large_server: Side, side: MakeSide) -> None:
    watcher = side("watcher", is_node=False)
    first = next(iter(watcher.open(large_server).messages()))
    watcher.reader.receive(first, source="server")
    watcher.pull(watcher.open(large_server))
    assert len(watcher.received_ids) == 3001
    assert watcher.topology.digest == large_server.topology.digest


def test_an_unknown_cursor_means_a_snapshot(server: Side, side: MakeSide) -> None:
    other = side("other")
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(other))
    watcher.pull(watcher.open(server))
    assert watcher.received_ids == ["server"]
    assert list(watcher.topology.nodes) == ["other", "server"]


@pytest.mark.parametrize("cursor", [b"", b"short", b"x" * 16, b"x" * 17])
def test_an_invalid_cursor_means_a_snapshot(server: Side, cursor: bytes) -> None:
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
    assert watcher.received_ids == []
    assert [message.complete for message in watcher.received] == [True]
    other.topology.vouch(NodeInfo("gone", address="10.0.0.1:1"))
    other.topology.unvouch("gone")
    again = side("again", is_node=False)
    again.pull(again.open(server))
    again.pull(again.open(other))
    assert "gone" in again.received_ids, "the same live nodes, but another tombstone"


def test_a_watcher_does_not_receive_its_own_changes(server: Side, side: MakeSide) -> None:
    watcher = side("watcher")
    to_server, to_watcher = server.open(watcher), watcher.open(server)
    server.reader.receive(next(iter(to_server.messages())), source="watcher")
    watcher.pull(to_watcher)
    vouch_for(watcher, ["go"])
    for message in to_server.messages():
        server.reader.receive(message, source="watcher")
    assert "go" in server.topology.nodes
    watcher.pull(to_watcher)
    assert watcher.received_ids == []


def test_a_heartbeat_has_version_and_digest_and_moves_no_cursor(
    server: Side, side: MakeSide
) -> None:
    watcher = side("watcher", is_node=False)
    watcher.pull(watcher.open(server))
    before = watcher.reader.request(MESH, source="server").cursor
    beat = watcher.open(server).heartbeat()
    assert (beat.version, beat.digest) == (server.topology.version, server.topology.digest)
    assert not watcher.reader.receive(beat, source="server").complete
    assert watcher.reader.request(MESH, source="server").cursor == before


def test_a_raised_version_is_sent_though_no_record_changed(server: Side, side: MakeSide) -> None:
    watcher = side("watcher", is_node=False)
    feed = watcher.open(server)
    watcher.pull(feed)
    server.topology.advance_version_past(1000)
    watcher.pull(feed)
    assert watcher.topology.version == 1001


def test_a_client_with_the_id_of_a_node_receives_what_that_node_published(
    server: Side, side: MakeSide
) -> None:
    node, client = side("node"), side("node", is_node=False)
    feed = client.open(server)
    client.pull(feed)
    vouch_for(node, ["x"])
    server.pull(server.open(node))
    client.pull(feed)
    assert {"node", "x"} <= set(client.received_ids)


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
    assert held_by(server) == 5, "nothing is queued for the slow watcher"
    watcher.pull(feed)
    assert sorted(watcher.received_ids) == ["x", "y-0", "y-1", "y-2"]
    assert watcher.topology.get_service_providers("service-299", "v1")


def held_by(side: Side) -> int:
    return len(side.topology.changes_since(0).entries)


def test_a_feed_drops_certificates_that_no_record_needs(
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
    assert watcher.chains == 1, "the watcher has forgotten it too"
    assert "peer-0" in watcher.topology.nodes
