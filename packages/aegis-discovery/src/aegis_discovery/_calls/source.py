"""What the calls need of a topology."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from aegis_discovery._model import NodeInfo


class ProviderChange(Protocol):
    """One provider that changed: as it is now, or None if it does not declare the service any more.

    It may have failed.
    """

    @property
    def service(self) -> tuple[str, str]: ...

    @property
    def node_id(self) -> str: ...

    @property
    def node(self) -> NodeInfo | None: ...


class ProviderChanges(Protocol):
    """Changes, and the position that a reader reaches with them."""

    @property
    def position(self) -> int: ...

    @property
    def providers(self) -> Iterable[ProviderChange]: ...


class ProviderIndex(Protocol):
    """Tells, without a lock, whether providers changed."""

    position: int

    def changed_at(self, name: str, version: str) -> int:
        """Returns the position of a service's last change; 0 if it has no provider."""

    def failed(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the nodes that would provide a service and have failed."""


class ProviderSource(Protocol):
    """What the pool needs of a topology."""

    @property
    def node_count(self) -> int:
        """The number of known nodes."""

    @property
    def provider_index(self) -> ProviderIndex:
        """The index of the providers."""

    def get_node(self, node_id: str) -> NodeInfo | None:
        """Returns a node; None if it is unknown."""

    def provider_changes_since(self, position: int) -> ProviderChanges | None:
        """Returns the providers that changed after a position; None if that is too long ago."""

    def get_service_providers(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the providers by node id."""

    def get_service_versions(self, name: str) -> tuple[str, ...]:
        """Returns the versions of a service that nodes provide."""

    def subscribe_changed(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Calls `listener` after every change; returns what unsubscribes it."""
