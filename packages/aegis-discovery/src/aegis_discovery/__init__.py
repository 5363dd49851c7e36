"""Who is in the mesh, who provides what, and calls to them: all that a pure client imports."""

from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._topology import (
    EventKind,
    MergeResult,
    Topology,
    TopologyEvent,
    TopologySnapshot,
)
from aegis_discovery.errors import (
    ClosedError,
    ConnectError,
    DiscoveryError,
    InvalidRecordError,
    NodeIdInUseError,
    NodeNotFoundError,
    NoProvidersError,
    NotOwnerError,
    PeerIdentityError,
)

__all__ = [
    "ClosedError",
    "ConnectError",
    "DiscoveryError",
    "EventKind",
    "HealthStatus",
    "InvalidRecordError",
    "MergeResult",
    "NoProvidersError",
    "NodeIdInUseError",
    "NodeInfo",
    "NodeNotFoundError",
    "NodeStatus",
    "NotOwnerError",
    "PeerIdentityError",
    "ServiceInfo",
    "Topology",
    "TopologyEvent",
    "TopologySnapshot",
]
