"""What connecting needs before anything is sent; shared by the blocking and the async face."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from aegis_certs import IdentitySource, TLSConfig

from aegis_discovery._address import SeedPeer, join_address, parse_seed, split_address
from aegis_discovery._model import NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery.errors import ConnectError
from aegis_discovery.feed._limits import service_filter_problem

DEFAULT_MESH = "aegis"


def client_source(
    node_id: str | None, cert_dir: str | Path, tls: TLSConfig | None
) -> IdentitySource:
    """Tells where the identity comes from: as given, or a directory, where it is kept fresh."""
    if tls is not None:
        return IdentitySource.fixed(tls)
    if node_id is None:
        raise ConnectError("who connects? give node_id=... (and cert_dir=...) or tls=...")
    return IdentitySource.directory(node_id, cert_dir)


def parse_seeds(seed_peers: Sequence[str]) -> tuple[SeedPeer, ...]:
    """Parses seed peers; at least one is needed."""
    if not seed_peers:
        raise ConnectError("no seed peer was given; name one node of the mesh as host:port")
    return tuple(parse_seed(peer) for peer in seed_peers)


def check_services(services: Collection[ServiceInfo]) -> tuple[ServiceInfo, ...]:
    """Checks that a feed can be limited to these services."""
    problem = service_filter_problem(services)
    if problem:
        raise ConnectError(problem)
    return tuple(services)


def resolve(seed: SeedPeer) -> tuple[SeedPeer, ...]:
    """Finds all addresses behind a seed peer's host name, in a random order; blocks.

    Each is a node of its own, and proves its own id: behind a name there may be many. A name that
    has one address, or that cannot be resolved now, stays as it is.
    """
    host, port = split_address(seed.address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return (seed,)
    addresses = list({join_address(str(where[0]), port) for *_, where in found})
    if len(addresses) == 1:
        return (seed,)
    random.shuffle(addresses)
    return tuple(SeedPeer(address, seed.node_id) for address in addresses)


def candidates(
    nodes: Iterable[NodeInfo], seeds: Sequence[SeedPeer], last: SeedPeer | None
) -> list[SeedPeer]:
    """Lists whom to ask for a feed, the best first.

    Args:
        nodes: What is known of the mesh.
        seeds: Addresses that were given.
        last: Who served the last feed, where that may be there again: it knows the cursor.
    """
    known = [node for node in nodes if node.vouched_by is None]
    random.shuffle(known)
    # Those that are said to be dead come last: whoever said so may have been cut off itself.
    alive = [SeedPeer(n.address, n.id) for n in known if n.status is NodeStatus.ALIVE]
    others = [SeedPeer(n.address, n.id) for n in known if n.status is not NodeStatus.ALIVE]
    first = [last] if last is not None else []
    return list(dict.fromkeys([*first, *alive, *seeds, *others]))
