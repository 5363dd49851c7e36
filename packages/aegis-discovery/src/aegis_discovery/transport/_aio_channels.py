"""Channels for asyncio: each to one known node, over mutual TLS."""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import Sequence
from time import monotonic

import grpc.aio
from aegis_certs import TLSConfig

from aegis_discovery._runtime.fork_guard import stacks_of_own_size
from aegis_discovery.errors import EventLoopError
from aegis_discovery.transport._grpc_internals import end_calls
from aegis_discovery.transport._shared import (
    BaseChannelCache,
    Options,
    channel_credentials,
    channel_options,
)


def open_channel(
    tls: TLSConfig, node_id: str, address: str, *, options: Options = ()
) -> grpc.aio.Channel:
    """Opens a channel that only the given node can serve; it connects on first use.

    Args:
        tls: Our identity.
        node_id: The node that must answer.
        address: Its `host:port`.
        options: Further channel options of gRPC.
    """
    with stacks_of_own_size():  # the first channel starts the thread in which gRPC polls
        return grpc.aio.secure_channel(
            address, channel_credentials(tls), options=channel_options(node_id, options)
        )


class LoopBound:
    """Binds an object to the event loop in which it is first used."""

    __slots__ = ("_loop", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Checks that the running loop is the object's loop.

        Raises:
            EventLoopError: Another loop is running, or none.
        """
        try:
            running = get_running_loop()
        except RuntimeError:
            raise EventLoopError(self._what) from None
        if running is not self._loop:
            if self._loop is not None:
                raise EventLoopError(self._what)
            self._loop = running


class ChannelCache(BaseChannelCache[grpc.aio.Channel]):
    """One channel per node id and address, shared by all code of one event loop.

    The cache holds weak references: a channel lives as long as somebody holds it. Drop the
    reference to release it; calls under way end normally, then gRPC closes the connection.

    Args:
        tls: Our identity; without one it opens no channel before `change_identity`.
        interceptors: Client interceptors of gRPC, for every channel.
        options: Further channel options of gRPC.
    """

    def __init__(
        self,
        tls: TLSConfig | None = None,
        *,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        options: Options = (),
    ) -> None:
        super().__init__(tls, options)
        self._interceptors = tuple(interceptors)
        self._loop = LoopBound("channel cache")

    def get(self, node_id: str, address: str) -> grpc.aio.Channel:
        """Returns the channel to a node; opens it if there is none.

        Raises:
            ClosedError: The cache is closed.
            EventLoopError: This is not the event loop of the cache.
        """
        self._loop.check()
        return super().get(node_id, address)

    async def close(self, grace: float | None = None) -> None:
        """Closes every channel.

        Args:
            grace: Seconds that calls under way have to end before they are cancelled; None
                cancels them at once.
        """
        await asyncio.gather(*(_close(channel, grace) for channel in self._end()))

    def _open(self, address: str, options: Options) -> grpc.aio.Channel:
        with stacks_of_own_size():  # as in `open_channel`
            return grpc.aio.secure_channel(
                address, self._credentials, options=options, interceptors=self._interceptors
            )


async def _close(channel: grpc.aio.Channel, grace: float | None) -> None:
    began = monotonic()
    await end_calls(channel, grace)
    await channel.close(None if grace is None else max(0.0, began + grace - monotonic()))
