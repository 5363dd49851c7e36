"""What a node calls others with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from aegis_certs import TLSConfig
from aegis_discovery import Topology
from aegis_discovery.aio.transport import ChannelCache
from aegis_discovery.policy import ProviderAuthorizer

from aegis_core._node.options import NodeOptions
from aegis_core.errors import NodeStateError

if TYPE_CHECKING:
    from aegis_discovery import PoolStats
    from aegis_discovery.aio import ServiceClientPool


class Outbound:
    """The topology of a node, and its pools, which exist before the node runs.

    Until the node starts there is neither an identity nor a known node, so that a call waits for a
    provider, or fails. A forked child needs one of its own. Many nodes call no service, and the
    code of a pool takes 0.7 MB, so it is loaded when somebody asks for the pool.

    Attributes:
        channels: The connections that the mesh's own calls and a pool without options share.
        may_provide: Decides which nodes the pools call.
    """

    def __init__(self, options: NodeOptions) -> None:
        self._pid = os.getpid()
        self._options = options
        self.topology = Topology(owner=options.id)
        self.channels = ChannelCache()
        self.may_provide = ProviderAuthorizer(None, None)
        self._pools: list[Any] = []
        self._tls: TLSConfig | None = None
        self._is_closed = False
        # At once where it has options, so that a mistake in them is found before the node starts.
        self._pool = None if options.pool_options is None else self._make_pool()

    @property
    def is_forked(self) -> bool:
        """Whether it belongs to the parent of this process."""
        return os.getpid() != self._pid

    @property
    def pool(self) -> ServiceClientPool:
        """The pool of the async node.

        Raises:
            NodeStateError: If the node has stopped, and nobody asked for its pool before.
        """
        if self._pool is None:
            if self._is_closed:
                raise NodeStateError(f"node {self._options.id} is not running")
            self._pool = self._make_pool()
        return self._pool

    def _make_pool(self) -> ServiceClientPool:
        from aegis_discovery.aio import ServiceClientPool

        options = self._options
        pool_options = options.pool_options
        # The mesh's own calls must not pass through the user's interceptors.
        is_plain = pool_options is None or not (pool_options.interceptors or pool_options.options)
        pool = ServiceClientPool(
            self.topology,
            None,
            region=options.region,
            zone=options.zone,
            may_provide=self.may_provide,
            channels=self.channels if is_plain else None,
            telemetry=options.telemetry,
            **({} if pool_options is None else vars(pool_options)),
        )
        self.add(pool)
        return pool

    async def close_pool(self) -> None:
        """Closes the pool of the async node; there will be none from now on."""
        self._is_closed = True
        if self._pool is not None:
            await self._pool.close()

    def pool_stats(self) -> PoolStats:
        """Returns the statistics of the pool that the node's calls go through."""
        if self._pools:
            stats: PoolStats = self._pools[-1].stats()
            return stats
        from aegis_discovery import PoolStats

        return PoolStats((), ())

    def add(self, pool: Any) -> None:
        """Adds a pool, of either API, which from now on follows the identity and the policy."""
        self._pools.append(pool)
        self.may_provide.subscribe_changed(pool.reevaluate)
        if self._tls is not None:
            pool.change_identity(self._tls)

    def change_identity(self, tls: TLSConfig) -> None:
        """Makes new calls with this identity."""
        self._tls = tls
        self.may_provide.trust_domain = tls.trust_domain
        self.channels.change_identity(tls)
        for pool in list(self._pools):
            pool.change_identity(tls)
