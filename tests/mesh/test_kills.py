"""Providers are killed one after the other under load, and start again at new ports."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from aegis_certs import TLSConfig

from .process import START, NodeProcess
from .test_rolling_restart import callers, wait_for_more

EVERY = 2.0
"""Seconds between two kills, in which all others learn of one."""

KILLS = 8


@pytest.mark.soak
@pytest.mark.timeout(4 * START)
def test_no_unary_call_fails_while_a_provider_is_killed_every_two_seconds_and_moves(
    spawn: Callable[..., Any], identity: Callable[[str], TLSConfig]
) -> None:
    ids = "abcdef"
    nodes: dict[str, NodeProcess] = {}
    for node_id in ids:
        nodes[node_id] = spawn(node_id, *list(nodes.values())[:2])
        assert nodes[node_id].address
    starting: dict[str, NodeProcess] = {}
    with callers([node.address for node in nodes.values()], identity, streams=False) as load:
        wait_for_more(load, 200)
        for number in range(KILLS):
            due = time.monotonic() + EVERY
            for node_id, node in list(starting.items()):
                assert node.address
                nodes[node_id] = starting.pop(node_id)
            victim = nodes.pop(ids[number % len(ids)])
            victim.signal(signal.SIGKILL)
            starting[victim.id] = spawn(victim.id, *nodes.values())
            load.stop.wait(max(0.0, due - time.monotonic()))
        wait_for_more(load, 200)
    assert load.failures == []
    assert load.done > 100 * KILLS
