"""What a pool tells of itself: frozen values that turn into JSON by `dataclasses.asdict`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EndpointState(StrEnum):
    """Whether calls go to an endpoint, and if not, why."""

    READY = "ready"
    UNREACHED = "unreached"
    EJECTED = "ejected"
    UNWELL = "unwell"


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """One provider of a service.

    Attributes:
        node_id: The provider.
        address: Where it is called.
        state: Ready; unreached or ejected by what our calls met; unwell as the mesh or it says.
        under_way: Our calls to it that have not ended, whatever their service.
    """

    node_id: str
    address: str
    state: EndpointState
    under_way: int


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """One service that the pool calls; counts are since the pool was made.

    Attributes:
        name: Its name.
        version: Its version.
        picks: Endpoints chosen: calls and their retries.
        retries: Calls that went on at another provider.
        retries_refused: Those that did not, since the budget was spent.
        ejections: How often a provider was ejected.
        sheds: Calls that a provider shed since it had too many.
        denials: Nodes that declare the service now and may not provide it.
        endpoints: Its providers now, by node id.
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
        services: Those that were called or asked for, by name and version.
    """

    services: tuple[ServiceStats, ...]
