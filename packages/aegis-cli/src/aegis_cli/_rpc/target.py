"""The providers that a command calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from aegis_certs import TLSConfig
from aegis_discovery import Mesh, PoolOptions, ServiceInfo, connect
from aegis_discovery.transport import open_channel, parse_seed, probe_identity

from aegis_cli._rpc.reflection import Reflection
from aegis_cli.errors import NotProvidedError

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of the largest answer; gRPC's default of 4 MiB is too small for some services."""

_OPTIONS = (("grpc.max_receive_message_length", MAX_MESSAGE),)


@dataclass(frozen=True, slots=True)
class Target:
    """A service of a mesh, or one provider of it.

    Attributes:
        channel: Calls go through it.
        reflection: What one of the providers says of its services.
    """

    channel: Any
    reflection: Reflection


@contextmanager
def open_target(
    service: ServiceInfo,
    via: str,
    tls: TLSConfig,
    *,
    mesh: str,
    node: str | None,
    region: str | None,
    zone: str | None,
) -> Iterator[Target]:
    """Connects to a mesh, and opens a channel to a service.

    Args:
        service: The service.
        via: `[ID@]HOST:PORT` of any node of the mesh.
        tls: Our identity.
        mesh: The mesh's name.
        node: The only provider to call; None to balance the calls.
        region: Where this caller is, if it says so.
        zone: The part of that.

    Raises:
        NotProvidedError: If no node, or not this one, provides the service.
        NoProvidersError: If its providers offer it in other regions only.
        ConnectError: If `via` accepts no client.
    """
    pool_options = PoolOptions(options=_OPTIONS)
    # `connect` retries until its timeout; here the first answer decides.
    peer = parse_seed(via)
    answered = probe_identity(peer.address, tls)
    if peer.node_id is None:
        via = f"{answered.node_id}@{peer.address}"
    with connect(
        via,
        tls=tls,
        mesh=mesh,
        services=[service],
        region=region or "",
        zone=zone or "",
        pool_options=pool_options,
    ) as client:
        # A failed provider is not called by the pool, but may be named.
        providers = sorted(
            found.id
            for found in client.topology.nodes.values()
            if found.provides(*service.key) and (node is None or found.id == node)
        )
        if not providers:
            raise NotProvidedError(str(service), node, _all_providers(client, service))
        one = _open(client, providers[0], tls) if node is not None else None
        try:
            channel = one or client.pool.channel(service.name, service.version)
            asked = one or client.pool.get_conn(service.name, service.version)
            yield Target(channel, Reflection(asked, node or str(service)))
        finally:
            if one is not None:
                one.close()


def _all_providers(client: Mesh, service: ServiceInfo) -> list[str]:
    return sorted(n.id for n in client.topology.nodes.values() if n.provides(*service.key))


def _open(client: Mesh, node_id: str, tls: TLSConfig) -> grpc.Channel:
    return open_channel(tls, node_id, client.topology.nodes[node_id].address, options=_OPTIONS)
