"""Finds out the node ids of the seed peers, and adds them as peers; tries again for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from aegis_certs import CertsError, owner_of
from aegis_discovery import DiscoveryError, NodeStatus
from aegis_discovery.background import sleep_until_tick
from aegis_discovery.logs import LogLimiter
from aegis_discovery.transport import SeedPeer, probe_identity

from aegis_core._peers.info import PeerInfo
from aegis_core._peers.manager import PeerManager
from aegis_core._peers.session import Session
from aegis_core._state import NodeState
from aegis_core.errors import ConfigError, JoinError, PeerNotFoundError

_log = logging.getLogger("aegis.membership")

RETRY = 2.0
"""Seconds between two tries to reach a seed peer that is not watched."""


class Joiner:
    """Turns seed addresses into peers; the certificate of the server there has the node id."""

    def __init__(
        self, state: NodeState, peers: PeerManager, session: Session, seeds: Sequence[SeedPeer]
    ) -> None:
        self._state = state
        self._peers = peers
        self._session = session
        self._found: dict[SeedPeer, str] = {}
        self._seeds = tuple(seeds)
        self._failures: dict[SeedPeer, str] = {}
        self._log_limiter = LogLimiter(_log)
        self._tried: set[SeedPeer] = set()
        self._all_tried = asyncio.Event()

    async def run(self) -> None:
        while True:
            await asyncio.gather(*(self._look_up(seed) for seed in self._seeds))
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
        if not self._seeds:
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

    async def _joined_or_tried(self) -> None:
        """Returns when a peer sent its topology, or when no seed peer could be identified."""
        joined = asyncio.ensure_future(self._state.joined.wait())
        tried = asyncio.ensure_future(self._all_tried.wait())
        try:
            await asyncio.wait({joined, tried}, return_when=asyncio.FIRST_COMPLETED)
            if self._found or any(seed.node_id for seed in self._seeds):
                await joined
        finally:
            joined.cancel()
            tried.cancel()

    def _why_not(self) -> str:
        reasons = list(self._failures.values())
        waiting = set(self._seeds) - self._tried
        reasons += [
            f"{seed.address} has not answered yet" for seed in self._seeds if seed in waiting
        ]
        for seed, node_id in self._found.items():
            feed = self._session.feeds.get(node_id)
            why = (feed.problem if feed else "") or "it has not answered yet"
            reasons.append(f"{node_id} at {seed.address}: {why}")
        return "; ".join(reasons) or "its only seed peer is itself"

    def _forget_siblings(self) -> None:
        """Drops the seed peers of this node's own identity: its supervisor may replace them."""
        siblings = [
            seed
            for seed in self._seeds
            if seed.node_id is not None and owner_of(seed.node_id) == self._state.identity
        ]
        for seed in siblings:
            with contextlib.suppress(PeerNotFoundError):
                self._peers.remove_peer(self._found.pop(seed, ""))
        self._seeds = tuple(seed for seed in self._seeds if seed not in siblings)

    async def _look_up(self, seed: SeedPeer) -> None:
        known = self._found.get(seed)
        if known is not None and (self._is_watching(known) or self._is_alive(known)):
            return
        try:
            node_id = seed.node_id
            if node_id is None:
                found = await asyncio.to_thread(probe_identity, seed.address, self._state.tls)
                node_id = found.node_id
            peer, held_at = await self._peers.meet(PeerInfo(owner_of(node_id), seed.address))
            if not self._session.has_joined and await self._gives_way(peer, held_at):
                return
            node_id = peer.id
            if node_id != self._state.node_id and node_id != known:
                self._peers.add_peer(peer)
                self._found[seed] = node_id
                if known is not None and known not in self._found.values():
                    # Another node answers at its address now.
                    with contextlib.suppress(PeerNotFoundError):
                        self._peers.remove_peer(known)
            self._failures.pop(seed, None)
            self._log_limiter.forget(seed)
        except (DiscoveryError, CertsError, ConfigError) as error:
            self._failures[seed] = reason = str(error)
            line = "seed peer %s: %s"
            self._log_limiter.log_change(logging.INFO, seed, reason, line, seed.address, reason)
        finally:
            self._tried.add(seed)
            if len(self._tried) == len(set(self._seeds)):
                self._all_tried.set()

    async def _gives_way(self, seed: PeerInfo, held_at: str) -> bool:
        """Asks the process that has this node's id already, if a seed peer knows one."""
        address = seed.address if seed.id == self._state.node_id else held_at
        if not address:
            return False
        node_id, instance = await self._peers.ask_holder(address)
        return self._session.holder_answered(node_id, instance, address)

    def _is_watching(self, node_id: str) -> bool:
        feed = self._session.feeds.get(node_id)
        return feed is not None and not feed.problem

    def _is_alive(self, node_id: str) -> bool:
        """Tells whether the mesh sees a seed peer as alive, so that other nodes watch it."""
        node = self._state.topology.get_node(node_id)
        is_alive = node is not None and node.status is NodeStatus.ALIVE
        return is_alive and self._state.joined.is_set()
