"""Feeds between regions: a bridge receives what the server's own region wrote, and no more."""

from __future__ import annotations

import pytest
from aegis_discovery import NodeInfo, NodeStatus
from aegis_discovery.feed import FeedReader, request_problem
from aegis_discovery.feed._divergence import DIVERGED_AFTER
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import Opinion

from .conftest import MESH, MakeSide, Side, set_status


def place(side: Side, region: str, **changes: str) -> None:
    side.topology.add_node(NodeInfo(side.id, address="10.0.0.1:1", region=region, **changes))


@pytest.fixture
def eu(side: MakeSide) -> list[Side]:
    """Two nodes of a region, of which the first knows a node of another region too."""
    sides = [side("eu-1"), side("eu-2"), side("us-1")]
    for one, region in zip(sides, ("eu", "eu", "us"), strict=True):
        place(one, region)
    for other in sides[1:]:
        sides[0].pull(sides[0].open(other))
    return sides


@pytest.fixture
def bridge(side: MakeSide) -> Side:
    made = side("asia-1")
    place(made, "asia")
    made.reader = FeedReader(made.topology, made.verifier, trusts_statuses=False, region="eu")
    return made


def test_a_feed_of_a_region_brings_its_records_and_verdicts_only(
    eu: list[Side], bridge: Side
) -> None:
    server, other, far = eu
    server.topology.publish_verdict("eu-2", Opinion.SUSPECT)
    server.topology.publish_verdict("us-1", Opinion.SUSPECT)
    feed = bridge.open(server)
    bridge.pull(feed)
    assert set(bridge.topology.nodes) == {"asia-1", "eu-1", "eu-2"}
    assert bridge.topology.get_verdicts("eu-2")
    assert bridge.topology.region_digest("eu") == server.topology.region_digest("eu")
    assert bridge.topology.digest != server.topology.digest

    place(far, "us", name="changed")
    server.pull(server.open(far))
    server.topology.publish_verdict("us-1", Opinion.FAILED)
    assert bridge.pull(feed) == [], "nor an empty message: there would be one for every change"
    place(other, "eu", name="changed")
    server.pull(server.open(other))
    bridge.pull(feed)
    assert bridge.received_ids == ["eu-2"]
    assert bridge.topology.nodes["eu-2"].name == "changed"


def test_tombstones_of_the_region_follow_and_heartbeats_agree(eu: list[Side], bridge: Side) -> None:
    server, other, far = eu
    feed = bridge.open(server)
    bridge.pull(feed)
    for one in (other, far):
        one.topology.remove_node(one.id)
        server.pull(server.open(one))
    bridge.pull(feed)
    assert bridge.received_ids == ["eu-2"]
    assert set(bridge.topology.nodes) == {"asia-1", "eu-1"}
    results = [
        bridge.reader.receive(feed.heartbeat(), source="eu-1") for _ in range(2 * DIVERGED_AFTER)
    ]
    assert not any(result.diverged for result in results)


def test_a_reader_that_lacks_a_record_of_the_region_opens_the_feed_again(
    eu: list[Side], bridge: Side
) -> None:
    server, *_ = eu
    feed = bridge.open(server)
    bridge.pull(feed)
    place(server, "eu", name="changed")
    results = [
        bridge.reader.receive(feed.heartbeat(), source="eu-1") for _ in range(DIVERGED_AFTER)
    ]
    assert results[-1].diverged
    again = bridge.open(server)
    bridge.pull(again)
    assert bridge.topology.nodes["eu-1"].name == "changed"
    bridge.pull(bridge.open(server))
    assert bridge.received_ids == [], "both hold the same, so no record is sent"


