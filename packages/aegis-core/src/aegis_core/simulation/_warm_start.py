"""The state of the nodes of a mesh that has been idle for long: made once, and copied."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Mapping
from typing import Any, TypeVar

from aegis_discovery import NodeInfo, Topology
from aegis_discovery.records import RecordSigner

from aegis_core._membership.regions import Regions
from aegis_core.simulation._world import World, address_of

_T = TypeVar("_T")


def shared_state(
    world: World[Any], signers: Mapping[str, RecordSigner], boundary: str = ""
) -> tuple[Topology, Regions]:
    wall = world.wall_clock("")
    known, regions = Topology(clock=wall), Regions()
    stamp = int(wall() * 1000)
    known.merge_records(
        world.decoder.share(
            signer.sign_record(
                node_id,
                stamp,
                NodeInfo(
                    node_id,
                    address=address_of(node_id),
                    region=world.network.regions.get(node_id, ""),
                    boundary=boundary,
                ),
            )
        )
        for node_id, signer in signers.items()
    )
    for node in known.nodes.values():
        regions.place(node, can_observe=True)
    regions.settle(world.clock.now)
    return known, regions


def copy_topology(source: Topology, target: Topology) -> None:
    """Copies the records of a topology, without the cost of merging them."""
    store = clone(source._store)  # noqa: SLF001 - 1 000 merges of 1 000 records cost too much
    store.nodes = store.nodes.copy()
    # No simulated node provides a service, and each node limits its own log lines.
    store.providers, store._log_limiter = (  # noqa: SLF001 - as above
        target._store.providers,  # noqa: SLF001 - as above
        target._store._log_limiter,  # noqa: SLF001 - as above
    )
    target._store, target._version = store, source.version  # noqa: SLF001 - as above


def clone(holder: _T) -> _T:
    """Copies an object and its containers; the values in these never change, and are shared."""
    copied = copy.copy(holder)
    for name, part in vars(holder).items():
        setattr(copied, name, _copied(part))
    return copied


def _copied(value: object) -> object:
    if isinstance(value, list):
        return [_copied(part) for part in value] if value and _is_container(value[0]) else [*value]
    return copy.copy(value) if _is_container(value) else value


def _is_container(value: object) -> bool:
    return isinstance(value, dict | list | set | array)
