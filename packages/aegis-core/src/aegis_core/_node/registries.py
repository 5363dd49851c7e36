"""The registries of a node: its feeds, another one in their place, or both while a mesh moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aegis_certs import TLSConfig

from aegis_core._node.options import NodeOptions
from aegis_core._peers.runner import SessionRunner
from aegis_core._state import NodeState

if TYPE_CHECKING:
    from aegis_discovery.registry import Registry

    from aegis_core._registry.runner import RegistryRunner


class Registries:
    """What a node publishes its record in, and learns the mesh from."""

    def __init__(self, options: NodeOptions, state: NodeState, feeds: SessionRunner) -> None:
        self._feeds = feeds
        self._etcd: RegistryRunner | None = None
        self._has_feeds = not options.replaces_feed
        self._all: list[Registry] = [feeds] if self._has_feeds else []
        if options.registry is not None:
            # Most meshes have none.
            from aegis_discovery.registry import parse_registry

            from aegis_core._registry.runner import RegistryRunner

            address, replaces = parse_registry(options.registry), options.replaces_feed
            self._etcd = RegistryRunner(address, state, feeds, replaces_feed=replaces)
            self._all.append(self._etcd)

    @property
    def causes(self) -> Callable[[], Mapping[str, str]] | None:
        """Returns why members of etcd do not answer; None without etcd."""
        etcd = self._etcd
        return None if etcd is None else lambda: etcd.causes

    async def run(self) -> None:
        tasks = [asyncio.create_task(one.run(), name="aegis-registry") for one in self._all]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def say_goodbye(self, aware: frozenset[str]) -> None:
        """Publishes the tombstone that the session has made."""
        await asyncio.gather(*(one.say_goodbye(aware) for one in self._all))

    def change_identity(self, tls: TLSConfig) -> None:
        """Connects with another identity from now on."""
        if self._has_feeds:
            self._feeds.session.reopen_feeds(time.monotonic())
        if self._etcd is not None:
            self._etcd.change_identity(tls)
