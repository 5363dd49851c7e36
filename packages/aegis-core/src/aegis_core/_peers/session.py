"""What one node decides about its peers: whom to dial, what their messages mean, how to leave.

Pure: no I/O, time and chance are arguments. A running node drives it over gRPC and the simulation
in virtual time, so that the simulation tests the decisions that ship.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Collection
from dataclasses import replace

from aegis_discovery import InvalidRecordError, Topology
from aegis_discovery.feed import FeedReader, ReceiveResult, Ticks
from aegis_discovery.records import LEASE, REPUBLISH_EVERY, Record
from aegis_discovery.signals import LogLimiter
from aegis_discovery.transport import Backoff

from aegis_core._membership.membership import Membership
from aegis_core._membership.regions import Regions
from aegis_core._peers.directory import PeerDirectory
from aegis_core._peers.exchanges import ExchangePlan
from aegis_core._peers.feed import GONE, Feed, FeedEnd, SessionShell, WatchedFeeds, count_watched
from aegis_core._peers.info import PeerInfo
from aegis_core._peers.rivals import Rivals
from aegis_core._rate_limit import TokenBucket

_log = logging.getLogger("aegis.membership")

RECOVER_EVERY = 2.0
"""Seconds between two exchanges with a failed node, chosen at random: it may be back."""

DIALS = 32
"""Vouched nodes that never answered and are dialled at once: a liar could choose the addresses."""

DIALS_PER_SECOND = 8.0
"""The number of such nodes that are dialled each second after that."""

POLL_INTERVAL = 2.0
"""Seconds between two polls of a peer that has no feed."""

GOODBYES = 3
"""Nodes that a leaving node tells so itself, in addition to those that watch it."""

GOODBYE_TIMEOUT = 3.0
"""Seconds for telling them."""

MAINTENANCE = 30.0
"""Seconds between two calls of `Session.maintain`."""


class Session:
    """Decides for one node, from its start to its end.

    All times are monotonic seconds of one clock. `regions` hold all nodes of the topology already.

    Attributes:
        feeds: The feeds to keep open, by node id.
        has_joined: Whether a peer has sent all that it knows.
    """

    def __init__(
        self,
        topology: Topology,
        shell: SessionShell,
        now: float,
        *,
        new_reader: Callable[[str | None], FeedReader],
        rng: random.Random,
        ticks: Ticks,
        regions: Regions | None = None,
    ) -> None:
        assert topology.owner  # noqa: S101 - a topology of nobody has no place in a mesh
        self._own_id = topology.owner
        self._topology = topology
        self._shell = shell
        self._new_reader = new_reader
        self._rng = rng
        self._ticks = ticks
        position = 0 if regions is None else topology.log_position
        self.membership = Membership(topology, now, regions=regions, position=position)
        self.feeds: dict[str, Feed] = {}
        self.peers = PeerDirectory(topology, on_change=shell.wake)
        self._exchange_plan = ExchangePlan(self.membership, self.peers, rng)
        # Dictionaries, since the order of a set differs between runs of a simulation.
        self._exchanges: dict[Feed, None] = {}
        self._rate_limited: dict[Feed, None] = {}
        self._dials = TokenBucket(DIALS, DIALS_PER_SECOND, now)
        self._reconciled: object = None
        self._review_at = now
        self._recover_at = now + RECOVER_EVERY
        self._rivals = Rivals(topology)
        self.has_joined = False
        self._is_leaving = False
        self._log_limiter = LogLimiter(_log)

    def counts(self, now: float) -> WatchedFeeds:
        """Counts the feeds that work, for `FeedStats`."""
        unreachable = self.membership.unreachable
        return count_watched(self.feeds.values(), self._topology, unreachable, now)

    @property
    def across(self) -> int:
        """The number of feeds of nodes in other regions that work, with boundaries or without."""
        return self.counts(0.0)["across"]

    # Which feeds to open

    def tick(self, now: float) -> float:
        """Does what is due; returns when to call it again at the latest."""
        due = math.inf
        for exchange in list(self._exchanges):
            if exchange.give_up_at <= now:
                self._drop(exchange)
            due = min(due, exchange.give_up_at)
        if self._is_leaving:
            return due
        if self._review_at <= now or self.membership.position != self._topology.log_position:
            self._review_at = min(self.membership.tick(now), self._ticks.after(now))
            self._name_silent_regions(now)
        state = (
            self._topology.log_position,
            self.membership.rings_version,
            self.membership.bridge.version,
            self.peers.version,
        )
        if state != self._reconciled:
            # Nothing else can change which nodes to watch.
            self._reconciled = state
            self._reconcile(now)
        for feed in self.feeds.values():
            if feed.dial_at <= now:
                self._dial(feed, now)
            elif feed.polls_until and not feed.is_open:
                # It sends no heartbeats, so it counts as heard between two answers.
                self.membership.message_received(feed.peer.id, now)
            due = min(due, feed.dial_at)
        due = min(due, self._end_silent(now))
        while self._rate_limited:
            if not self._dials.take(now):
                due = min(due, now + self._dials.wait(now))
                break
            self._open(next(iter(self._rate_limited)), now)
        if self._recover_at <= now:
            self._recover_at = self._ticks.after(now, RECOVER_EVERY)
            self._recover(now)
        return min(due, self._recover_at, self._review_at)

    def _end_silent(self, now: float) -> float:
        """Ends the streams that have been silent for too long; returns when the next one may be."""
        silent = {feed: feed.silent_at for feed in (*self.feeds.values(), *self._exchanges)}
        for feed, silent_at in silent.items():
            if silent_at <= now:
                self._shell.close(feed)
                self.feed_ended(feed, FeedEnd.SILENT, now)
        return min((at for at in silent.values() if at > now), default=math.inf)

    def reopen_feeds(self, now: float) -> None:
        """Opens all feeds again, with the present identity and record; accuses no peer."""
        for feed in self.feeds.values():
            if feed.is_open:
                self._shell.close(feed)
                feed.is_open = False
            feed.backoff.reset()
            feed.polls_until = feed.times_diverged = 0
            self._dial(feed, now)

    def _reconcile(self, now: float) -> None:
        bridge = self.membership.bridge
        wanted = self.peers.wanted(self.membership.watched, bridge.targets(now))
        for node_id, feed in list(self.feeds.items()):
            peer, region = wanted.get(node_id, (None, None))
            if peer is None or (peer.address, region) != (feed.peer.address, feed.region):
                self._drop(feed)
                if peer is None:
                    self._shell.release(node_id)
        for node_id, (peer, region) in wanted.items():
            known = self.feeds.get(node_id)
            if known is None:
                known = self.feeds[node_id] = self._new_feed(peer, region)
                known.dial_at = now if region is None else max(now, bridge.dial_at(region))
            elif not known.is_open and self._stamp_of(node_id) not in (0, known.stamp):
                # It wrote a record, so it runs.
                known.dial_at = now

    def _name_silent_regions(self, now: float) -> None:
        silent = self.membership.bridge.silent(now)
        own = self._topology.get_node(self._own_id)
        if own is not None and own.silent_regions != silent:
            try:
                self._topology.update_node(replace(own, silent_regions=silent))
            except InvalidRecordError as error:
                self._log_limiter.warn("", "", "silent regions are not named: %s", error, now=now)

    def _new_feed(self, peer: PeerInfo, region: str | None = None) -> Feed:
        reader, backoff = self._new_reader(region), Backoff(uniform=self._rng.uniform)
        return Feed(peer, reader, backoff, region=region)

    def _dial(self, feed: Feed, now: float) -> None:
        if self._voucher_of_unheard(feed) is None:
            self._open(feed, now)
        else:
            feed.dial_at = math.inf
            self._rate_limited[feed] = None

    def _open(self, feed: Feed, now: float) -> None:
        self._rate_limited.pop(feed, None)
        feed.is_open, feed.dial_at, feed.opened_at = True, math.inf, now
        if now < feed.polls_until:
            self._shell.poll(feed)
        else:
            feed.polls_until = 0.0
            self._shell.open(feed)

    def _drop(self, feed: Feed) -> None:
        if feed.is_exchange:
            del self._exchanges[feed]
        else:
            del self.feeds[feed.peer.id]
            self._rate_limited.pop(feed, None)
        if feed.is_open:
            feed.is_open = False
            self._shell.close(feed)

    def _recover(self, now: float) -> None:
        for exchange in self._exchange_plan.recover(self.feeds, now):
            self._exchange(exchange.peer, now, exchange.timeout, exchange.region)

    def _exchange(self, peer: PeerInfo, now: float, timeout: float, region: str | None) -> None:
        if any(one.is_exchanging(peer, region) for one in self._exchanges):
            return  # over a slow line it takes long
        feed = self._new_feed(peer, region)
        feed.begin_exchange(now, timeout)
        self._exchanges[feed] = None
        self._open(feed, now)

    def _stamp_of(self, node_id: str) -> int:
        """Returns the stamp of the record that a node signed itself; 0 where there is none."""
        record = self._topology.get_record(node_id)
        return record.stamp if record is not None and record.voucher is None else 0

    def _voucher_of_unheard(self, feed: Feed) -> str | None:
        """Returns the voucher of a peer that never answered, and may not exist.

        It is None for all other peers, and for those added by hand.
        """
        record = self._topology.get_record(feed.peer.id)
        if record is None or feed.heard_at or feed.is_exchange or feed.peer.id in self.peers.added:
            return None
        return record.voucher

    # What feeds bring

    def message_received(self, feed: Feed, result: ReceiveResult, now: float) -> None:
        """Handles a message that was read from a feed."""
        if not feed.is_open:
            return
        self._note_message(feed, now)
        feed.news_received(result.news, now)
        self.apply(result if feed.region is None else result._replace(complete=False), now)
        if feed.is_exchange and result.complete and feed.is_open:
            self._drop(feed)
        exchange = self._exchange_plan.received(feed, result, now)
        if exchange is not None:
            self._exchange(exchange.peer, now, exchange.timeout, exchange.region)

    def poll_answered(self, feed: Feed, now: float) -> None:
        feed.is_open, feed.dial_at = False, now + POLL_INTERVAL
        self._note_message(feed, now)
        self.apply(ReceiveResult(complete=True), now)
        self._shell.wake()

    def feed_ended(self, feed: Feed, end: FeedEnd, now: float, why: str = "") -> None:
        """Decides when to dial again after a feed ended, or a poll failed."""
        if not feed.is_open:
            return
        why = why or end.value
        peer = feed.peer
        self._shell.wake()
        if feed.is_exchange:
            feed.is_open = False
            del self._exchanges[feed]
            _log.debug("no exchange with %s: %s", peer.id, why)
            return
        before = feed.problem
        if feed.region is not None:
            end = FeedEnd.BROKEN if end is FeedEnd.UNIMPLEMENTED else end
            if end is not FeedEnd.DIVERGED:
                self.membership.bridge.feed_ended(peer.id, feed.region, now)
        feed.ended(end, now, why)
        feed.stamp = self._stamp_of(peer.id)
        if feed.dial_at == now:
            _log.info("the feed of %s is opened again: %s", peer.id, why)
        elif end is not FeedEnd.IN_ORDER and feed.problem != before:
            why, line = feed.problem, "no feed from %s at %s: %s"
            where = None if feed.region is None else f"region {feed.region}"  # each node is asked
            source = where or self._voucher_of_unheard(feed) or peer.id
            if (end in GONE and feed.heard_at and where is None) or self.peers.has_left(peer.id):
                _log.info(line, peer.id, peer.address, why)  # if it failed, that is the warning
            else:
                self._log_limiter.warn(source, why, line, peer.id, peer.address, why, now=now)
        if end in (FeedEnd.BROKEN, FeedEnd.LOST):
            # Silence is not reported: this process itself may have been paused. Nor is the end in
            # order: a node that leaves publishes its tombstone, and one that does not is dialled.
            self.membership.feed_broken(feed.peer.id, now)
            self._review_at = now

    def apply(self, result: ReceiveResult, now: float) -> None:
        """Handles what a message means for this node itself, from whichever call."""
        if result.foreign is not None:
            self.foreign_record_received(result.foreign, now)
        if result.complete and not self.has_joined:
            self.has_joined = True
            self._shell.wake()

    def holder_answered(self, node_id: str, instance: str, address: str) -> bool:
        """Gives way to a process that has this node's id, before this one has joined.

        The other process is not disturbed: no node knows this one yet, and it dials none any more.

        Args:
            node_id: The full id that the process at `address` stated; empty without an answer.
            instance: The instance that it stated; empty for a node that signs nothing.
            address: The address that the topology has for this node's id.

        Returns:
            Whether this node gives way.
        """
        holds = self._rivals.holds_id(node_id, instance)
        if not holds or self.has_joined or self._is_leaving:
            return False
        self._is_leaving = True
        self._shell.give_way(address)
        return True

    def foreign_record_received(self, record: Record, now: float) -> None:
        """Answers a newer record of the own id by another process, or gives way to that."""
        if self._is_leaving:
            return
        address = self._rivals.record_received(record, now)
        if address is not None:
            self._shell.give_way(address)
            return
        # Other nodes may watch that process by now, so only a request brings them this record.
        self.reopen_feeds(now)

    def _note_message(self, feed: Feed, now: float) -> None:
        feed.heard_at = now
        if not feed.is_exchange:
            feed.backoff.reset()
            feed.problem = ""
            self.membership.message_received(feed.peer.id, now)
        if feed.region is not None and not feed.is_exchange:
            self.membership.bridge.message_received(feed.region, now)

    # Maintenance and the end

    def maintain(self, wall: float, *, not_after: float = math.inf) -> None:
        """Removes expired records, and renews the own one if its certificate allows it.

        Both times are Unix seconds.
        """
        self._topology.expire()
        record = self._topology.get_record(self._own_id)
        if record is None:
            return
        expires_at = record.expires_at / 1000
        if expires_at < not_after - 1 and expires_at - wall < LEASE - REPUBLISH_EVERY:
            self._topology.republish()

    def close(self) -> None:
        """Closes all feeds; the next tick opens them again."""
        self._reconciled = None
        for feed in [*self.feeds.values(), *self._exchanges]:
            self._drop(feed)

    def leave(self) -> None:
        """Closes all feeds and writes the tombstone.

        After that, end the feeds that this node serves, which brings the tombstone to the nodes
        that watch this one, and then call `say_goodbye`.
        """
        self._is_leaving = True
        self.close()
        if self._topology.get_node(self._own_id) is not None:
            self._topology.remove_node(self._own_id)

    def say_goodbye(self, aware: Collection[str], now: float) -> None:
        """Sends the tombstone to a few nodes that do not watch this one.

        The nodes of `aware` received it by a feed. Without a goodbye, a node that leaves as soon as
        it joined would stay in the topology as failed.
        """
        unaware = [i for i in self.membership.others_alive() if i not in aware]
        peers = [peer for node_id in unaware if (peer := self.peers.get(node_id)) is not None]
        for peer in self._rng.sample(peers, min(len(peers), GOODBYES)):
            self._exchange(peer, now, GOODBYE_TIMEOUT, None)
