"""Asks about one node."""

from __future__ import annotations

from datetime import UTC, datetime

from aegis_cli._mesh.connecting import reading
from aegis_cli._mesh.live import Place
from aegis_cli._output.answer import Answer
from aegis_cli._view.events import why
from aegis_cli._view.nodes import ping


async def explain(place: Place, node_id: str) -> Answer:
    """Why a node has its status, and whether it answers here.

    Raises:
        UnknownNodeError: The mesh knows no such node, and the node that was asked saw none leave.
    """
    async with reading(place) as reader:
        told = await reader.explain(node_id)
        node = reader.topology.get_node(node_id)
        if node is None and not told.get("known") and not told.get("events"):
            reader.node(node_id)
        trip = await reader.ping(node) if node else None
        return why(told, trip, datetime.now(UTC))


async def send_pings(place: Place, node_id: str, count: int) -> Answer:
    """Pings a node; the first ping, which includes a handshake, is sent twice and not counted."""
    async with reading(place) as reader:
        node = reader.node(node_id)
        found = [await reader.ping(node)]
        if isinstance(found[0], float):
            found = [await reader.ping(node) for _ in range(count)]
        problem = next((one for one in found if isinstance(one, str)), "")
        trips = [one if isinstance(one, float) else None for one in found]
        return ping(node.id, node.address, trips, problem, datetime.now(UTC))
