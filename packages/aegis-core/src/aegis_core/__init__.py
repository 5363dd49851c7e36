"""A node of the mesh in your process: identity, mutual TLS, a live topology, balanced calls."""

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
from aegis_core._node.sync_node import MeshServer, Node, PeerManager
from aegis_core._node.workers.run import run_workers
from aegis_core._peers.info import PeerInfo
from aegis_core._peers.manager import SyncReport
from aegis_core._stats import CallStats, FeedStats, NodeStats
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
    "MeshError",
    "MeshServer",
    "NoCertificateError",
    "NoPeerInfoError",
    "NoProvidersError",
    "NoTLSConfigError",
    "NoTLSInfoError",
    "Node",
    "NodeIdInUseError",
    "NodeInfo",
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
