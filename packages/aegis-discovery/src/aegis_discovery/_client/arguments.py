"""Keyword arguments, for type checkers and for the documentation; programs do not load this."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from aegis_certs import TLSConfig

from aegis_discovery._model import ServiceInfo

if TYPE_CHECKING:
    from aegis_discovery._calls.options import PoolOptions
    from aegis_discovery.enrolment import AnyToken
    from aegis_discovery.policy._rules import Policy
    from aegis_discovery.telemetry import OpenTelemetry


class ConnectArguments(TypedDict, total=False):
    """The keyword arguments of `connect`; `aegis_discovery.connect` documents them."""

    node_id: str | None
    cert_dir: str | Path | None
    tls: TLSConfig | None
    token: AnyToken | None
    mesh: str
    registry: str | None
    services: Collection[ServiceInfo]
    policy: Policy | None
    region: str
    zone: str
    pool_options: PoolOptions | None
    telemetry: OpenTelemetry | None
    timeout: float
    wait: bool
