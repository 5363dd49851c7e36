"""The options of a node, as both faces of it take them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Required, TypedDict

import grpc
from aegis_certs import TLSConfig, TLSOptions
from aegis_discovery import PoolOptions, ServiceInfo
from aegis_discovery.policy import Policy

from aegis_core._health.checks import HealthChecker
from aegis_core._server.server import Registrar


class NodeArguments(TypedDict, total=False):
    """What `aegis_core.aio.Node` takes beside the id; its docstring tells what each one means."""

    address: Required[str]
    advertise: str | None
    name: str | None
    type: str
    services: Sequence[ServiceInfo]
    region: str
    zone: str
    registrars: Sequence[Registrar]
    cert_dir: str | Path | None
    tls_options: TLSOptions | None
    tls: TLSConfig | None
    seed_peers: Sequence[str]
    mesh: str
    health_checkers: Sequence[HealthChecker]
    health_interval: float
    interceptors: Sequence[grpc.aio.ServerInterceptor]
    join_timeout: float
    grace: float
    max_concurrent_calls: int | None
    policy: Policy | str | Path | None
    pool_options: PoolOptions | None
