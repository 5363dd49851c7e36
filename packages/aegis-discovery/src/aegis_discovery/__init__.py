"""Service discovery and client-side balancing over mutual TLS: all that a pure client imports."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_discovery._calls.balancers import Balancer, EndpointView, LeastRequests, RoundRobin
    from aegis_discovery._calls.options import PoolOptions
    from aegis_discovery._calls.stats import EndpointState, EndpointStats, PoolStats, ServiceStats
    from aegis_discovery._calls.sync.pool import ServiceClientPool
    from aegis_discovery._client.mesh import Mesh, connect
    from aegis_discovery._client.renew import renew
    from aegis_discovery._model import DEFAULT_MESH, HealthStatus, NodeInfo, NodeStatus, ServiceInfo
    from aegis_discovery._topology.events import EventKind, TopologyEvent
    from aegis_discovery._topology.merge import MergeResult
    from aegis_discovery._topology.topology import Topology, TopologySnapshot
    from aegis_discovery.enrolment._enroll import enroll
    from aegis_discovery.errors import (
        ClosedError,
        ConnectError,
        DiscoveryError,
        EnrolmentError,
        ForkedError,
        InvalidAddressError,
        InvalidDocumentError,
        InvalidRecordError,
        InvalidVerdictError,
        NodeIdInUseError,
        NodeNotFoundError,
        NoProvidersError,
        NotOwnerError,
        PeerIdentityError,
        ServiceConfigError,
        TokenError,
    )
    from aegis_discovery.signals import EdgeStats, LatencyStats

# The core of gRPC writes a line to standard error for each handshake that fails, each GOAWAY with a
# reason, and, as an error, each call that it refuses for many headers or compression: strangers and
# members could fill a disk. It reads this variable when `grpc` is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__all__ = [
    "DEFAULT_MESH",
    "Balancer",
    "ClosedError",
    "ConnectError",
    "DiscoveryError",
    "EdgeStats",
    "EndpointState",
    "EndpointStats",
    "EndpointView",
    "EnrolmentError",
    "EventKind",
    "ForkedError",
    "HealthStatus",
    "InvalidAddressError",
    "InvalidDocumentError",
    "InvalidRecordError",
    "InvalidVerdictError",
    "LatencyStats",
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
    "TokenError",
    "Topology",
    "TopologyEvent",
    "TopologySnapshot",
    "connect",
    "enroll",
    "renew",
]

_HOMES = {
    "Balancer": "_calls.balancers",
    "DEFAULT_MESH": "_model",
    "EdgeStats": "signals",
    "EndpointState": "_calls.stats",
    "EndpointStats": "_calls.stats",
    "EndpointView": "_calls.balancers",
    "EventKind": "_topology.events",
    "HealthStatus": "_model",
    "LatencyStats": "signals",
    "LeastRequests": "_calls.balancers",
    "MergeResult": "_topology.merge",
    "Mesh": "_client.mesh",
    "NodeInfo": "_model",
    "NodeStatus": "_model",
    "PoolOptions": "_calls.options",
    "PoolStats": "_calls.stats",
    "RoundRobin": "_calls.balancers",
    "ServiceClientPool": "_calls.sync.pool",
    "ServiceInfo": "_model",
    "ServiceStats": "_calls.stats",
    "Topology": "_topology.topology",
    "TopologyEvent": "_topology.events",
    "TopologySnapshot": "_topology.topology",
    "connect": "_client.mesh",
    "enroll": "enrolment._enroll",
    "renew": "_client.renew",
}


def __getattr__(name: str) -> Any:
    # Feeds, signatures and protos take longer to load than gRPC itself, and a program that uses
    # only a model, an error or a proto needs none of them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
