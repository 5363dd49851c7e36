"""Prepares a client before anything is sent, and orders the peers to ask for a feed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_certs import IdentitySource, TLSConfig

from aegis_discovery._model import NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._runtime.addresses import SeedPeer, parse_seed
from aegis_discovery.errors import ConnectError
from aegis_discovery.feed._limits import service_filter_problem
from aegis_discovery.records._record import place_problem

if TYPE_CHECKING:
    from aegis_discovery.enrolment import AnyToken
    from aegis_discovery.registry._address import RegistryAddress


def load_identity(
    node_id: str | None,
    cert_dir: str | Path | None,
    tls: TLSConfig | None,
    token: AnyToken | None,
    mesh: str,
) -> tuple[IdentitySource, TLSConfig]:
    """Loads a client's identity, from `tls` or a directory, or gets it for a token."""
    if tls is not None:
        return IdentitySource.fixed(tls), tls
    if node_id is None and token is not None:
        from aegis_discovery.enrolment import read_token

        node_id = read_token(token).node_id
    if node_id is None:
        raise ConnectError(
            "the client has no identity; pass node_id=... (and cert_dir=...) or tls=..."
        )
    source = None
    if cert_dir is not None:
        source = IdentitySource.directory(node_id, cert_dir, create_ca=False)
    elif token is None:
        raise ConnectError("the client has no identity; pass cert_dir=..., tls=... or token=...")
    if source is not None and token is None:
        return source, source.load()
    from aegis_discovery.enrolment import load_or_enroll  # most clients have an identity

    return load_or_enroll(source, node_id, token, cert_dir, mesh=mesh)


def parse_seeds(seed_peers: Sequence[str]) -> tuple[SeedPeer, ...]:
    if not seed_peers:
        raise ConnectError(
            "no seed peer was given; name one node of the mesh as host:port, or a registry"
        )
    for peer in seed_peers:
        if not isinstance(peer, str):
            raise ConnectError(
                f"{peer!r} is no seed peer; give each as an argument of its own: "
                'connect("host:port", "host:port")'
            )
    return tuple(parse_seed(peer) for peer in seed_peers)


def parse_registry_alone(registry: str, seed_peers: Sequence[str]) -> RegistryAddress:
    """Parses the address of a registry, which takes the place of seed peers."""
    if seed_peers:
        raise ConnectError("a client follows seed peers or a registry; give one of the two")
    from aegis_discovery.registry._address import parse_registry  # few meshes have one

    return parse_registry(registry)


def check_services(services: Collection[ServiceInfo]) -> tuple[ServiceInfo, ...]:
    """Checks that a feed can be limited to these services."""
    is_list = not isinstance(services, str | ServiceInfo)
    if not is_list or not all(isinstance(service, ServiceInfo) for service in services):
        raise ConnectError(
            f"services={services!r} is not a list of services; give [ServiceInfo(name, version)]"
        )
    problem = service_filter_problem(services)
    if problem:
        raise ConnectError(problem)
    return tuple(services)


def check_place(region: str, zone: str) -> None:
    """Checks the names of a client's region and zone."""
    for name, value in (("region", region), ("zone", zone)):
        problem = place_problem(value)
        if problem:
            raise ConnectError(f"{name}: {problem}")


def feed_candidates(
    nodes: Iterable[NodeInfo],
    seeds: Sequence[SeedPeer],
    last: SeedPeer | None,
    region: str = "",
) -> list[SeedPeer]:
    """Returns the peers to ask for a feed, in this order.

    Args:
        nodes: The known nodes of the mesh.
        seeds: The seed peers of the client.
        last: The server of the last feed, if it may be reachable again: it knows the cursor.
        region: The region of the client, whose nodes are asked before others.
    """
    known = [node for node in nodes if node.vouched_by is None]
    random.shuffle(known)
    if region:
        known.sort(key=lambda node: node.region != region)
    # Failed nodes are the last resort: the observers that reported them may have been cut off.
    alive = [SeedPeer(n.address, n.id) for n in known if n.status is NodeStatus.ALIVE]
    others = [SeedPeer(n.address, n.id) for n in known if n.status is not NodeStatus.ALIVE]
    first = [last] if last is not None else []
    return list(dict.fromkeys([*first, *alive, *seeds, *others]))
