from __future__ import annotations

from collections import Counter

import pytest
from aegis_certs import owner_of
from aegis_core._membership.bridge import AVOIDED, RETRY, SILENT_AFTER, Bridge
from aegis_core._membership.failure_detector import SUSPECT_AFTER
from aegis_core._membership.regions import BRIDGES, MAX_REGIONS, TAKE_UP_AFTER, Regions
from aegis_core._membership.rings import RINGS, Rings
from aegis_discovery import NodeInfo

NAMES = ("eu", "us", "")
NOBODY: frozenset[str] = frozenset()


def node(node_id: str, region: str, boundary: str = "region") -> NodeInfo:
    return NodeInfo(node_id, address="10.0.0.1:1", region=region, boundary=boundary)


def mesh(size: int = 20, *names: str) -> Regions:
    regions = Regions()
    for name in names or NAMES:
        for number in range(size):
            regions.place(node(f"{name or 'home'}-{number}", name), can_observe=True)
    regions.settle(0.0)
    return regions


def test_observers_are_of_the_same_region_and_an_empty_name_is_a_region() -> None:
    regions = mesh()
    assert regions.names() == ["", "eu", "us"]
    for name in NAMES:
        alone = Rings()
        for node_id in regions.members(name):
            alone.place(node_id, can_observe=True)
        for node_id in regions.members(name):
            assert regions.observers(node_id) == alone.observers(node_id)
            assert regions.subjects(node_id) == alone.subjects(node_id)
            assert len(regions.observers(node_id)) <= RINGS


def test_one_node_without_a_boundary_ends_it_at_once_and_for_a_while() -> None:
    regions = mesh()
    flat = Rings()
    for name in NAMES:
        for node_id in regions.members(name):
            flat.place(node_id, can_observe=True)
    flat.place("old", can_observe=True)
    assert regions.place(node("old", "eu", boundary=""), can_observe=True)
    assert regions.settle(1.0)
    assert not regions.is_bounded
    assert regions.lacking == "old"
    assert regions.names() == []
    assert regions.bridges("eu") == ()
    assert regions.observers("eu-1") == flat.observers("eu-1")
    assert regions.region_of("eu-1") is None

    regions.place(node("old", "eu"), can_observe=True)
    assert not regions.settle(1.0 + TAKE_UP_AFTER / 2)
    assert regions.settle(1.0 + TAKE_UP_AFTER)
    assert regions.is_bounded
    assert regions.region_of("old") == "eu"


@pytest.mark.parametrize(
    "spoiler",
    [
        [node("x", "eu", boundary="zone")],
        [node("x", "long" * 9)],
        [node(f"x#{number}", f"made-up-{number}") for number in range(MAX_REGIONS)],
    ],
    ids=["another boundary", "a long name", "too many regions"],
)
def test_what_ends_the_boundaries(spoiler: list[NodeInfo]) -> None:
    regions = mesh()
    for one in spoiler:
        regions.place(one, can_observe=True)
    assert regions.settle(0.0)
    assert not regions.is_bounded


def test_a_region_has_three_bridges_of_three_identities_that_live() -> None:
    regions = mesh(20, "eu")
    before = regions.bridges("eu")
    assert len(before) == BRIDGES
    for number in range(60):
        regions.place(node(f"{before[0]}#{number}", "eu"), can_observe=True)
    workers = regions.bridges("eu")
    assert [owner_of(bridge) for bridge in workers] == list(before)
    for node_id in [i for i in regions.members("eu") if owner_of(i) == before[0]]:
        regions.place(node(node_id, "eu"), can_observe=False)
    after = regions.bridges("eu")
    assert after[:2] == before[1:], "the others stay"
    assert len(after) == BRIDGES


def test_every_pair_of_regions_has_three_feeds_from_three_nodes() -> None:
    regions = mesh(50, *(f"r{number}" for number in range(10)))
    served: Counter[str] = Counter()
    feeds = 0
    for name in regions.names():
        chosen: dict[str, set[str]] = {}
        for node_id in regions.members(name):
            bridge = Bridge(node_id, regions)
            bridge.review(NOBODY, 0.0)
            for target, region in bridge.targets(0.0).items():
                assert regions.region_of(target) == region != name
                chosen.setdefault(region, set()).add(target)
                feeds += 1
        assert {len(targets) for targets in chosen.values()} == {BRIDGES}
        served.update(target for targets in chosen.values() for target in targets)
    assert feeds == 270
    assert max(served.values()) < 10, "the load is spread over the nodes of a region"


