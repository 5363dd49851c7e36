"""Who is in the mesh, who provides what, and calls to them: all that a pure client imports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_discovery._balancers import Balancer, EndpointView, LeastRequests, RoundRobin
    from aegis_discovery._connect import DEFAULT_MESH
    from aegis_discovery._events import EventKind, TopologyEvent
    from aegis_discovery._ledger import MergeResult
    from aegis_discovery._mesh import Mesh, connect
    from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus, ServiceInfo
    from aegis_discovery._pool import ServiceClientPool
    from aegis_discovery._pool_options import PoolOptions
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
    "PoolOptions",
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

_HOMES = {
    "Balancer": "_balancers",
    "DEFAULT_MESH": "_connect",
    "EndpointState": "_pool_stats",
    "EndpointStats": "_pool_stats",
    "EndpointView": "_balancers",
    "EventKind": "_events",
    "HealthStatus": "_model",
    "LeastRequests": "_balancers",
    "MergeResult": "_ledger",
    "Mesh": "_mesh",
    "NodeInfo": "_model",
    "NodeStatus": "_model",
    "PoolOptions": "_pool_options",
    "PoolStats": "_pool_stats",
    "RoundRobin": "_balancers",
    "ServiceClientPool": "_pool",
    "ServiceInfo": "_model",
    "ServiceStats": "_pool_stats",
    "Topology": "_topology",
    "TopologyEvent": "_events",
    "TopologySnapshot": "_topology",
    "connect": "_mesh",
}


def __getattr__(name: str) -> Any:
    # A feed, its signatures and its protos take longer to load than gRPC itself; who wants a model,
    # an error or a proto needs none of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
