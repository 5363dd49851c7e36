"""Lets a node drain and end, by an order that its CA signs, or of a caller whom a policy names."""

from __future__ import annotations

import asyncio
import time

import grpc
from aegis_certs import PublishedFiles, owner_of
from aegis_discovery import NodeStatus
from aegis_discovery.documents import Forgotten, publish_drained

from aegis_cli._mesh.connecting import MeshPlace, reading
from aegis_cli.errors import NotDrainedError, UnknownNodeError

_PATIENCE = 10.0
"""Seconds that the command waits until the node has left."""


async def drain(node_id: str, place: MeshPlace, files: PublishedFiles | None) -> bool:
    """Orders a node to drain; returns whether it has left the mesh already.

    Args:
        node_id: The node.
        place: Where the mesh is, and the identity of this command.
        files: Of the directory of the CA; None to ask the node itself with that identity.

    Raises:
        UnknownNodeError: The mesh knows no such node.
        NotDrainedError: It is not alive, or does not obey this identity.
        ConnectError: No node accepts this client.
        aegis_certs.CertsError: The directory of the CA cannot be written.
    """
    async with reading(place) as reader:
        topology, node = reader.topology, reader.node(node_id)
        record = topology.get_record(node_id)
        if record is None:
            raise UnknownNodeError(node_id)  # it has left since then
        if owner_of(node_id) != node_id:
            reason = "it is a worker, which its supervisor would start again; stop the supervisor"
            raise NotDrainedError(node_id, reason)
        if record.voucher is not None:
            reason = "it is of another kind and obeys no orders; stop it where it runs"
            raise NotDrainedError(node_id, reason)
        if node.status is NodeStatus.FAILED:
            reason = "it has failed, so it serves nobody; `aegis mesh forget` removes it"
            raise NotDrainedError(node_id, reason)
        if files is None:
            try:
                await reader.drain(node, record.instance)
            except grpc.aio.AioRpcError as error:
                raise NotDrainedError(node_id, _why(error)) from None
        else:
            until = max(record.stamp, round(time.time() * 1000))
            order = Forgotten(node_id, record.instance, until)
            await asyncio.to_thread(publish_drained, files, order)
        deadline = time.monotonic() + _PATIENCE
        while topology.get_node(node_id) is not None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.1)
        return True


def _why(error: grpc.aio.AioRpcError) -> str:
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        return (
            "its policy does not let this identity drain it; name it in a call rule for "
            "aegis.mesh.v1.Operations, or run this command where the CA's key is"
        )
    return error.details() or error.code().name
