"""Creates a client from the arguments of `connect`, for the blocking and the async API."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis_certs import TLSConfig, UsageError

from aegis_discovery._client.bootstrap import (
    check_place,
    check_services,
    load_identity,
    parse_registry_alone,
    parse_seeds,
)
from aegis_discovery._client.feed_client import FeedClient
from aegis_discovery._model import DEFAULT_MESH, ServiceInfo

if TYPE_CHECKING:
    from aegis_discovery._calls.options import PoolOptions
    from aegis_discovery.enrolment import AnyToken
    from aegis_discovery.policy._rules import Policy
    from aegis_discovery.telemetry import OpenTelemetry


def create_client(
    *seed_peers: str,
    node_id: str | None = None,
    cert_dir: str | Path | None = "./certs",
    tls: TLSConfig | None = None,
    token: AnyToken | None = None,
    mesh: str = DEFAULT_MESH,
    registry: str | None = None,
    services: Collection[ServiceInfo] = (),
    policy: Policy | None = None,
    region: str = "",
    zone: str = "",
    pool_options: PoolOptions | None = None,
    telemetry: OpenTelemetry | None = None,
    timeout: float = 10.0,
    wait: bool = True,
) -> tuple[FeedClient, dict[str, Any]]:
    """Returns a client that is not started yet, and the arguments of its pool; reads files."""
    followed = None if registry is None else parse_registry_alone(registry, seed_peers)
    seeds = parse_seeds(seed_peers) if followed is None else ()
    wanted = check_services(services)
    check_place(region, zone)
    source, identity = load_identity(node_id, cert_dir, tls, token, mesh)
    if "client" not in identity.usages:
        raise UsageError(identity.node_id, "client")
    client = FeedClient(
        source,
        identity,
        seeds,
        mesh=mesh,
        registry=followed,
        services=wanted,
        policy=policy,
        region=region,
        timeout=timeout if wait else None,
    )
    return client, {
        "source": client.topology,
        "region": region,
        "zone": zone,
        "may_provide": client.may_provide,
        "telemetry": telemetry,
        **({} if pool_options is None else vars(pool_options)),
    }


# Python's error of a wrong keyword names the function that the user called.
create_client.__qualname__ = "connect"
