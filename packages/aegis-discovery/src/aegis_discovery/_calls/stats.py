"""Statistics of a pool: frozen values that `dataclasses.asdict` turns into JSON."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis_discovery._runtime.edge_stats import EdgeStats


class EndpointState(StrEnum):
    """Whether an endpoint gets calls, and if not, why."""

    READY = "ready"
    UNREACHED = "unreached"
    EJECTED = "ejected"
    UNWELL = "unwell"


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """One provider of a service.

    Attributes:
        node_id: The id of the provider.
        address: Its address.
        state: Ready; unreached or ejected, as our calls showed; unwell, as the mesh or the
            provider itself reports. A new provider is unreached until it answered a probe.
        under_way: Our calls to it that have not ended, for any service.
    """

    node_id: str
    address: str
    state: EndpointState
    under_way: int


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """One service that the pool calls.

    The counters start with the pool, or when a service is first used again after it had neither a
    provider nor a channel.

    Attributes:
        name: Its name.
        version: Its version.
        picks: Endpoints chosen for calls and their retries.
        retries: Retries of calls at another provider.
        retries_refused: Retries that the retry budget did not allow.
        ejections: How often a provider was ejected.
        sheds: Calls that a provider shed because it was overloaded.
        denials: The number of nodes that declare the service now and may not provide it.
        endpoints: Its present providers, by node id.
    """

    name: str
    version: str
    picks: int
    retries: int
    retries_refused: int
    ejections: int
    sheds: int
    denials: int
    endpoints: tuple[EndpointStats, ...]


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A snapshot of a pool.

    Attributes:
        services: The services that were called or asked for, by name and version, as long as they
            have providers or channels.
        edges: The attempts of calls, by method and provider.
    """

    services: tuple[ServiceStats, ...]
    edges: tuple[EdgeStats, ...]
