"""What a node calls others with."""

from __future__ import annotations

import os
from typing import Any

from aegis_certs import TLSConfig
from aegis_discovery import PoolOptions, Topology
from aegis_discovery.aio import ServiceClientPool
from aegis_discovery.aio.transport import ChannelCache
from aegis_discovery.policy import ProviderAuthorizer

from aegis_core._node.options import NodeOptions


class Outbound:
    """The topology of a node, and its pools, which exist before the node runs.

    Until the node starts there is neither an identity nor a known node, so that a call waits for a
    provider, or fails. A forked child needs one of its own.

    Attributes:
        channels: The connections that the mesh's own calls and a pool without options share.
        may_provide: Decides which nodes the pools call.
        pool: The pool of the async node.
        pool_stats: Returns the statistics of the pool that the node's calls go through.
    """

    def __init__(self, options: NodeOptions) -> None:
        self._pid = os.getpid()
        self.topology = Topology(owner=options.id)
        self.channels = ChannelCache()
        self.may_provide = ProviderAuthorizer(None, None)
        pool_options = options.pool_options or PoolOptions()
        # The mesh's own calls must not pass through the user's interceptors.
        is_plain = not (pool_options.interceptors or pool_options.options)
        self._pools: list[Any] = []
        self._tls: TLSConfig | None = None
        self.pool = ServiceClientPool(
            self.topology,
            None,
            region=options.region,
            zone=options.zone,
            may_provide=self.may_provide,
            channels=self.channels if is_plain else None,
            telemetry=options.telemetry,
            **vars(pool_options),
        )
        self.add(self.pool)

    @property
    def is_forked(self) -> bool:
        """Whether it belongs to the parent of this process."""
        return os.getpid() != self._pid

    def add(self, pool: Any) -> None:
        """Adds a pool, of either API, which from now on follows the identity and the policy."""
        self._pools.append(pool)
        self.pool_stats = pool.stats
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
