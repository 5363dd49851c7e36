"""Rows of real processes, one for each node."""

from __future__ import annotations

import asyncio
import math
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable

from crew import ProcessGroup
from table import Measured, Row

CHANGES = 150
KILLS = 7
QUIET = 15.0
"""Seconds after the mesh is one, for the work that follows from joining."""

IDLE = 30.0
"""Seconds over which idle traffic is counted."""


async def change(crew: ProcessGroup) -> Measured:
    """A node changes its record: the time until the last other node knows."""
    taken = []
    for number in range(CHANGES):
        await asyncio.sleep(random.uniform(0.03, 0.1))
        changed = random.choice(crew.ids)
        name = f"changed-{number}"
        since = crew.mark()
        told = await crew.workers[changed].ask("rename", name)
        others = [node_id for node_id in crew.ids if node_id != changed]
        heard_at = await crew.heard_at(others, lambda fact, n=name: fact.get("name") == n, since)
        taken.append((heard_at - told["at"]) * 1000)
    taken.sort()
    p99 = taken[math.ceil(0.99 * len(taken)) - 1]
    return Measured((statistics.median(taken), p99), f"{CHANGES} changes, slowest {taken[-1]:.0f}")


async def kill(crew: ProcessGroup) -> Measured:
    """A process is killed: the time until the last other node sees it as failed."""
    taken = []
    for _ in range(KILLS):
        await crew.settle()
        killed = random.choice(crew.ids)
        since = crew.mark()
        killed_at = time.monotonic()
        crew.workers[killed].process.send_signal(signal.SIGKILL)
        heard_at = await crew.heard_at(
            [node_id for node_id in crew.ids if node_id != killed],
            lambda fact, k=killed: (fact.get("kind"), fact.get("id")) == ("failed", k),
            since,
        )
        taken.append(heard_at - killed_at)
        await crew.workers.pop(killed).kill()
        await crew.start(killed)
    middle = statistics.median(taken)
    return Measured((max(taken),), f"the slowest of {KILLS}, median {middle:.2f}")


async def idle(crew: ProcessGroup) -> Measured:
    """Nothing happens: the traffic of an idle node."""
    await asyncio.sleep(QUIET)
    began, sent = time.monotonic(), crew.namespace.octets_sent()
    await asyncio.sleep(IDLE)
    sent = crew.namespace.octets_sent() - sent
    rate = sent / (time.monotonic() - began) / len(crew.ids)
    return Measured((rate / 1000,), f"over {IDLE:.0f} s; acknowledgements included")


def with_crew(measure: Callable[[ProcessGroup], Awaitable[Measured]]) -> Callable[[int], Measured]:
    async def run(nodes: int) -> Measured:
        async with ProcessGroup.of(nodes) as crew:
            return await measure(crew)

    return lambda nodes: asyncio.run(run(nodes))


ROWS = (
    Row(
        *("change", "a change is known everywhere, real processes; median / p99"),
        *((50, 250), "ms", 20, with_crew(change)),
    ),
    Row(
        *("kill", "a SIGKILLed process is known everywhere, real processes"),
        *((2,), "s", 20, with_crew(kill)),
    ),
    Row(
        *("idle", "idle traffic sent per node, IP bytes, real processes"),
        *((1.2,), "kB/s", 100, with_crew(idle)),
    ),
)
