"""Renews an identity of a directory now, at an issuer of the mesh."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aegis_certs import IdentitySource, TLSConfig

from aegis_discovery._client.bootstrap import parse_seeds
from aegis_discovery._client.feed_client import FeedClient
from aegis_discovery._model import DEFAULT_MESH
from aegis_discovery.enrolment._known import known_issuers
from aegis_discovery.enrolment._renewal import MeshRenewal

TIMEOUT = 30.0
"""Seconds in which a node must answer, by default; the issuers have as many."""


async def renew(
    *seed_peers: str,
    node_id: str,
    cert_dir: str | Path = "./certs",
    mesh: str = DEFAULT_MESH,
    timeout: float = TIMEOUT,
) -> TLSConfig:
    """Renews an identity of a directory now, as `aegis_discovery.renew`."""
    seeds = parse_seeds(seed_peers)
    source = IdentitySource.directory(node_id, cert_dir, create_ca=False)
    tls = await asyncio.to_thread(source.load)
    client = FeedClient(source, tls, seeds, mesh=mesh, timeout=timeout, renews=False)
    await client.start()
    try:
        renewal = MeshRenewal(source, lambda: known_issuers(client.documents, client.topology))
        try:
            return await asyncio.to_thread(renewal.renew, tls, timeout)
        finally:
            renewal.close()
    finally:
        await client.close()
