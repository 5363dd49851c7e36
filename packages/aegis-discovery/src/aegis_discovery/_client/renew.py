"""The blocking form of `aio_renew`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aegis_certs import TLSConfig

from aegis_discovery._client import aio_renew
from aegis_discovery._model import DEFAULT_MESH
from aegis_discovery.background import BackgroundLoop


def renew(
    *seed_peers: str,
    node_id: str,
    cert_dir: str | Path = "./certs",
    mesh: str = DEFAULT_MESH,
    timeout: float = aio_renew.TIMEOUT,
) -> TLSConfig:
    """Renews an identity of a directory now, at an issuer of the mesh, whether it is due or not.

    Nodes and clients do this by themselves while they run. Only the issuers that the CA of the mesh
    lists are asked.

    Args:
        seed_peers: `host:port` or `id@host:port` of nodes of the mesh.
        node_id: The id in the certificate.
        cert_dir: The directory of certificates.
        mesh: The name of the mesh.
        timeout: Seconds in which a node must answer, and then an issuer.

    Raises:
        ConnectError: If no seed peer accepted the identity.
        EnrolmentError: If no issuer gave a certificate.
        aegis_certs.CertsError: If the identity cannot be loaded, or another process renews it.
    """
    background = BackgroundLoop("aegis-renewal", asyncio.new_event_loop)
    try:
        return background.run(
            aio_renew.renew(
                *seed_peers, node_id=node_id, cert_dir=cert_dir, mesh=mesh, timeout=timeout
            )
        )
    finally:
        background.close()
