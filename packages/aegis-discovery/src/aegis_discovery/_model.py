"""The values that topology, pool and node share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class NodeStatus(StrEnum):
    """Whether a node takes part in the mesh, as derived from its feeds; never written by it."""

    ALIVE = "alive"
    SUSPECTED = "suspected"
    FAILED = "failed"
    LEFT = "left"


class HealthStatus(StrEnum):
    """What a node says of itself; only unhealthy providers are passed over."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, order=True)
class ServiceInfo:
    """A service that a node provides: a name and a version, both compared exactly."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the mesh knows of one node.

    Attributes:
        id: The node id: the common name of its certificate.
        name: For people; the id where nothing else was given.
        type: What kind of node it is; free text, `generic` by default.
        address: `host:port` where others reach it.
        services: What it provides.
        joined_at: Start of this life of the node (UTC).
        updated_at: Last change that the node made to its record (UTC).
        health: What the node says of itself.
        status: What the mesh derived; no part of the record.
        vouched_by: The node that publishes this entry for a peer that signs nothing itself.
        trust_bundle: SHA-256 over the roots that the node trusts, in hexadecimal: during a
            rotation of the CA it tells who trusts the new one already.
        region: Where it runs, as its operators name it; callers prefer what is near.
        zone: A part of the region.
    """

    id: str
    name: str = ""
    type: str = "generic"
    address: str = ""
    services: tuple[ServiceInfo, ...] = ()
    joined_at: datetime | None = None
    updated_at: datetime | None = None
    health: HealthStatus = HealthStatus.UNKNOWN
    status: NodeStatus = NodeStatus.ALIVE
    vouched_by: str | None = None
    trust_bundle: str = ""
    region: str = ""
    zone: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "services", tuple(self.services))
        if not self.name:
            object.__setattr__(self, "name", self.id)

    def provides(self, name: str, version: str) -> bool:
        """Tells whether the node declares this service."""
        return ServiceInfo(name, version) in self.services
