"""Rows of real processes, one for each node."""

from __future__ import annotations

import asyncio
import math
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable

from process_group import ProcessGroup
from table import Measured, Row

CHANGES = 150
KILLS = 7
QUIET = 15.0
"""Seconds after the mesh is one, for the work that follows from joining."""

IDLE = 30.0
"""Seconds over which idle traffic is counted."""


async def change(group: ProcessGroup) -> Measured:
    """A node changes its record: the time until the last other node knows."""
    taken = []
    for number in range(CHANGES):
        await asyncio.sleep(random.uniform(0.03, 0.1))
        changed = random.choice(group.ids)
        name = f"changed-{number}"
        since = group.positions()
        report = await group.workers[changed].ask("rename", name)
        others = [node_id for node_id in group.ids if node_id != changed]
        last_report_at = await group.last_report_at(
            others, lambda message, n=name: message.get("name") == n, since
        )
        taken.append((last_report_at - report["at"]) * 1000)
    taken.sort()
    p99 = taken[math.ceil(0.99 * len(taken)) - 1]
    return Measured((statistics.median(taken), p99), f"{CHANGES} changes, slowest {taken[-1]:.0f}")


async def kill(group: ProcessGroup) -> Measured:
    """A process is killed: the time until the last other node sees it as failed."""
    taken = []
    for _ in range(KILLS):
        await group.settle()
        killed = random.choice(group.ids)
        since = group.positions()
        killed_at = time.monotonic()
        group.workers[killed].process.send_signal(signal.SIGKILL)
        last_report_at = await group.last_report_at(
            [node_id for node_id in group.ids if node_id != killed],
            lambda message, k=killed: (message.get("kind"), message.get("id")) == ("failed", k),
            since,
        )
        taken.append(last_report_at - killed_at)
        await group.workers.pop(killed).kill()
        await group.start(killed)
    middle = statistics.median(taken)
    return Measured((max(taken),), f"the slowest of {KILLS}, median {middle:.2f}")


async def idle(group: ProcessGroup) -> Measured:
    """Nothing happens: the traffic of an idle node."""
    await asyncio.sleep(QUIET)
    began, sent = time.monotonic(), group.namespace.octets_sent()
    await asyncio.sleep(IDLE)
    sent = group.namespace.octets_sent() - sent
    rate = sent / (time.monotonic() - began) / len(group.ids)
    return Measured((rate / 1000,), f"over {IDLE:.0f} s; acknowledgements included")


def with_group(measure: Callable[[ProcessGroup], Awaitable[Measured]]) -> Callable[[int], Measured]:
    async def run(nodes: int) -> Measured:
        async with ProcessGroup.of(nodes) as group:
            return await measure(group)

    return lambda nodes: asyncio.run(run(nodes))


ROWS = (
    Row(
        *("change", "a change is known everywhere, real processes; median / p99"),
        *((50, 250), "ms", 20, with_group(change)),
    ),
    Row(
        *("kill", "a SIGKILLed process is known everywhere, real processes"),
        *((2,), "s", 20, with_group(kill)),
    ),
    Row(
        *("idle", "idle traffic sent per node, IP bytes, real processes"),
        *((1.2,), "kB/s", 100, with_group(idle)),
    ),
)
