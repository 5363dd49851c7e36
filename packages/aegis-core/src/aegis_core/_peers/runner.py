"""Carries out over gRPC what a node's session decides: opens, reads, polls and closes feeds."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

import grpc
from aegis_discovery import NodeIdInUseError
from aegis_discovery.aio.feed import FeedDivergedError, FeedGarbageError, follow
from aegis_discovery.aio.transport import ChannelCache, open_channel
from aegis_discovery.feed import PROCESS_TICKS, ReceiveResult, heartbeat_phase
from aegis_discovery.signals import LogLimiter
from aegis_discovery.transport import FEED_OPTIONS, describe_call_error

from aegis_core._peers.feed import Feed, FeedEnd
from aegis_core._peers.manager import PeerManager
from aegis_core._peers.session import GOODBYE_TIMEOUT, Session
from aegis_core._state import NodeState
from aegis_core._waker import Waker

_log = logging.getLogger("aegis.membership")

_LOST = ("Socket closed", "Connection refused", "Connection reset")
"""What gRPC says of a connection whose other end is gone."""


class SessionRunner:
    """Runs a session in an event loop."""

    def __init__(self, state: NodeState, channels: ChannelCache) -> None:
        self._state = state
        now, rng = time.monotonic(), random.Random()
        self.session = Session(
            state.topology,
            self,
            now,
            new_reader=state.new_reader,
            rng=rng,
            ticks=PROCESS_TICKS,
        )
        self.peers = PeerManager(state, self.session, channels)
        self._waker = Waker()
        self._streams: dict[Feed, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._log_limiter = LogLimiter(_log)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        unsubscribe = self._state.topology.subscribe_changed(
            lambda: loop.call_soon_threadsafe(self.wake)
        )
        try:
            while True:
                self._waker.clear()
                due = self.session.tick(time.monotonic())
                if self.session.has_joined:
                    self._state.joined.set()
                await self._waker.wait(due - time.monotonic())
        finally:
            unsubscribe()
            await self._close_all()

    async def say_goodbye(self, aware: frozenset[str]) -> None:
        """Sends the tombstone to a few nodes other than `aware`, and waits until they have it."""
        self.session.say_goodbye(aware, time.monotonic())
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=GOODBYE_TIMEOUT)
        await self._close_all()

    async def _close_all(self) -> None:
        self.session.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # SessionShell

    def wake(self) -> None:
        self._waker.set()

    def open(self, feed: Feed) -> None:
        self._start(feed, self._follow)

    def poll(self, feed: Feed) -> None:
        self._start(feed, self._poll)

    def close(self, feed: Feed) -> None:
        self._streams.pop(feed).cancel()

    def release(self, peer_id: str) -> None:
        self.peers.release(peer_id)

    def give_way(self, address: str) -> None:
        self._state.on_failure(NodeIdInUseError(self._state.node_id, address))

    def _start(self, feed: Feed, work: Callable[[Feed], Awaitable[FeedEnd | None]]) -> None:
        task = asyncio.create_task(self._run(feed, work), name=f"aegis-feed-{feed.peer.id}")
        self._streams[feed] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, feed: Feed, work: Callable[[Feed], Awaitable[FeedEnd | None]]) -> None:
        """Follows or polls a peer, and reports how that ended."""
        end: FeedEnd | None = FeedEnd.BROKEN
        peer, why = feed.peer, ""
        try:
            end = await work(feed)
        except FeedDivergedError as error:
            end, why = FeedEnd.DIVERGED, str(error)
        except FeedGarbageError as error:
            why = str(error)
        except grpc.aio.AioRpcError as error:
            why = describe_call_error(error, self._state.tls)
            if _is_lost(error, why):
                end = FeedEnd.LOST
            # It refuses our record for its stamp: was our clock ahead when that was written?
            is_ahead = error.code() is grpc.StatusCode.OUT_OF_RANGE
            if is_ahead and self._state.topology.restart_stamps():
                self.session.reopen_feeds(time.monotonic())
            if error.code() is grpc.StatusCode.UNIMPLEMENTED and not feed.polls_until:
                end = FeedEnd.UNIMPLEMENTED
        except Exception as error:  # noqa: BLE001 - an error of this process must not end the feed
            why = str(error)
            what = "an exchange with" if feed.is_exchange else "watching"
            line = "%s %s at %s failed"
            self._log_limiter.warn(peer.id, what, line, what, peer.id, peer.address, error=error)
        # The session may have closed this stream meanwhile.
        if self._streams.get(feed) is asyncio.current_task():
            del self._streams[feed]
            if end is None:
                self.session.poll_answered(feed, time.monotonic())
            else:
                self.session.feed_ended(feed, end, time.monotonic(), why)

    async def _follow(self, feed: Feed) -> FeedEnd:
        def on_message(result: ReceiveResult) -> None:
            self.session.message_received(feed, result, time.monotonic())

        peer, state = feed.peer, self._state
        # A channel of its own: a shared one may be waiting out gRPC's backoff when a peer is back.
        channel = open_channel(state.tls, peer.id, peer.address, options=FEED_OPTIONS)
        try:
            request = feed.reader.request(
                state.mesh,
                state.own_record(),
                state.chain,
                source=peer.id,
                heartbeat_phase=heartbeat_phase(time.monotonic(), time.time()),
            )
            await follow(
                channel,
                feed.reader,
                request,
                source=peer.id,
                on_message=on_message,
                timeout=None,
            )
        finally:
            await channel.close()
        return FeedEnd.IN_ORDER

    async def _poll(self, feed: Feed) -> None:
        await self.peers.poll(feed.peer)


def _is_lost(error: grpc.aio.AioRpcError, why: str) -> bool:
    """Returns whether the other process or the line is gone, rather than refuses this node."""
    details = error.details() or ""
    is_plain = why == details or "Connection refused" in details
    return (
        is_plain
        and error.code() is grpc.StatusCode.UNAVAILABLE
        and any(hint in details for hint in _LOST)
    )
