"""Three regions, each of three hosts, with a cut between one of them and the others."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..mesh.process import PATIENCE, START
from .cluster import Cluster, let_pass
from .network import Network

REGIONS = {"eu": ("eu-1", "eu-2", "eu-3"), "us": ("us-1", "us-2", "us-3"), "asia": ("asia-1",)}
IDS = [node_id for ids in REGIONS.values() for node_id in ids]
FAR = [*REGIONS["us"], *REGIONS["asia"]]


@pytest.fixture
def regions(
    make_network: Callable[[int], Network],
    identity: Callable[[str], Any],
    cert_dir: Path,
    tmp_path: Path,
) -> Iterator[Cluster]:
    network = make_network(len(IDS) + 1)
    for node_id in IDS:
        identity(node_id)
    options = {
        node_id: {"region": region, "boundary": "region"}
        for region, ids in REGIONS.items()
        for node_id in ids
    }
    made = Cluster(network, IDS, cert_dir, tmp_path, options)
    made.start(*IDS)
    made.wait_until_one_mesh(within=START)
    yield made
    made.close()


def wait_status(cluster: Cluster, subjects: Iterable[str], status: str, at: Iterable[str]) -> None:
    """Waits until some nodes see a status of others."""
    deadline = time.monotonic() + PATIENCE
    for observer in at:
        while (seen := cluster.nodes[observer].ask("topology")["topology"]) and any(
            seen.get(subject) != status for subject in subjects
        ):
            assert time.monotonic() < deadline, (observer, seen)
            let_pass(0.1)


def feeds_across(regions: Cluster) -> dict[str, int]:
    return {node_id: regions.nodes[node_id].ask("topology")["across"] for node_id in IDS}


@pytest.mark.soak
def test_a_region_that_is_cut_off_is_unreachable_and_comes_back(regions: Cluster) -> None:
    # With three nodes a region's bridges are all of them, and one node reads two other regions.
    assert feeds_across(regions) == dict.fromkeys(IDS, 2)
    positions = regions.positions()
    hosts = regions.hosts
    regions.network.cut([hosts[i] for i in REGIONS["eu"]], [hosts[i] for i in FAR])
    wait_status(regions, FAR, "unreachable", REGIONS["eu"])
    wait_status(regions, REGIONS["eu"], "unreachable", FAR)
    assert regions.failures(positions) == []

    regions.nodes["eu-3"].signal(signal.SIGKILL)
    wait_status(regions, ["eu-3"], "failed", ["eu-1", "eu-2"])
    regions.network.heal()
    wait_status(regions, ["eu-1", "eu-2"], "alive", FAR)
    wait_status(regions, FAR, "alive", ["eu-1", "eu-2"])
    wait_status(regions, ["eu-3"], "failed", FAR)
    del positions["eu-3"]
    assert {subject for _, subject in regions.failures(positions)} == {"eu-3"}
    regions.start("eu-3")
    regions.wait_until_one_mesh()
