"""Lets the mesh forget a node that failed."""

from __future__ import annotations

import asyncio
import time

from aegis_certs import PublishedFiles
from aegis_discovery import NodeStatus
from aegis_discovery.aio import Mesh
from aegis_discovery.documents import Forgotten, publish_forgotten

from aegis_cli._mesh.connecting import MeshPlace, reading
from aegis_cli.errors import NotForgottenError, UnknownNodeError

_PATIENCE = 10.0
"""Seconds that the command waits for an issuer to publish it."""


async def forget(node_id: str, place: MeshPlace, files: PublishedFiles) -> bool:
    """Asks the mesh to forget a node; returns whether it has vanished already.

    Raises:
        UnknownNodeError: The mesh knows no such node.
        NotForgottenError: It is alive.
        ConnectError: No node accepts this client.
        aegis_certs.CertsError: The directory of the CA cannot be written.
    """
    async with reading(place) as reader:
        client = reader.mesh
        life = _life_of(node_id, client)
        await asyncio.to_thread(publish_forgotten, files, life)
        deadline = time.monotonic() + _PATIENCE
        while client.topology.get_record(node_id) is not None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.1)
        return True


def _life_of(node_id: str, client: Mesh) -> Forgotten:
    record = client.topology.get_record(node_id)
    info = client.topology.get_node(node_id)
    if record is None:
        raise UnknownNodeError(node_id, sorted(client.topology.nodes))
    if info is not None and info.status is not NodeStatus.FAILED:
        reason = f"it is {info.status}; stop it first, and forget it once it has failed"
        raise NotForgottenError(node_id, reason)
    # Whatever this life has published so far; its clock may be ahead of this one.
    return Forgotten(node_id, record.instance, max(record.stamp, round(time.time() * 1000)))