def test_the_other_bridges_keep_their_nodes_when_one_fails() -> None:
    regions = mesh(100)
    first, second, third = regions.bridges("eu")

    def target(node_id: str) -> dict[str, str]:
        bridge = Bridge(node_id, regions)
        bridge.review(NOBODY, 0.0)
        return bridge.targets(0.0)

    assert len(target(first) | target(second) | target(third)) == 6
    before = target(third)
    regions.place(node(second, "eu"), can_observe=False)
    assert target(third) == before
    assert target(second) == {}


def test_a_bridge_asks_another_node_when_a_feed_ends_and_says_when_none_answers() -> None:
    regions = mesh()
    own = regions.bridges("eu")[0]
    bridge = Bridge(own, regions)
    bridge.review(NOBODY, 0.0)
    first = next(i for i, region in bridge.targets(0.0).items() if region == "us")
    bridge.message_received("us", 1.0)
    bridge.message_received("", SILENT_AFTER)
    bridge.feed_ended(first, "us", 5.0)
    second = next(i for i, region in bridge.targets(5.0).items() if region == "us")
    assert second != first
    assert bridge.dial_at("us") == 5.0 + RETRY
    assert bridge.silent(SILENT_AFTER) == ()
    assert bridge.silent(SILENT_AFTER + 1.0) == ("us",)

    bridge.record_written("us-7", SILENT_AFTER)
    assert "us-7" in bridge.targets(SILENT_AFTER), "it wrote a record, so it runs"
    bridge.feed_ended("us-7", "us", SILENT_AFTER)
    bridge.message_received("us", 10.0)
    assert bridge.silent(10.0 + SUSPECT_AFTER) == ()
    assert first in bridge.targets(5.0 + AVOIDED), "after a while it is the first choice again"


def test_in_a_region_of_one_node_that_node_is_asked_again_and_again() -> None:
    regions = mesh(20, "eu")
    regions.place(node("alone", "us"), can_observe=True)
    bridges = [Bridge(node_id, regions) for node_id in regions.bridges("eu")]
    for bridge in bridges:
        bridge.review(NOBODY, 0.0)
        assert bridge.targets(0.0) == {"alone": "us"}
        bridge.feed_ended("alone", "us", 1.0)
        assert bridge.targets(1.0) == {"alone": "us"}
    regions.place(node("alone", "us"), can_observe=False)
    assert bridges[0].targets(1.0) == {"alone": "us"}, "also if it failed"


def test_a_bridge_asks_failed_nodes_too_while_no_other_one_answers() -> None:
    """Its region may be wrong about all of them: the failed node lives, and the others died."""
    regions = mesh(2)
    regions.place(node("us-0", "us"), can_observe=False)
    bridges = [Bridge(node_id, regions) for node_id in regions.bridges("eu")]
    for bridge in bridges:
        bridge.review(NOBODY, 0.0)
        assert "us-1" in bridge.targets(0.0), "also where another bridge reads it already"
        bridge.feed_ended("us-1", "us", 1.0)
        assert "us-0" in bridge.targets(1.0)
        bridge.feed_ended("us-0", "us", 2.0)
        assert "us-1" in bridge.targets(2.0), "the one that was asked longest ago"


def test_a_new_bridge_says_what_the_others_said_until_it_hears_the_region() -> None:
    regions = mesh()
    bridge = Bridge(regions.bridges("eu")[0], regions)
    bridge.review(frozenset({"us"}), 0.0)
    assert bridge.silent(0.0) == ("us",)
    bridge.message_received("us", 1.0)
    assert bridge.silent(1.0) == ()


def test_copies_of_regions_change_on_their_own() -> None:
    regions = mesh()
    copied = regions.copy()
    copied.place(node("new", "us"), can_observe=True)
    copied.remove("eu-1")
    assert "new" not in regions.members("us")
    assert "eu-1" in regions.members("eu")
    assert regions.observers("eu-1")
    assert len(copied) == len(regions)
