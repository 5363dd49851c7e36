"""Who is in the mesh, who provides what, and calls to them: all that a pure client imports."""

from aegis_discovery._connect import DEFAULT_MESH
from aegis_discovery._events import EventKind, TopologyEvent
from aegis_discovery._ledger import MergeResult
from aegis_discovery._mesh import Mesh, connect
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._pool import ServiceClientPool
from aegis_discovery._topology import Topology, TopologySnapshot
from aegis_discovery.errors import (
    ClosedError,
    ConnectError,
    DiscoveryError,
    InvalidAddressError,
    InvalidRecordError,
    InvalidVerdictError,
    NodeIdInUseError,
    NodeNotFoundError,
    NoProvidersError,
    NotOwnerError,
    PeerIdentityError,
)

__all__ = [
    "DEFAULT_MESH",
    "ClosedError",
    "ConnectError",
    "DiscoveryError",
    "EventKind",
    "HealthStatus",
    "InvalidAddressError",
    "InvalidRecordError",
    "InvalidVerdictError",
    "MergeResult",
    "Mesh",
    "NoProvidersError",
    "NodeIdInUseError",
    "NodeInfo",
    "NodeNotFoundError",
    "NodeStatus",
    "NotOwnerError",
    "PeerIdentityError",
    "ServiceClientPool",
    "ServiceInfo",
    "Topology",
    "TopologyEvent",
    "TopologySnapshot",
    "connect",
]