def test_a_node_that_moved_is_in_the_feeds_of_its_new_region(eu: list[Side], bridge: Side) -> None:
    server, other, _ = eu
    feed = bridge.open(server)
    bridge.pull(feed)
    place(other, "us")
    server.pull(server.open(other))
    assert bridge.pull(feed) == []
    assert server.topology.region_digest("eu") != bridge.topology.region_digest("eu")
    bridge.reader = FeedReader(bridge.topology, bridge.verifier, trusts_statuses=False, region="us")
    bridge.pull(bridge.open(server))
    assert bridge.topology.region_digest("eu") == server.topology.region_digest("eu")


def test_only_a_node_may_request_a_feed_of_a_region() -> None:
    request = mesh_pb2.WatchRequest(mesh=MESH, region="")
    assert request_problem(request) == "only a node may request the records of one region"
    request.record.body = b"record"
    assert request_problem(request) == ""


def test_a_server_cannot_forge_what_its_region_wrote(eu: list[Side], bridge: Side) -> None:
    server, *_ = eu
    [message] = bridge.open(server).messages()
    for record in message.records:
        body = mesh_pb2.RecordBody.FromString(record.body)
        body.address = "10.6.6.6:1"
        record.body = body.SerializeToString()
    bridge.reader.receive(message, source="eu-1")
    assert set(bridge.topology.nodes) == {"asia-1"}


def test_a_client_is_told_that_a_node_is_unreachable(eu: list[Side], side: MakeSide) -> None:
    server, *_ = eu
    client = side("client", is_node=False)
    feed = client.open(server)
    client.pull(feed)
    for status in (NodeStatus.UNREACHABLE, NodeStatus.ALIVE):
        set_status(server, "us-1", status)
        client.pull(feed)
        assert client.topology.nodes["us-1"].status is status


def test_a_bridge_notices_that_others_know_more_of_its_own_region(
    eu: list[Side], bridge: Side
) -> None:
    server, *_ = eu
    feed = bridge.open(server)
    bridge.pull(feed)

    def heartbeats() -> list[bool]:
        return [
            bridge.reader.receive(feed.heartbeat(), source="eu-1").lacks_home
            for _ in range(DIVERGED_AFTER)
        ]

    server.pull(server.open(bridge))
    assert heartbeats() == [False] * DIVERGED_AFTER
    place(bridge, "asia", name="changed")
    server.pull(server.open(bridge))
    server.topology.merge_records([r for r in [bridge.topology.get_record("asia-1")] if r])
    assert not any(heartbeats())
    place(bridge, "asia", name="changed again")
    assert heartbeats() == [False, False, True]
    assert not any(heartbeats()), "it asks less often if that does not help"


def test_a_bridge_notices_that_a_node_knows_other_regions(
    eu: list[Side], bridge: Side, side: MakeSide
) -> None:
    server, *_ = eu
    feed = bridge.open(server)
    bridge.pull(feed)
    server.pull(server.open(bridge))

    def heartbeats() -> list[bool]:
        return [
            bridge.reader.receive(feed.heartbeat(), source="eu-1").lacks_regions
            for _ in range(DIVERGED_AFTER)
        ]

    bridge.reader = FeedReader(bridge.topology, bridge.verifier, trusts_statuses=False)
    bridge.pull(bridge.open(server))
    assert bridge.topology.regions_digest == server.topology.regions_digest
    assert not any(heartbeats())
    place(server, "eu", name="changed")
    assert not any(heartbeats()), "its records change, its regions do not"
    moon = side("moon-1")
    place(moon, "moon")
    server.pull(server.open(moon))
    assert heartbeats() == [False, False, True]
    assert not any(heartbeats()), "it asks less often if that does not help"
    bridge.pull(bridge.open(server))
    assert bridge.topology.regions_digest == server.topology.regions_digest
    bridge.topology.remove_node("asia-1")
    assert bridge.topology.regions_digest != server.topology.regions_digest


def test_a_client_and_a_node_of_one_region_are_not_told_which_regions_there_are(
    eu: list[Side],
) -> None:
    server, other, _ = eu
    assert other.open(server).heartbeat().regions_digest == b""
