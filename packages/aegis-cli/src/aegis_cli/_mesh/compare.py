"""Reads the views of two nodes, to compare them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aegis_discovery import NodeInfo

from aegis_cli._mesh.connecting import reading
from aegis_cli._mesh.live import Place
from aegis_cli._mesh.reader import Reader
from aegis_cli._output.answer import Answer
from aegis_cli._view.difference import Held, difference
from aegis_cli._view.model import items_of, text_of

SETTLE = 1.0
"""Seconds after which a difference is looked at again: news may have been on the way."""


async def compare(place: Place, a: str, b: str) -> Answer:
    """Compares the views of two nodes; what differs only for a moment does not count.

    Raises:
        UnknownNodeError: The mesh knows no such node.
        ConnectError: A node does not answer.
    """
    async with reading(place) as reader:
        places = [_place_of(reader.node(node_id)) for node_id in (a, b)]
    async with (
        reading(place.at(places[0])) as of_a,
        reading(place.at(places[1])) as of_b,
    ):
        answer = difference(await _held(of_a), await _held(of_b))
        if answer.wrong:
            await asyncio.sleep(SETTLE)
            answer = difference(await _held(of_a), await _held(of_b))
        return answer


def _place_of(node: NodeInfo) -> str:
    return f"{node.id}@{node.address}"


async def _held(reader: Reader) -> Held:
    stats = await reader.stats(reader.source, ("documents", "policies"))
    topology = reader.topology
    snapshot = topology.snapshot()
    records = {record.id: record for record in snapshot.records}
    nodes = {
        node_id: _facts(node, records[node_id].stamp, records[node_id].instance)
        for node_id, node in snapshot.nodes.items()
    }
    documents = stats.get("documents")
    return Held(
        reader.source.id,
        snapshot.digest.hex(),
        nodes,
        {text_of(kind): int(one) for kind, one in documents.items() if isinstance(one, int)}
        if isinstance(documents, dict)
        else {},
        [
            f"{text_of(one.get('source'))} {text_of(one.get('sha256'))[:12]}".strip()
            for one in items_of(stats.get("policies"))
        ],
    )


def _facts(node: NodeInfo, stamp: int, instance: str) -> Mapping[str, str]:
    return {
        "status": str(node.status),
        "process": instance[:12],
        "record": str(stamp),
        "address": node.address,
        "health": str(node.health),
        "services": ", ".join(map(str, node.services)),
    }
