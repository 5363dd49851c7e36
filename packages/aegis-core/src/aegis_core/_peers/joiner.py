"""Finds out the node ids of the seed peers, and adds them as peers; tries again for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from aegis_certs import CertsError, owner_of
from aegis_discovery import ConnectError, DiscoveryError, NodeStatus
from aegis_discovery.background import in_daemon_thread, sleep_until_tick
from aegis_discovery.signals import LogLimiter
from aegis_discovery.transport import Resolver, SeedPeer, probe_identity

from aegis_core._peers.info import PeerInfo
from aegis_core._peers.manager import PeerManager
from aegis_core._peers.session import Session
from aegis_core._state import NodeState
from aegis_core.errors import ConfigError, JoinError, PeerNotFoundError

_log = logging.getLogger("aegis.membership")

RETRY = 2.0
"""Seconds between two tries to reach a seed peer that is not watched."""


AT_ONCE = 4
"""Addresses of one host name that are tried at the same time, until a node is found."""


class _Seed:
    """A seed peer as it was given: an address, or a host name with one or more.

    Attributes:
        given: As it was given.
        found: The ids of the nodes that answered, by their addresses.
        failures: Why the others did not, by their addresses.
        is_tried: Whether each address was tried once.
        is_itself: Whether this node answered at one of the addresses, and no other node did.
    """

    def __init__(self, given: SeedPeer) -> None:
        self.given = given
        self.found: dict[SeedPeer, str] = {}
        self.failures: dict[SeedPeer, str] = {}
        self.is_tried = self.is_itself = False


class Joiner:
    """Turns seed addresses into peers; the certificate of the server there has the node id.

    A host name may have the addresses of many nodes, this one among them. They are tried in random
    order until another node answers.
    """

    def __init__(
        self,
        state: NodeState,
        peers: PeerManager,
        session: Session,
        seeds: Sequence[SeedPeer],
        *,
        registry_causes: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self._registry_causes = registry_causes
        self._state = state
        self._peers = peers
        self._session = session
        self._seeds = [_Seed(given) for given in dict.fromkeys(seeds)]
        self._log_limiter = LogLimiter(_log)
        self._resolver = Resolver()
        self._all_tried = asyncio.Event()

    async def run(self) -> None:
        # Each by itself: one that hangs must not delay the next try of the others.
        await asyncio.gather(*(self._keep_looking(seed) for seed in self._seeds))
        await asyncio.Event().wait()

    async def _keep_looking(self, seed: _Seed) -> None:
        while seed in self._seeds:
            await self._look_up(seed)
            await sleep_until_tick(RETRY)
            if self._session.has_joined:
                self._forget_siblings()

    async def wait(self, timeout: float, *, required: bool = False) -> None:
        """Waits, at most `timeout` seconds, until a peer sent its topology, or no seed peer can.

        Args:
            timeout: Seconds.
            required: Wait until a peer sent its topology, and fail if none did.

        Raises:
            JoinError: No peer sent its topology, and it was required.
        """
        if not self._seeds and self._registry_causes is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await (self._state.joined.wait() if required else self._joined_or_tried())
        if not self._state.joined.is_set():
            if required:
                raise JoinError(self._state.node_id, self._why_not())
            _log.warning(
                "%s has not joined yet (%s); it keeps trying",
                self._state.node_id,
                self._why_not(),
            )
        else:
            self._forget_siblings()

    async def wait_for_news(self) -> None:
        """Waits until a peer sent its topology, or until all seed peers are this node itself."""
        await self._joined_or(self._all_tried)
        is_alone = all(seed.is_itself and not seed.failures for seed in self._seeds)
        if self._registry_causes is not None or not is_alone:
            await self._state.joined.wait()

    async def _joined_or_tried(self) -> None:
        """Returns when a peer sent its topology, or when no seed peer could be identified."""
        await self._joined_or(self._all_tried)
        has_found = any(seed.found or seed.given.node_id for seed in self._seeds)
        if self._registry_causes is not None or has_found:
            await self._state.joined.wait()

    async def _joined_or(self, event: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(one.wait()) for one in (self._state.joined, event)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _why_not(self) -> str:
        reasons = [reason for seed in self._seeds for reason in seed.failures.values()]
        reasons += [
            f"{seed.given.address} has not answered yet"
            for seed in self._seeds
            if not seed.is_tried
        ]
        for place, node_id in ((p, i) for seed in self._seeds for p, i in seed.found.items()):
            feed = self._session.feeds.get(node_id)
            why = (feed.problem if feed else "") or "it has not answered yet"
            reasons.append(f"{node_id} at {place.address}: {why}")
        if self._registry_causes is not None:
            causes = self._registry_causes() or {"the registry": "it has not answered yet"}
            reasons += [f"{address}: {why}" for address, why in causes.items()]
        return "; ".join(reasons) or "its only seed peer is itself"

    def _forget_siblings(self) -> None:
        """Drops the seed peers of this node's own identity: its supervisor may replace them."""
        siblings = [
            seed
            for seed in self._seeds
            if seed.given.node_id is not None
            and owner_of(seed.given.node_id) == self._state.identity
        ]
        self._seeds = [seed for seed in self._seeds if seed not in siblings]
        for seed in siblings:
            for node_id in seed.found.values():
                self._forget(node_id)

    async def _look_up(self, seed: _Seed) -> None:
        """Tries the addresses of a seed peer, unless it is known or is not needed any more."""
        has_others = self._state.topology.node_count > 1
        if any(map(self._is_seen, seed.found.values())) or (seed.is_itself and has_others):
            return
        try:
            try:
                places = await self._resolver.resolve(seed.given)
            except ConnectError as error:
                self._failed(seed, seed.given, error.causes[seed.given.address])
                return
            seed.failures = {p: why for p, why in seed.failures.items() if p in places}
            if len(places) > 1:
                seed.found = {p: node_id for p, node_id in seed.found.items() if p in places}
            seed.is_itself = False
            for start in range(0, len(places), AT_ONCE):
                some = places[start : start + AT_ONCE]
                if any(await asyncio.gather(*(self._ask(seed, place) for place in some))):
                    break
        finally:
            seed.is_tried = True
            if all(seed.is_tried for seed in self._seeds):
                self._all_tried.set()

    async def _ask(self, seed: _Seed, place: SeedPeer) -> bool:
        """Finds out which node is at an address; returns whether it is a peer now."""
        known = seed.found.get(place)
        try:
            node_id = place.node_id
            if node_id is None:
                found = await in_daemon_thread(probe_identity, place.address, self._state.tls)
                node_id = found.node_id
            peer, held_at = await self._peers.meet(PeerInfo(owner_of(node_id), place.address))
            if not self._session.has_joined and await self._gives_way(peer, held_at):
                return False
            seed.failures.pop(place, None)
            self._log_limiter.forget(place)
            if peer.id == self._state.node_id:
                seed.is_itself = True
                return False
            if peer.id != known:
                self._peers.add_peer(peer)
                seed.found[place] = peer.id
                if known is not None:
                    self._forget(known)  # another node answers at its address now
        except (DiscoveryError, CertsError, ConfigError) as error:
            self._failed(seed, place, str(error))
            return False
        return True

    def _failed(self, seed: _Seed, place: SeedPeer, reason: str) -> None:
        seed.failures[place] = reason
        line = "seed peer %s: %s"
        self._log_limiter.log_change(logging.INFO, place, reason, line, place.address, reason)

    def _forget(self, node_id: str) -> None:
        """Removes a peer, unless another seed peer is the same node."""
        if not any(node_id in seed.found.values() for seed in self._seeds):
            with contextlib.suppress(PeerNotFoundError):
                self._peers.remove_peer(node_id)

    async def _gives_way(self, seed: PeerInfo, held_at: str) -> bool:
        """Asks the process that has this node's id already, if a seed peer knows one."""
        address = seed.address if seed.id == self._state.node_id else held_at
        if not address:
            return False
        node_id, instance = await self._peers.ask_holder(address)
        return self._session.holder_answered(node_id, instance, address)

    def _is_seen(self, node_id: str) -> bool:
        """Tells whether this node watches a seed peer, or the mesh sees it as alive."""
        feed = self._session.feeds.get(node_id)
        if feed is not None and not feed.problem:
            return True
        node = self._state.topology.get_node(node_id)
        is_alive = node is not None and node.status is NodeStatus.ALIVE
        return is_alive and self._state.joined.is_set()
