"""The addresses behind the host name of a seed peer."""

from __future__ import annotations

import asyncio
import random
import socket

from aegis_discovery._runtime.addresses import SeedPeer, join_address, split_address
from aegis_discovery._runtime.daemon_thread import in_daemon_thread
from aegis_discovery.errors import ConnectError

RESOLVE_TIMEOUT = 2.0
"""Seconds for a name. By default systems ask a name server that is silent for ten and more."""


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


class Resolver:
    """Resolves the names of seed peers, and leaves a name server that is silent.

    A look-up cannot be cancelled: it goes on in its thread, and the next try waits for it again.
    """

    def __init__(self) -> None:
        self._pending: dict[SeedPeer, asyncio.Future[tuple[SeedPeer, ...]]] = {}

    async def resolve(self, seed: SeedPeer) -> tuple[SeedPeer, ...]:
        """Returns what `resolve_seed` returns.

        Raises:
            ConnectError: The name server did not answer in time.
        """
        pending = self._pending.get(seed)
        if pending is None:
            pending = self._pending[seed] = in_daemon_thread(resolve_seed, seed)
        await asyncio.wait([pending], timeout=RESOLVE_TIMEOUT)
        if not pending.done():
            cause = f"no name server answered within {RESOLVE_TIMEOUT:g} s"
            raise ConnectError(f"{seed.address}: {cause}", {seed.address: cause})
        self._pending.pop(seed, None)
        return pending.result()
