"""Where calls go when a part of the caller's zone is out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from aegis_discovery import (
    Balancer,
    LeastRequests,
    NodeInfo,
    NodeStatus,
    RoundRobin,
    ServiceInfo,
    Topology,
)
from aegis_discovery._calls.registry import EndpointRegistry  # to count picks without calls
from aegis_discovery._calls.views import ViewBuilder
from table import Measured, Row

SERVICE = ServiceInfo("orders", "v1")
ZONE = 3
PICKS = 30_000

logging.getLogger("aegis.pool").setLevel(logging.ERROR)


def share_of_last(nodes: int, make: Callable[[], Balancer], *, have_failed: bool) -> float:
    """Returns the share of the calls that the last of three endpoints in the zone gets."""
    topology = Topology()
    for number in range(nodes):
        zone = "a" if number < ZONE else "b"
        region = "eu" if number < nodes // 2 else "us"
        address = f"10.0.{number >> 8}.{number & 255}:50051"
        topology.add_node(
            NodeInfo(f"n{number}", "", "", address, (SERVICE,), region=region, zone=zone)
        )
    registry: EndpointRegistry[object] = EndpointRegistry(
        topology, balancers={SERVICE.name: make}, views=ViewBuilder("eu", "a")
    )
    service = registry.service(SERVICE.name, SERVICE.version)
    now = time.monotonic()
    for number in range(1, ZONE):
        if have_failed:
            record = topology.get_record(f"n{number}")
            assert record is not None
            topology.set_status(record.id, record.stamp, NodeStatus.FAILED)
        else:  # only this caller cannot reach them
            (lost,) = [e for e in service.view.endpoints if e.node_id == f"n{number}"]
            lost.connection_failed(now)
    picked = Counter(e.node_id for _ in range(PICKS) if (e := service.pick(now)) is not None)
    assert sum(picked.values()) == PICKS
    return picked["n0"] / PICKS


def last_of_zone(nodes: int) -> Measured:
    found = {
        f"{make.__name__}, {'failed' if have_failed else 'not reached'}": share_of_last(
            nodes, make, have_failed=have_failed
        )
        for make in (RoundRobin, LeastRequests)
        for have_failed in (True, False)
    }
    note = "; ".join(f"{how}: {share:.4f}" for how, share in found.items())
    return Measured((max(found.values()),), note)


ROWS = (
    Row(
        "zone",
        "share of all calls on the last of 3 endpoints in the caller's zone (1.4 / 3)",
        (1.4 / ZONE,),
        "of all",
        100,
        last_of_zone,
    ),
)
