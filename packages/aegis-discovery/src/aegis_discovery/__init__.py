"""Who is in the mesh, who provides what, and calls to them: all that a pure client imports."""

from aegis_discovery._balancers import Balancer, EndpointView, LeastRequests, RoundRobin
from aegis_discovery._connect import DEFAULT_MESH
from aegis_discovery._events import EventKind, TopologyEvent
from aegis_discovery._ledger import MergeResult
from aegis_discovery._mesh import Mesh, connect
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._pool import ServiceClientPool
from aegis_discovery._pool_stats import EndpointState, EndpointStats, PoolStats, ServiceStats
from aegis_discovery._topology import Topology, TopologySnapshot
from aegis_discovery.errors import (
    ClosedError,
    ConnectError,
    DiscoveryError,
    ForkedError,
    InvalidAddressError,
    InvalidRecordError,
    InvalidVerdictError,
    NodeIdInUseError,
    NodeNotFoundError,
    NoProvidersError,
    NotOwnerError,
    PeerIdentityError,
    ServiceConfigError,
)

__all__ = [
    "DEFAULT_MESH",
    "Balancer",
    "ClosedError",
    "ConnectError",
    "DiscoveryError",
    "EndpointState",
    "EndpointStats",
    "EndpointView",
    "EventKind",
    "ForkedError",
    "HealthStatus",
    "InvalidAddressError",
    "InvalidRecordError",
    "InvalidVerdictError",
    "LeastRequests",
    "MergeResult",
    "Mesh",
    "NoProvidersError",
    "NodeIdInUseError",
    "NodeInfo",
    "NodeNotFoundError",
    "NodeStatus",
    "NotOwnerError",
    "PeerIdentityError",
    "PoolStats",
    "RoundRobin",
    "ServiceClientPool",
    "ServiceConfigError",
    "ServiceInfo",
    "ServiceStats",
    "Topology",
    "TopologyEvent",
    "TopologySnapshot",
    "connect",
]
