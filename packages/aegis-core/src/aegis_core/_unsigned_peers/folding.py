"""How peers that know no workers see them: as one node for each identity. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from aegis_certs import owner_of, parse_worker_id
from aegis_discovery import HealthStatus, NodeInfo, NodeStatus

_RANKS = (NodeStatus.ALIVE, NodeStatus.SUSPECTED, NodeStatus.UNREACHABLE, NodeStatus.FAILED)


def fold_workers(nodes: Mapping[str, NodeInfo]) -> Mapping[str, NodeInfo]:
    """Returns the nodes by identity: the workers of one are a node with all their services.

    It has the address of a worker that is alive, and of the same one until that changes. A node
    that somebody vouches for under the id of an identity that has workers is left out.
    """
    workers: dict[str, list[NodeInfo]] = {}
    for node in nodes.values():
        if "#" in node.id:
            workers.setdefault(owner_of(node.id), []).append(node)
    if not workers:
        return nodes
    folded: dict[str, NodeInfo] = {}
    for node in nodes.values():
        identity = owner_of(node.id)
        siblings = workers.get(identity)
        if siblings is None:
            folded[identity] = node
        elif identity not in folded:
            own = nodes.get(identity)
            is_signed = own is not None and own.vouched_by is None
            folded[identity] = _folded(
                identity, [*siblings, own] if own and is_signed else siblings
            )
    return folded


def _folded(identity: str, workers: Iterable[NodeInfo]) -> NodeInfo:
    first, *others = sorted(workers, key=_order)
    # A failed worker is no reason to call the others for what they do not provide.
    live = [first, *(node for node in others if node.status is not NodeStatus.FAILED)]
    return replace(
        first,
        id=identity,
        name=identity if first.name == first.id else first.name,
        services=tuple(
            sorted({service.key: service for node in live for service in node.services}.values())
        ),
        joined_at=min((node.joined_at for node in live if node.joined_at), default=None),
        updated_at=max((node.updated_at for node in live if node.updated_at), default=None),
    )


def _order(node: NodeInfo) -> tuple[int, bool, int]:
    rank = _RANKS.index(node.status)
    number = parse_worker_id(node.id).number
    return rank, node.health is HealthStatus.UNHEALTHY, -1 if number is None else number
