"""One secure channel to one known node, on an event loop."""

from __future__ import annotations

import asyncio
import weakref
from asyncio import get_running_loop
from collections.abc import Sequence

import grpc.aio
from aegis_certs import TLSConfig

from aegis_discovery.errors import ClosedError, EventLoopError
from aegis_discovery.transport._channels import Options, channel_credentials, channel_options


def open_channel(
    tls: TLSConfig, node_id: str, address: str, *, options: Options = ()
) -> grpc.aio.Channel:
    """Opens a channel that only the node with this id can serve; it connects when first used.

    Args:
        tls: Our identity.
        node_id: Who must answer.
        address: Where, as `host:port`.
        options: Further channel options of gRPC.
    """
    return grpc.aio.secure_channel(
        address, channel_credentials(tls), options=channel_options(node_id, options)
    )


class LoopBound:
    """The event loop that something belongs to: the one in which it is first used."""

    __slots__ = ("_loop", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Makes sure that the running loop is the right one.

        Raises:
            EventLoopError: If it is another one, or none runs.
        """
        try:
            running = get_running_loop()
        except RuntimeError:
            raise EventLoopError(self._what) from None
        if running is not self._loop:
            if self._loop is not None:
                raise EventLoopError(self._what)
            self._loop = running


class ChannelCache:
    """One channel per node id and address, shared by all of one event loop who call that node.

    A channel lives as long as somebody holds it. Who has no more use for one lets go of it; calls
    that are under way end in their own time, then gRPC closes the connection.

    Args:
        tls: Our identity.
        interceptors: Client interceptors of gRPC, for every channel.
        options: Further channel options of gRPC.
    """

    def __init__(
        self,
        tls: TLSConfig,
        *,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        options: Options = (),
    ) -> None:
        self._credentials = channel_credentials(tls)
        self._interceptors = tuple(interceptors)
        self._options = tuple(options)
        self._home = LoopBound("channel cache")
        self._closed = False
        self._channels: weakref.WeakValueDictionary[tuple[str, str], grpc.aio.Channel] = (
            weakref.WeakValueDictionary()
        )

    def __len__(self) -> int:
        return len(self._channels)

    def get(self, node_id: str, address: str) -> grpc.aio.Channel:
        """Returns the channel to a node, opening it where there is none.

        Raises:
            ClosedError: If the cache was closed.
            EventLoopError: If this is not the loop of the cache.
        """
        self._home.check()
        if self._closed:
            raise ClosedError("channel cache")
        channel = self._channels.get((node_id, address))
        if channel is None:
            channel = grpc.aio.secure_channel(
                address,
                self._credentials,
                options=channel_options(node_id, self._options),
                interceptors=self._interceptors,
            )
            self._channels[node_id, address] = channel
        return channel

    def change_identity(self, tls: TLSConfig) -> None:
        """Opens channels with another identity from now on; those that somebody holds go on."""
        self._credentials = channel_credentials(tls)
        self._channels.clear()

    async def close(self, grace: float | None = None) -> None:
        """Closes every channel.

        Args:
            grace: Seconds that calls under way have to end; they are cancelled then, or at once.
        """
        self._closed = True
        await asyncio.gather(*(channel.close(grace) for channel in list(self._channels.values())))
