"""The calls to one member of an etcd cluster, over mutual TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
from aegis_certs import TLSConfig
from google.protobuf.message import DecodeError

from aegis_discovery._runtime.addresses import SeedPeer
from aegis_discovery._runtime.foreign_text import printable
from aegis_discovery.proto import etcd_pb2
from aegis_discovery.transport._shared import FEED_OPTIONS, channel_credentials, common_options

CALL_TIMEOUT = 3.0
"""Seconds for one call; while etcd has no leader, none is answered."""

PAGE = 128
"""Keys that are read at once."""

MAX_ANSWER = 8 * 1024 * 1024
"""Bytes of one answer. By default etcd holds values of 1.5 MiB; ours have half a MiB at most."""

WITH_LEADER = (("hasleader", "true"),)
"""Metadata that makes a member without a leader end a stream; it would be silent otherwise."""


class EtcdError(Exception):
    """A member of the cluster does not do its work."""


class CompactedError(EtcdError):
    """The changes after a revision are not there any more: everything must be read anew."""


class EtcdMember:
    """One member of a cluster. Use it with `async with`.

    Its certificate must be of our CA, and have the host of its address, or the name before `@`.
    """

    def __init__(self, endpoint: SeedPeer, tls: TLSConfig) -> None:
        named = () if endpoint.node_id is None else (
            ("grpc.ssl_target_name_override", endpoint.node_id),
        )  # fmt: skip
        self._channel = grpc.aio.secure_channel(
            endpoint.address,
            channel_credentials(tls),
            options=[
                *named,
                *common_options(),
                *FEED_OPTIONS,
                ("grpc.max_receive_message_length", MAX_ANSWER),
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 3_000),
                # Another try must not wait for the pause after the last one.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def put(self, key: bytes, value: bytes, lease: int) -> int:
        """Writes a key; returns its revision."""
        request = etcd_pb2.PutRequest(key=key, value=value, lease=lease)
        answer = await self._call("KV/Put", request, etcd_pb2.PutResponse)
        return int(answer.header.revision)

    async def delete(self, key: bytes) -> int:
        """Deletes a key; returns the revision after that."""
        request = etcd_pb2.DeleteRangeRequest(key=key)
        answer = await self._call("KV/DeleteRange", request, etcd_pb2.DeleteRangeResponse)
        return int(answer.header.revision)

    async def grant(self, seconds: int) -> int:
        """Makes a lease; returns its id."""
        request = etcd_pb2.LeaseGrantRequest(TTL=seconds)
        answer = await self._call("Lease/LeaseGrant", request, etcd_pb2.LeaseGrantResponse)
        if answer.error:
            raise EtcdError(f"it grants no lease: {printable(answer.error)}")
        return int(answer.ID)

    async def revoke(self, lease: int) -> None:
        """Ends a lease, and deletes its keys."""
        request = etcd_pb2.LeaseRevokeRequest(ID=lease)
        await self._call("Lease/LeaseRevoke", request, etcd_pb2.LeaseRevokeResponse)

    async def keep_alive(self, lease: int) -> bool:
        """Renews a lease; returns whether it was still there."""
        method: Any = self._channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            etcd_pb2.LeaseKeepAliveRequest.SerializeToString,
        )
        call = method(timeout=CALL_TIMEOUT, metadata=WITH_LEADER)
        try:
            await call.write(etcd_pb2.LeaseKeepAliveRequest(ID=lease))
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise EtcdError("it ended the call that renews the lease")
            return bool(parse(etcd_pb2.LeaseKeepAliveResponse, answer).TTL > 0)
        finally:
            call.cancel()

    async def read(
        self, start: bytes, end: bytes
    ) -> AsyncIterator[tuple[int, int, list[etcd_pb2.KeyValue]]]:
        """Yields all keys of a range, as they were at one moment.

        Of each page it yields the id of the cluster, the revision, and the keys. A page that is too
        large to be accepted is read in smaller ones. A single key of that size is yielded without
        its value.

        Raises:
            CompactedError: If that moment is too long ago meanwhile.
        """
        revision, page, more = 0, PAGE, True
        while more:
            request = etcd_pb2.RangeRequest(
                key=start, range_end=end, limit=max(page, 1), revision=revision, keys_only=not page
            )
            try:
                answer = await self._call("KV/Range", request, etcd_pb2.RangeResponse)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                    raise CompactedError("the revision is gone") from error
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or not page:
                    raise
                page //= 2
                continue
            revision = revision or answer.header.revision
            yield answer.header.cluster_id, revision, list(answer.kvs)
            more = answer.more and bool(answer.kvs)
            if more:
                start = answer.kvs[-1].key + b"\0"
                page = min(PAGE, max(1, 2 * page))

    def watch(self) -> Any:
        """Opens a stream of changes; write `WatchRequest` to it, and parse `WatchResponse`."""
        method: Any = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch", etcd_pb2.WatchRequest.SerializeToString
        )
        return method(metadata=WITH_LEADER)

    async def _call(self, method: str, request: Any, answer: Any) -> Any:
        call: Any = self._channel.unary_unary(
            f"/etcdserverpb.{method}", type(request).SerializeToString
        )
        # A put that waits for a leader would be done by it long after the call has failed.
        async with asyncio.timeout(2 * CALL_TIMEOUT):
            result = await call(request, timeout=CALL_TIMEOUT)
        if result is None:
            raise EtcdError(f"it ended a call of {method} without an answer")
        return parse(answer, result)


def parse(kind: Any, data: bytes) -> Any:
    """Parses an answer; gRPC would log a traceback for bytes that are none.

    Raises:
        EtcdError: It is no answer of etcd.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise EtcdError("it sent what is no answer of etcd") from None
