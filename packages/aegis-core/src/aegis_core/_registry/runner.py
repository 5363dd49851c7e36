"""Runs a node's part in a mesh that is in etcd: publishes, follows, pings."""

from __future__ import annotations

import asyncio
import time

import grpc
from aegis_certs import TLSConfig
from aegis_discovery import InvalidAddressError
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.feed import ReceiveResult
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc
from aegis_discovery.records import Opinion
from aegis_discovery.registry import (
    Contents,
    EtcdRegistry,
    Keys,
    Publication,
    RegistryAddress,
    RegistryStatuses,
    encode_document,
    encode_record_entry,
    encode_verdict_entry,
)
from aegis_discovery.transport import split_address

from aegis_core._peers.runner import SessionRunner
from aegis_core._registry.observer import RegistryObserver
from aegis_core._state import NodeState
from aegis_core._waker import Waker

PING_TIMEOUT = 1.5
"""Seconds in which a node whose key vanished must answer."""

SPREAD = 2.0
"""Seconds within which the nodes that have a document write it, if nobody has yet."""


class RegistryRunner:
    """Keeps a node in a registry, and its topology equal to what the registry holds.

    Args:
        address: Where the registry is.
        state: The node's own.
        runner: Its session. It follows no feed where the registry takes the place of the feed.
        replaces_feed: Whether the registry does so. Otherwise the node decides by its feeds who is
            alive, and only pings for those that have no feeds.
    """

    def __init__(
        self,
        address: RegistryAddress,
        state: NodeState,
        runner: SessionRunner,
        *,
        replaces_feed: bool,
    ) -> None:
        self._state = state
        self._runner = runner
        self._replaces_feed = replaces_feed
        self._keys = Keys(address.prefix, state.mesh)
        self._contents = Contents(self._keys, state.node_id)
        self._publication = Publication()
        self._statuses = RegistryStatuses(state.topology, sets_statuses=replaces_feed)
        self._observer = RegistryObserver(
            state.topology, self._statuses.observers, refutes=replaces_feed
        )
        self._etcd = EtcdRegistry(
            address,
            state.tls,
            mesh=state.mesh,
            reader=state.new_reader(),
            contents=self._contents,
            publication=self._publication,
            on_received=self._on_received,
            on_keys=self._on_keys,
        )
        self._waker = Waker()
        self._was_read = asyncio.Event()
        self._has_joined = False
        self._position = -1
        self._documents_position = 0
        self._verdicts: dict[str, bytes] = {}
        self._pings: set[asyncio.Task[None]] = set()
        if replaces_feed:
            runner.session.membership.close()  # it would remember what it never reads

    @property
    def causes(self) -> dict[str, str]:
        """Why members of the registry do not answer, by their addresses."""
        return self._etcd.causes

    def change_identity(self, tls: TLSConfig) -> None:
        self._etcd.change_identity(tls)

    # Registry

    async def run(self) -> None:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._waker.set)

        ends = (
            self._state.topology.subscribe_changed(wake),
            self._state.documents.subscribe_changed(wake),
        )
        tasks = [
            asyncio.create_task(work, name=f"aegis-registry-{name}")
            for name, work in (("etcd", self._etcd.run()), ("join", self._join()))
        ]
        for task in tasks:
            task.add_done_callback(lambda _: self._waker.set())
        try:
            while True:
                self._waker.clear()
                for task in tasks:
                    if task.done():
                        task.result()  # raises what it failed with
                due = self._tick(time.monotonic())
                await self._waker.wait(max(0.0, due - time.monotonic()))
        finally:
            for end in ends:
                end()
            tasks += self._pings
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def say_goodbye(self, aware: frozenset[str]) -> None:
        """Writes the tombstone, which the session has made."""
        record = self._state.own_record()
        if record is not None and record.info is None and self._has_joined:
            chain = self._state.chain_of(record.signer) or self._state.chain
            value = encode_record_entry(record, chain)
            await self._etcd.write_last(self._keys.node(self._state.node_id), value)

    # Joining

    async def _join(self) -> None:
        """Publishes this node once everything was read, unless another process has its id."""
        await self._was_read.wait()
        state, session = self._state, self._runner.session
        holder = self._contents.holder
        if holder is not None and holder.info is not None and holder.instance != state.instance:
            address = holder.info.address
            node_id, instance = await self._runner.peers.ask_holder(address)
            if session.holder_answered(node_id, instance, address):
                return
            state.topology.republish()  # above what an earlier process has published
        self._has_joined = True
        self._position = -1
        self._waker.set()  # writes the record of this node, and then others know it
        await self._etcd.has_written.wait()
        session.apply(ReceiveResult(complete=True), time.monotonic())
        state.joined.set()

    def _on_received(self, result: ReceiveResult) -> None:
        if result.foreign is not None and self._has_joined:
            self._runner.session.foreign_record_received(result.foreign, time.monotonic())
        if result.complete:
            self._was_read.set()

    def _on_keys(self) -> None:
        now = time.monotonic()
        vanished, returned = self._contents.take_changes()
        self._statuses.key_changes(vanished, returned, now)
        self._observer.key_changes(vanished, returned, now)
        self._waker.set()

    # Publishing and pinging

    def _tick(self, now: float) -> float:
        self._statuses.review(now)
        due = self._observer.tick(now)
        if self._has_joined:
            self._publish(now)
        for node_id in self._observer.take_pings(now):
            task = asyncio.create_task(self._ping(node_id), name=f"aegis-ping-{node_id}")
            self._pings.add(task)
            task.add_done_callback(self._pings.discard)
        return due

    def _publish(self, now: float) -> None:
        """Publishes what this process has signed since it was called last, and new documents."""
        topology, state = self._state.topology, self._state
        # What was put meanwhile is published with the next change.
        since, self._documents_position = self._documents_position, state.documents.position
        for document in state.documents.changed_since(since):
            key, value = self._keys.document(document.key), encode_document(document.signed)
            self._publication.want(key, value, now, within=SPREAD, is_leased=False)
        if topology.log_position != self._position:
            own = state.own_record()
            if own is not None and own.info is not None:
                value = encode_record_entry(own, state.chain_of(own.signer) or state.chain)
                self._publication.want(self._keys.node(state.node_id), value, now)
            self._publish_verdicts(now)
        self._etcd.publish()

    def _publish_verdicts(self, now: float) -> None:
        changes = self._state.topology.changes_since(max(self._position, 0))
        self._position = changes.position
        changed = {
            entry.content.verdict.subject
            for entry in changes.verdict_entries
            if entry.content.verdict.accuser == self._state.node_id
            and entry.content.verdict.accuser_instance == self._state.instance
        }
        changed.update(e.record.id for e in changes.entries if e.record.id in self._verdicts)
        for subject in changed:
            content = self._state.topology.get_verdict(subject, self._state.node_id)
            valid = {v.accuser for v in self._state.topology.get_verdicts(subject)}
            is_new = subject not in self._verdicts
            if content is None or self._state.node_id not in valid:
                # It was answered, or its subject left.
                if not is_new:
                    self._publication.drop(self._verdicts.pop(subject), now)
                continue
            if is_new and content.verdict.opinion is Opinion.CLEAR:
                continue
            signed = content.signed
            value = encode_verdict_entry(signed, self._state.chain_of(signed.signer) or ())
            key = self._verdicts[subject] = self._keys.verdict(subject, self._state.node_id)
            self._publication.want(key, value, now)

    async def _ping(self, node_id: str) -> None:
        answered = False
        node = self._state.topology.get_node(node_id)
        try:
            if node is not None:
                split_address(node.address)
                # A channel of its own: a shared one may be waiting out gRPC's backoff.
                async with open_channel(self._state.tls, node_id, node.address) as channel:
                    stub = aegis_pb2_grpc.MeshServiceStub(channel)
                    request = aegis_pb2.PingRequest(sender_id=self._state.identity)
                    answer = await stub.Ping(request, timeout=PING_TIMEOUT)
                    answered = (answer.node_id or answer.receiver_id) == node_id
        except (grpc.aio.AioRpcError, InvalidAddressError):
            pass
        self._observer.ping_ended(node_id, time.monotonic(), answered=answered)
        self._waker.set()
