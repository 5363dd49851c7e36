"""A node of the mesh in your process: identity, mutual TLS, a live topology, balanced calls."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_certs import CertificateSource, TLSConfig, TLSOptions
    from aegis_discovery import (
        HealthStatus,
        NodeIdInUseError,
        NodeInfo,
        NodeStatus,
        NoProvidersError,
        PoolOptions,
        ServiceClientPool,
        ServiceInfo,
        Topology,
        TopologyEvent,
    )
    from aegis_discovery.policy import CallRule, Policy, PolicyError, ProvideRule

    from aegis_core._access.caller import Caller, caller_from_context
    from aegis_core._health.checks import FunctionHealthChecker, HealthChecker, HealthInfo
    from aegis_core._mesh_events import MeshEvent, NodeStanding
    from aegis_core._node.sync_node import MeshServer, Node, PeerManager
    from aegis_core._node.workers.run import run_workers
    from aegis_core._peers.info import PeerInfo
    from aegis_core._peers.manager import SyncReport
    from aegis_core._stats import (
        CallStats,
        FeedStats,
        LoadedPolicy,
        NodeStats,
    )
    from aegis_core.errors import (
        AddressInUseError,
        CallDeniedError,
        CallerError,
        CallerRefusedError,
        ConfigError,
        JoinError,
        MeshError,
        NoCertificateError,
        NodeStateError,
        NoPeerInfoError,
        NoTLSConfigError,
        NoTLSInfoError,
        PeerNotFoundError,
        RegistrarError,
        WorkerStartError,
    )

# As `aegis_discovery` does, which is loaded later: a program may import `grpc` before that.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__all__ = [
    "AddressInUseError",
    "CallDeniedError",
    "CallRule",
    "CallStats",
    "Caller",
    "CallerError",
    "CallerRefusedError",
    "CertificateSource",
    "ConfigError",
    "FeedStats",
    "FunctionHealthChecker",
    "HealthChecker",
    "HealthInfo",
    "HealthStatus",
    "JoinError",
    "LoadedPolicy",
    "MeshError",
    "MeshEvent",
    "MeshServer",
    "NoCertificateError",
    "NoPeerInfoError",
    "NoProvidersError",
    "NoTLSConfigError",
    "NoTLSInfoError",
    "Node",
    "NodeIdInUseError",
    "NodeInfo",
    "NodeStanding",
    "NodeStateError",
    "NodeStats",
    "NodeStatus",
    "PeerInfo",
    "PeerManager",
    "PeerNotFoundError",
    "Policy",
    "PolicyError",
    "PoolOptions",
    "ProvideRule",
    "RegistrarError",
    "ServiceClientPool",
    "ServiceInfo",
    "SyncReport",
    "TLSConfig",
    "TLSOptions",
    "Topology",
    "TopologyEvent",
    "WorkerStartError",
    "caller_from_context",
    "run_workers",
]

_HOMES = {
    "CallRule": "aegis_discovery.policy",
    "CallStats": "aegis_core._stats",
    "Caller": "aegis_core._access.caller",
    "CertificateSource": "aegis_certs",
    "FeedStats": "aegis_core._stats",
    "FunctionHealthChecker": "aegis_core._health.checks",
    "HealthChecker": "aegis_core._health.checks",
    "HealthInfo": "aegis_core._health.checks",
    "HealthStatus": "aegis_discovery",
    "LoadedPolicy": "aegis_core._stats",
    "MeshEvent": "aegis_core._mesh_events",
    "MeshServer": "aegis_core._node.sync_node",
    "NoProvidersError": "aegis_discovery",
    "Node": "aegis_core._node.sync_node",
    "NodeIdInUseError": "aegis_discovery",
    "NodeInfo": "aegis_discovery",
    "NodeStanding": "aegis_core._mesh_events",
    "NodeStats": "aegis_core._stats",
    "NodeStatus": "aegis_discovery",
    "PeerInfo": "aegis_core._peers.info",
    "PeerManager": "aegis_core._node.sync_node",
    "Policy": "aegis_discovery.policy",
    "PolicyError": "aegis_discovery.policy",
    "PoolOptions": "aegis_discovery",
    "ProvideRule": "aegis_discovery.policy",
    "ServiceClientPool": "aegis_discovery",
    "ServiceInfo": "aegis_discovery",
    "SyncReport": "aegis_core._peers.manager",
    "TLSConfig": "aegis_certs",
    "TLSOptions": "aegis_certs",
    "Topology": "aegis_discovery",
    "TopologyEvent": "aegis_discovery",
    "caller_from_context": "aegis_core._access.caller",
    "run_workers": "aegis_core._node.workers.run",
}


def __getattr__(name: str) -> Any:
    # gRPC, protobuf and certificates load slowly, and a program that uses only an error or a type
    # needs none of them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, f"{__name__}.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
