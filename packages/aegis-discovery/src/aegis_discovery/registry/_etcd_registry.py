"""Follows a mesh in etcd, and writes there what one process publishes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from aegis_certs import TLSConfig

from aegis_discovery._runtime.addresses import SeedPeer
from aegis_discovery._runtime.foreign_text import printable
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery.feed._parts import MessagePart
from aegis_discovery.feed._reader import FeedReader, ReceiveResult
from aegis_discovery.proto import etcd_pb2
from aegis_discovery.records._record import TOMBSTONE_LEASE
from aegis_discovery.registry._address import RegistryAddress
from aegis_discovery.registry._contents import Change, Contents
from aegis_discovery.registry._etcd import (
    CALL_TIMEOUT,
    CompactedError,
    EtcdError,
    EtcdMember,
    parse,
)
from aegis_discovery.registry._keys import Keys
from aegis_discovery.registry._publication import Publication, Write
from aegis_discovery.registry._reread import Reread
from aegis_discovery.transport._backoff import Backoff
from aegis_discovery.transport._probe import describe_call_error

LEASE = 10
"""Seconds after which the keys of a node vanish that does not renew its lease."""

RENEW_EVERY = LEASE / 3

HEARTBEAT = 5.0
"""Seconds without a change after which etcd is asked whether it is there."""

SLICE = 0.005
"""Seconds of work on what was read after which it pauses for as long."""

AWAY_AFTER = 10.0
"""Seconds without any member after which the log says that etcd is away."""

GOODBYE_TIMEOUT = 3.0
"""Seconds for writing a tombstone."""

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
"""Answers to a write that another member of the cluster would give too."""

_log = logging.getLogger("aegis.registry")


class EtcdRegistry:
    """Follows the keys of a mesh, at one member of an etcd cluster after another.

    Args:
        address: The members, and the prefix of the keys.
        tls: The identity of this process.
        mesh: The name of the mesh.
        reader: Verifies what is read, and merges it into a topology.
        contents: Translates what is read.
        publication: What this process writes; None for a client.
        on_received: Called with the result of each part that was read.
        on_keys: Called when nodes may have lost or got their key.

    Attributes:
        has_written: Set once what this process had to write first was written, or refused.
        causes: Why members do not answer, by their addresses; those that do are not in it.
    """

    def __init__(
        self,
        address: RegistryAddress,
        tls: TLSConfig,
        *,
        mesh: str,
        reader: FeedReader,
        contents: Contents,
        publication: Publication | None = None,
        on_received: Callable[[ReceiveResult], None],
        on_keys: Callable[[], None],
    ) -> None:
        self._tls = tls
        self._mesh = mesh
        self._endpoints = address.endpoints
        self._source = str(address)
        self._keys = Keys(address.prefix, mesh)
        self._reader = reader
        self._contents = contents
        self._publication = publication
        self._on_received = on_received
        self._on_keys = on_keys
        self._log_limiter = LogLimiter(_log)
        self._reread = Reread()
        self._session: asyncio.Task[None] | None = None
        self._may_publish = asyncio.Event()
        self._wake_publisher = asyncio.Event()
        self._revision = self._cluster = self._lease = 0
        self._is_away = False
        self._away_since = 0.0
        self._worked = False
        self._worked_for = 0.0
        self.has_written = asyncio.Event()
        self.causes: dict[str, str] = {}

    async def run(self) -> None:
        """Follows the registry, and publishes, until it is cancelled."""
        backoff = Backoff(0.1, 2.0)
        number = random.randrange(len(self._endpoints))  # so that members share the work
        while True:
            endpoint = self._endpoints[number % len(self._endpoints)]
            self._worked = False
            why = await self._try(endpoint)
            if self._worked:
                backoff.reset()
            if why is None:
                continue  # the identity changed
            self.causes[endpoint.address] = why
            line = "etcd at %s: %s"
            self._log_limiter.log_change(logging.INFO, endpoint, why, line, endpoint.address, why)
            self._note_away()
            number += 1
            await asyncio.sleep(backoff.next())

    def publish(self) -> None:
        """Writes, from now on, whatever the publication has; wakes the task that does."""
        self._may_publish.set()
        self._wake_publisher.set()

    def change_identity(self, tls: TLSConfig) -> None:
        """Connects again, with another identity; the lease stays."""
        self._tls = tls
        if self._session is not None:
            self._session.cancel()

    async def write_last(self, key: bytes, value: bytes) -> None:
        """Writes a tombstone, which stays for a day, and ends the lease; call it after `run`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_TIMEOUT):
                for endpoint in self._endpoints:
                    if await self._write_last_at(endpoint, key, value):
                        return
        _log.info("etcd did not get the tombstone, so this node will count as failed")

    async def _write_last_at(self, endpoint: SeedPeer, key: bytes, value: bytes) -> bool:
        try:
            async with asyncio.timeout(GOODBYE_TIMEOUT / 2), EtcdMember(endpoint, self._tls) as it:
                await it.put(key, value, await it.grant(int(TOMBSTONE_LEASE)))
                if self._lease:
                    await it.revoke(self._lease)
        except (grpc.aio.AioRpcError, EtcdError, TimeoutError):
            return False
        return True

    async def _try(self, endpoint: SeedPeer) -> str | None:
        """Works with one member until that fails; returns why, or None after a new identity."""
        session = self._session = asyncio.create_task(
            self._work_with(endpoint), name="aegis-etcd-session"
        )
        try:
            await asyncio.wait({session})
        finally:
            self._session = None
            if not session.done():
                session.cancel()
                await asyncio.wait({session})
        if session.cancelled():
            return None
        error = session.exception()
        if isinstance(error, grpc.aio.AioRpcError):
            return describe_call_error(error, self._tls, of="etcd")
        if isinstance(error, TimeoutError):
            return f"no answer within {CALL_TIMEOUT:g} s"
        if error is not None and not isinstance(error, EtcdError):
            _log.error("following etcd at %s failed", endpoint.address, exc_info=error)
        return str(error)

    async def _work_with(self, endpoint: SeedPeer) -> None:
        async with EtcdMember(endpoint, self._tls) as member:
            tasks = [asyncio.create_task(self._follow(member))]
            if self._publication is not None:
                tasks.append(asyncio.create_task(self._publish(member, self._publication)))
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    # Following

    async def _follow(self, member: EtcdMember) -> None:
        while True:
            if not self._revision:
                await self._read_all(member)
            try:
                await self._watch(member)
            except CompactedError:
                self._revision = 0  # everything is read anew

    async def _read_all(self, member: EtcdMember) -> None:
        """Reads all keys of the mesh, as they are at one revision."""
        self._reader.request(self._mesh, source=self._source)
        self._contents.begin()
        read: set[bytes] = set()
        revision, now = 0, time.monotonic()
        async for cluster, at, page in member.read(self._keys.start, self._keys.end):
            if not revision and cluster != self._cluster and self._publication:
                self._publication.lost_all(now)  # revisions of another cluster mean nothing here
            self._cluster, revision = cluster, at
            if self._publication is not None:
                read.update(kv.key for kv in page if self._publication.knows(kv.key))
            await self._take(
                ((kv.key, kv.value) for kv in page),
                ((kv.key, kv.value, kv.mod_revision) for kv in page),
            )
        self._contents.end()
        if self._publication is not None:
            self._publication.reading_ended(read, revision, now)
        self._revision = revision
        self._receive(MessagePart(complete=True))
        self._on_keys()
        self._wake_publisher.set()

    async def _watch(self, member: EtcdMember) -> None:
        """Takes changes after the revision that is known, until the member fails."""
        stream = member.watch()
        create = etcd_pb2.WatchCreateRequest(
            key=self._keys.start,
            range_end=self._keys.end,
            start_revision=self._revision + 1,
            fragment=True,
        )
        reading: asyncio.Task[Any] | None = None
        try:
            await stream.write(etcd_pb2.WatchRequest(create_request=create))
            is_asked = True
            while True:
                reading = reading or asyncio.create_task(stream.read())
                # Not by a timeout: gRPC ends the stream if a read is cancelled.
                done, _ = await asyncio.wait({reading}, timeout=HEARTBEAT)
                if done:
                    answer, reading, is_asked = reading.result(), None, False
                    if answer is grpc.aio.EOF:
                        raise EtcdError("it ended the stream of changes")
                    await self._take_answer(parse(etcd_pb2.WatchResponse, answer))
                elif is_asked:
                    raise EtcdError("it has been silent for too long")
                else:
                    progress = etcd_pb2.WatchProgressRequest()
                    await stream.write(etcd_pb2.WatchRequest(progress_request=progress))
                    is_asked = True
                    self._check_reading()
        finally:
            if reading is not None:
                reading.cancel()
            stream.cancel()

    async def _take_answer(self, answer: etcd_pb2.WatchResponse) -> None:
        if answer.canceled:
            if answer.compact_revision:
                raise CompactedError("the changes are gone")
            raise EtcdError(f"it ended the stream of changes: {answer.cancel_reason[:200]}")
        if answer.created:
            if answer.header.cluster_id != self._cluster or answer.header.revision < self._revision:
                # A new cluster, or one from a backup: its next changes would never arrive.
                if self._publication is not None:
                    self._publication.lost_all(time.monotonic())
                raise CompactedError("it is older than what is known")
            self._worked = True
            self._note_back()
            return
        if not answer.events:
            return  # it is there
        is_put = etcd_pb2.Event.PUT
        events = [
            (e.kv.key, e.kv.value if e.type == is_put else None, e.kv.mod_revision)
            for e in answer.events
        ]
        await self._take(((key, value) for key, value, _ in events), events)
        if not answer.fragment:
            self._revision = max(self._revision, events[-1][2])
        self._on_keys()

    async def _take(
        self, changes: Iterable[Change], states: Iterable[tuple[bytes, bytes | None, int]]
    ) -> None:
        if self._publication is not None:
            now = time.monotonic()
            for key, value, revision in states:
                self._publication.observed(key, value, revision, now)
            self._wake_publisher.set()
        for message in self._contents.messages(changes):
            began = time.monotonic()
            self._receive(message)
            self._worked_for += time.monotonic() - began
            if self._worked_for >= SLICE:
                # As a feed, it takes at most half of the event loop's time.
                await asyncio.sleep(self._worked_for)
                self._worked_for = 0.0

    def _receive(self, message: MessagePart) -> bool:
        """Merges a message; returns whether something was refused that may be good later."""
        result = self._reader.receive(message, source=self._source)
        self._on_received(result)
        return result.diverged

    def _check_reading(self) -> None:
        """Reads everything anew, ever more rarely, if something that was refused may be good now.

        A clock that was wrong for a while may have made this process refuse it.
        """
        refused = self._receive(MessagePart())
        if self._reread.is_due(refused or self._reader.lacks(self._contents.present)):
            raise CompactedError("something was refused")

    # Publishing

    async def _publish(self, member: EtcdMember, publication: Publication) -> None:
        await self._may_publish.wait()
        renew_at = 0.0
        while True:
            self._wake_publisher.clear()
            now = time.monotonic()
            if self._lease and now >= renew_at:
                if not await member.keep_alive(self._lease):
                    self._lose_lease(publication)
                renew_at = now + RENEW_EVERY
            if not self._lease:
                self._lease = await member.grant(LEASE)
                renew_at = now + RENEW_EVERY
            for write in publication.due(now):
                if not await self._write(member, write, publication):
                    break
            else:
                self.has_written.set()
            due = min(renew_at if self._lease else 0.0, publication.next_due())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self._wake_publisher.wait()

    async def _write(self, member: EtcdMember, write: Write, publication: Publication) -> bool:
        """Writes or deletes a key; returns whether the lease is still there."""
        try:
            if write.value is None:
                revision = await member.delete(write.key)
            else:
                lease = self._lease if write.is_leased else 0
                revision = await member.put(write.key, write.value, lease)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                self._lose_lease(publication)
                return False
            if error.code() not in _REFUSALS:
                raise
            if publication.failed(write, time.monotonic()):
                line = "etcd refuses to write %s, so other processes do not see it there: %s"
                key = write.key.decode(errors="replace")
                _log.warning(line, key, printable(error.details() or error.code().name))
        else:
            publication.wrote(write, revision)
        return True

    def _lose_lease(self, publication: Publication) -> None:
        self._lease = 0
        publication.lost_lease(time.monotonic())

    # Being away

    def _note_away(self) -> None:
        """Warns once that etcd is away: not of an election, nor while a start still waits."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if self._is_away or now - self._away_since < AWAY_AFTER:
            return
        self._is_away = True
        reasons = "; ".join(f"{address}: {why}" for address, why in self.causes.items())
        _log.warning("etcd is away, and the mesh goes on with what it knows (%s)", reasons)

    def _note_back(self) -> None:
        if self._is_away:
            _log.warning("etcd is back")
        self._is_away, self._away_since = False, 0.0
        self.causes.clear()
        self._log_limiter.clear()
