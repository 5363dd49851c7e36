"""What the blocking and the asyncio face of a node have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, cast

from aegis_certs import TLSConfig
from aegis_discovery import Topology
from aegis_discovery.policy import ProviderAuthorizer
from cryptography import x509

from aegis_core._health.checks import HealthInfo
from aegis_core._node.runtime import RunningNode
from aegis_core._node.settings import configured
from aegis_core.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
ManagerT = TypeVar("ManagerT")
ManagerT_co = TypeVar("ManagerT_co", covariant=True)


class NodeView:
    """The facts of a running node, which both faces read in the same way."""

    @classmethod
    def from_env(cls, *, config: str | Path | None = None, **options: Any) -> Self:
        """Makes a node of the variables that `aegis node run` reads, and of a file.

        The guide *Run a node* lists the variables. An argument overrides a variable, and a
        variable overrides the file. An empty variable counts as not set.

        Args:
            config: A TOML file with these settings in the table `[node]`; by default the file
                that `AEGIS_CONFIG` names, if it is set.
            options: Any options of the node, such as `registrars`.

        Raises:
            ConfigError: If a setting cannot work; the error names the variable, or the key and
                the file.
        """
        return configured(cls._without_workers, options, config)

    @classmethod
    def _without_workers(cls, *, workers: object = None, **options: Any) -> Self:
        if workers is not None:
            reason = "a Node is one process; `aegis node run` and run_workers start workers"
            raise ConfigError("workers", reason)
        return cls(**options)

    @property
    def _parts(self) -> RunningNode:
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The address that the server is bound to, with the real port."""
        return self._parts.server.address

    @property
    def topology(self) -> Topology:
        """What this node knows of the mesh."""
        return self._parts.state.topology

    @property
    def tls(self) -> TLSConfig:
        """The identity of this node."""
        return self._parts.state.tls

    @property
    def health(self) -> HealthInfo:
        """The result of the last health checks."""
        return self._parts.monitor.info

    @property
    def may_provide(self) -> ProviderAuthorizer:
        """Applies the policy's `provide` rules; pass it as `may_provide` to pools of your own."""
        return self._parts.may_provide

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        """Returns the certificate of a node; None if it is unknown or signs nothing itself."""
        state = self._parts.state
        return state.verifier.certificate_of(state.topology.get_record(node_id))


class HasPeers(Protocol[ManagerT_co]):
    """A node of either face."""

    @property
    def peers(self) -> ManagerT_co: ...


def through_peers(
    method: Callable[Concatenate[ManagerT, P], R],
) -> Callable[Concatenate[HasPeers[ManagerT], P], R]:
    """Makes a method of a node that calls this method of the node's `peers`."""

    @functools.wraps(method)
    def delegate(self: HasPeers[ManagerT], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.peers, *args, **kwargs)

    if not inspect.iscoroutinefunction(method):
        return delegate

    @functools.wraps(method)
    async def delegate_async(self: HasPeers[ManagerT], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await method(self.peers, *args, **kwargs)

    # Only a coroutine function is documented as one.
    return cast("Callable[Concatenate[HasPeers[ManagerT], P], R]", delegate_async)
