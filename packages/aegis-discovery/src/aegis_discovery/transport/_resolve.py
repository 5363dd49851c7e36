"""The addresses behind the host name of a seed peer."""

from __future__ import annotations

import random
import socket

from aegis_discovery._runtime.addresses import SeedPeer, join_address, split_address


def resolve_seed(seed: SeedPeer) -> tuple[SeedPeer, ...]:
    """Returns all addresses of a seed peer's host name, in random order; blocks.

    Each address may be another node, which proves its own id. A name with one address, or one that
    cannot be resolved now, stays as it is.
    """
    host, port = split_address(seed.address)
    try:
        # As bytes, because a text makes Python load its tables of international names.
        found = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
    except OSError:
        return (seed,)
    addresses = list({join_address(str(where[0]), port) for *_, where in found})
    if len(addresses) == 1:
        return (seed,)
    random.shuffle(addresses)
    return tuple(SeedPeer(address, seed.node_id) for address in addresses)
