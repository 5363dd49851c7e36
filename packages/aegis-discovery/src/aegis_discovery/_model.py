"""The values that topology, pool and node have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

DEFAULT_MESH = "aegis"
"""The name of a mesh that was given no other."""


class NodeStatus(StrEnum):
    """Whether a node takes part in the mesh, as derived from verdicts; the node cannot set it.

    `UNREACHABLE` says that the node's region is silent as a whole: it may well run.
    """

    ALIVE = "alive"
    SUSPECTED = "suspected"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    LEFT = "left"


class HealthStatus(StrEnum):
    """The health that a node reports of itself; calls avoid unhealthy providers only."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, order=True)
class ServiceInfo:
    """A service: its name and its version, both compared exactly.

    Attributes:
        name: The name.
        version: The version.
        scope: Who is to call it: the whole `mesh`, or only callers that say they are in the
            `region` of the provider. No certificate names a region, so this is no access control:
            every process of the mesh knows the service, and a policy decides who may call it.

    Raises:
        ValueError: If the scope is neither.
    """

    name: str
    version: str
    scope: str = "mesh"

    def __post_init__(self) -> None:
        if self.scope not in ("mesh", "region"):
            raise ValueError(f"{self.scope!r} is no scope of a service; give 'mesh' or 'region'")

    def __str__(self) -> str:
        return f"{self.name}/{self.version}{'@region' * (self.scope == 'region')}"

    @property
    def key(self) -> tuple[str, str]:
        """Its name and version, which are all that a caller asks for."""
        return self.name, self.version


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the mesh knows about one node.

    Attributes:
        id: The node id: the common name of its certificate.
        name: A name for display; the id by default.
        type: The kind of node, in free text; `generic` by default.
        address: The `host:port` at which others reach it.
        services: The services that it provides.
        joined_at: When this process of the node started (UTC).
        updated_at: When the node last changed its record (UTC).
        health: The health that the node reports.
        status: The status that the mesh derived; not a part of the record.
        vouched_by: The node that publishes this record for a peer that signs nothing.
        trust_bundle: SHA-256 of the roots that the node trusts, in hexadecimal. During a CA
            rotation it shows which nodes already trust the new CA.
        region: Where it runs, as its operators name it; callers prefer providers nearby.
        zone: A part of the region.
        boundary: `region` if membership is to stay inside regions, which takes effect once all
            nodes say so; else empty.
        silent_regions: The regions that this node, a bridge of its own one, does not hear.
        registry: `etcd` if it knows the mesh by that alone, and opens no feeds; else empty.
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
    boundary: str = ""
    registry: str = ""
    silent_regions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "services", tuple(self.services))
        if not self.name:
            object.__setattr__(self, "name", self.id)

    def provides(self, name: str, version: str) -> bool:
        """Returns whether the node declares this service, for whichever callers."""
        return any(service.key == (name, version) for service in self.services)

    def offers(self, name: str, version: str, *, region: str) -> bool:
        """Returns whether the node declares this service for callers in a region.

        A record is signed, so it has the services of every scope everywhere; readers leave out what
        is not for them.
        """
        is_near = region == self.region
        return any(
            service.key == (name, version) and (is_near or service.scope == "mesh")
            for service in self.services
        )
