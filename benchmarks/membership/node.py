"""A small node that prints when it learns what, by the clock that all processes share."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from dataclasses import replace
from typing import Any

from aegis_core import NodeStatus, ServiceInfo, TopologyEvent
from aegis_core.aio import Node


def report(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def report_event(event: TopologyEvent) -> None:
    at = time.monotonic()
    report(at=at, kind=event.kind, id=event.node.id, name=event.node.name)


def rename(node: Node, name: str) -> None:
    own = node.topology.nodes[node.id]
    at = time.monotonic()
    node.topology.update_node(replace(own, name=name))
    report(rename=name, at=at)


def view(node: Node) -> None:
    nodes = node.topology.nodes.values()
    alive = sum(other.status is NodeStatus.ALIVE for other in nodes)
    report(view=node.topology.digest.hex(), alive=alive)


async def main() -> None:
    # Failed peers are what is measured, and no error.
    logging.basicConfig(level=logging.ERROR)
    options = json.loads(sys.argv[1])
    node = Node(**options, address="127.0.0.1:0", services=[ServiceInfo("echo", "v1")])
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    await node.start()
    report(ready=node.address)
    node.topology.subscribe(report_event)
    async for line in commands:
        match line.decode().split():
            case ["rename", name]:
                rename(node, name)
            case ["view"]:
                view(node)
    await node.stop(grace=0)


asyncio.run(main())
