"""Holds a feed open to everybody that this node watches, and looks for those that were lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass, field

import grpc
from aegis_discovery.aio.feed import FeedDivergedError, FeedTimeoutError, follow
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.feed import FeedReader, ReceiveResult
from aegis_discovery.logs import LogLimiter
from aegis_discovery.transport import Backoff, describe_call_error

from aegis_core._membership.membership import REVIEW, Membership
from aegis_core._peers.dialing import (
    DIALS,
    DIALS_PER_SECOND,
    LEFT_PAUSE,
    RECOVER_EVERY,
    RECOVERY,
    REDIAL_AFTER,
    lost_one,
)
from aegis_core._peers.info import PeerInfo
from aegis_core._peers.manager import PeerManager
from aegis_core._rate_limit import TokenBucket
from aegis_core._state import NodeState

_log = logging.getLogger("aegis.membership")

POLL_INTERVAL = 2.0
"""Seconds between two questions to a peer that has no feed."""

FEED_RETRY = 60.0
"""Seconds after which a peer that has no feed is asked for one again."""


_LEFT = "it left"


@dataclass(slots=True)
class _Watch:
    """One peer that is being watched."""

    peer: PeerInfo
    reader: FeedReader
    task: asyncio.Task[None] | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    stamp: int = 0
    complaint: str = ""
    heard_at: float = 0.0


class Watchers:
    """Keeps a feed to each watched node, dials again for ever, and tells membership what it hears.

    Attributes:
        membership: Decides whom to watch and who is alive.
    """

    def __init__(self, state: NodeState, peers: PeerManager) -> None:
        self._state = state
        self._peers = peers
        self._watches: dict[str, _Watch] = {}
        self.membership = Membership(state.topology, time.monotonic())
        self._complaints = LogLimiter(_log)
        self._changed = asyncio.Event()
        self._tries: set[asyncio.Task[None]] = set()
        self._dials = TokenBucket(DIALS, DIALS_PER_SECOND, time.monotonic())
        self._turn = asyncio.Lock()
        peers.on_change(self._changed.set)

    async def run(self) -> None:
        """Works until it is cancelled."""
        loop = asyncio.get_running_loop()
        unsubscribe = self._state.topology.subscribe_changed(
            lambda: loop.call_soon_threadsafe(self._changed.set)
        )
        try:
            while True:
                self._changed.clear()
                self.membership.tick(time.monotonic())
                self._reconcile()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REVIEW):
                        await self._changed.wait()
        finally:
            unsubscribe()
            for node_id in list(self._watches):
                await self._stop(node_id)

    async def recover(self) -> None:
        """Tries to reach lost nodes, one at random at a time, for ever; so partitions heal."""
        try:
            while True:
                await asyncio.sleep(RECOVER_EVERY)
                lost = lost_one(self.membership, self._watches, random.choice)
                peer = self._peers.find(lost) if lost else None
                if peer is not None:
                    task = asyncio.create_task(self._try(peer), name=f"aegis-try-{peer.id}")
                    self._tries.add(task)
                    task.add_done_callback(self._tries.discard)
        finally:
            tries = list(self._tries)
            for task in tries:
                task.cancel()
            await asyncio.gather(*tries, return_exceptions=True)

    def is_watching(self, node_id: str) -> bool:
        """Tells whether this peer's feed is in order."""
        watch = self._watches.get(node_id)
        return watch is not None and not watch.complaint

    @property
    def silences(self) -> dict[str, float]:
        """Seconds since each peer whose feed is in order was last heard, by id."""
        now = time.monotonic()
        return {
            node_id: now - watch.heard_at
            for node_id, watch in self._watches.items()
            if watch.heard_at and not watch.complaint
        }

    def complaint(self, node_id: str) -> str:
        """Says why this peer's feed is not in order; empty where it is, or was not tried yet."""
        watch = self._watches.get(node_id)
        return watch.complaint if watch else ""

    def dial_again(self) -> None:
        """Opens all feeds anew, with the present identity; that speaks against nobody."""
        for watch in self._watches.values():
            if watch.task is not None:
                watch.task.cancel()
            self._begin(watch)

    def _reconcile(self) -> None:
        wanted = {peer.id: peer for peer in self._peers.unmet()}
        for node_id in self.membership.watched - wanted.keys():
            peer = self._peers.find(node_id)
            if peer is not None:
                wanted[node_id] = peer
        for node_id, watch in list(self._watches.items()):
            if node_id not in wanted or wanted[node_id].address != watch.peer.address:
                del self._watches[node_id]
                if watch.task is not None:
                    watch.task.cancel()
                if node_id not in wanted:
                    self._peers.let_go([node_id])
        for node_id, peer in wanted.items():
            if node_id not in self._watches:
                watch = self._watches[node_id] = _Watch(peer, self._state.new_reader())
                self._begin(watch)
            self._notice(self._watches[node_id])

    def _notice(self, watch: _Watch) -> None:
        """Dials at once where a node wrote something: only a living process does."""
        record = self._state.topology.get_record(watch.peer.id)
        if record is not None and record.voucher is None and record.stamp != watch.stamp:
            watch.stamp = record.stamp
            watch.news.set()

    def _begin(self, watch: _Watch) -> None:
        watch.task = asyncio.create_task(self._keep(watch), name=f"aegis-watch-{watch.peer.id}")

    async def _stop(self, node_id: str) -> None:
        watch = self._watches.pop(node_id, None)
        if watch is not None and watch.task is not None:
            watch.task.cancel()
            await asyncio.gather(watch.task, return_exceptions=True)

    async def _keep(self, watch: _Watch) -> None:
        """Follows one peer, for ever."""
        backoff = Backoff()
        peer = watch.peer
        times_apart = 0
        while True:
            await self._wait_for_turn(watch)
            pause = 0.0
            is_hint = True
            began = time.monotonic()
            try:
                await self._follow(watch, backoff)
                # One that left said so to somebody; if it did not, it is not reached again.
                complaint, pause, is_hint = _LEFT, LEFT_PAUSE, False
            except FeedDivergedError as error:
                times_apart += 1
                if times_apart == 1:
                    # A clock that was wrong for a while does this once.
                    _log.info("%s", error)
                    continue
                complaint, is_hint = f"it is apart from us again and again ({error})", False
            except FeedTimeoutError as error:
                # Silence is judged by those who know whether this process itself stood still.
                complaint, is_hint = str(error), False
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    complaint = await self._poll(watch, backoff)
                    if not complaint:
                        continue
                else:
                    complaint = describe_call_error(error, self._state.tls)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the watch
                complaint = str(error)
                line = "watching %s failed"
                self._complaints.warn(peer.id, "fault", line, peer.id, error=error)
            if watch.heard_at > began and time.monotonic() - began < LEFT_PAUSE:
                # One that speaks and breaks off at once would be dialled ten times a second.
                pause = LEFT_PAUSE
            if complaint not in (watch.complaint, _LEFT):
                line = "no feed from %s at %s: %s"
                source = self._hearsay_of(watch) or peer.id
                self._complaints.warn(source, complaint, line, peer.id, peer.address, complaint)
            watch.complaint = complaint
            watch.news.clear()
            if is_hint:
                self.membership.lost(peer.id, time.monotonic())
                self._changed.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(backoff.next(), pause)):
                    await watch.news.wait()

    async def _wait_for_turn(self, watch: _Watch) -> None:
        """Lets those wait that are known by hearsay only, where there are many."""
        if self._hearsay_of(watch) is None:
            return
        async with self._turn:
            await asyncio.sleep(self._dials.wait(time.monotonic()))
            self._dials.take(time.monotonic())

    def _hearsay_of(self, watch: _Watch) -> str | None:
        """Returns who vouches for a peer that has never answered; such a one may be invented.

        It is None for all others, and for peers that were added by hand.
        """
        record = self._state.topology.get_record(watch.peer.id)
        if record is None or watch.heard_at or watch.peer.id in self._peers.added:
            return None
        return record.voucher

    async def _follow(self, watch: _Watch, backoff: Backoff) -> None:
        def on_message(received: ReceiveResult) -> None:
            self._heard(watch, backoff)
            self._state.received(received)

        peer, state = watch.peer, self._state
        # A channel of its own: a shared one may be waiting out gRPC's backoff when a peer is back.
        channel = open_channel(state.tls, peer.id, peer.address)
        try:
            await follow(
                channel,
                watch.reader,
                watch.reader.request(state.mesh, state.own_record(), state.chain, source=peer.id),
                source=peer.id,
                on_message=on_message,
                timeout=REDIAL_AFTER,
            )
        finally:
            await channel.close()

    async def _try(self, peer: PeerInfo) -> None:
        """Exchanges with a lost node what both know; if it is there, it says so to everybody."""
        state, reader = self._state, self._state.new_reader()
        channel = open_channel(state.tls, peer.id, peer.address)

        class Told(Exception):  # noqa: N818 - it is no error
            """The peer told all it knows."""

        def on_message(received: ReceiveResult) -> None:
            state.received(received)
            if received.complete:
                raise Told

        try:
            async with asyncio.timeout(RECOVERY):
                own = state.own_record()
                request = reader.request(state.mesh, own, state.chain, source=peer.id)
                await follow(channel, reader, request, source=peer.id, on_message=on_message)
        except (Told, TimeoutError, FeedTimeoutError, FeedDivergedError):
            pass
        except grpc.aio.AioRpcError as error:
            _log.debug("%s is still lost: %s", peer.id, describe_call_error(error, state.tls))
        except Exception as error:  # noqa: BLE001 - nobody awaits this task, and one is tried again
            line = "an exchange with %s at %s failed"
            self._complaints.warn(peer.id, "exchange", line, peer.id, peer.address, error=error)
        finally:
            await channel.close()

    async def _poll(self, watch: _Watch, backoff: Backoff) -> str:
        """Asks a peer that has no feed on an interval; returns why that ended.

        Now and then it returns for no reason: a peer that was replaced may have a feed by now.
        """
        until = time.monotonic() + FEED_RETRY
        while time.monotonic() < until:
            try:
                await self._peers.poll(watch.peer)
            except grpc.aio.AioRpcError as error:
                return describe_call_error(error, self._state.tls)
            self._heard(watch, backoff)
            self._state.received(ReceiveResult(complete=True, foreign=None))
            deadline = time.monotonic() + POLL_INTERVAL
            while time.monotonic() < deadline:
                # It has no heartbeats; between two answers it counts as heard.
                await asyncio.sleep(min(1.0, POLL_INTERVAL))
                self.membership.heard(watch.peer.id, time.monotonic())

        return ""

    def _heard(self, watch: _Watch, backoff: Backoff) -> None:
        backoff.reset()
        watch.complaint = ""
        watch.heard_at = time.monotonic()
        self.membership.heard(watch.peer.id, watch.heard_at)
