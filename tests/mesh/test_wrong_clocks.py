"""A node whose clock was wrong for a while, with a change of its record in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from aegis_core import NodeInfo, ServiceInfo

ECHO = (ServiceInfo("echo", "v1"),)


def with_own_clock(node: Any) -> Callable[[float], None]:
    """Gives a node a clock of its own; returns what sets how many seconds that is ahead."""
    ahead = 0.0

    def clock() -> float:
        return time.time() + ahead

    def shift(seconds: float) -> None:
        nonlocal ahead
        ahead = seconds

    state = node._parts.state
    for part in (node.topology, node.topology._signer, state.verifier, node.peers._vouching):
        part._clock = clock
    return shift


@pytest.mark.parametrize("jump", [600, 86400])
async def test_a_node_whose_clock_was_ahead_is_believed_again_when_it_is_right(
    jump: float, start: Any, until: Any, agree: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start("a")
    b = await start("b", a)
    c = await start("c", a)
    await until(lambda: agree(a, b, c))
    events: list[str] = []
    a.topology.subscribe(lambda event: events.append(f"{event.kind} {event.node.id}"))
    shift = with_own_clock(b)
    shift(jump)
    b.topology.update_node(NodeInfo("b", address=b.address, services=ECHO))
    await until(lambda: "record of b refused: its stamp is" in caplog.text)
    assert not a.topology.get_service_providers("echo", "v1")
    shift(0)
    await until(lambda: a.topology.get_service_providers("echo", "v1"))
    await until(lambda: c.topology.get_service_providers("echo", "v1"))
    await until(lambda: agree(a, b, c))
    c.topology.update_node(NodeInfo("c", address=c.address, services=(ServiceInfo("new", "v1"),)))
    await until(lambda: b.topology.get_service_providers("new", "v1"))
    await b.stop()
    await until(lambda: "left b" in events)
    assert "failed b" not in events


async def test_nodes_whose_clocks_were_ahead_together_are_believed_again(
    start: Any, until: Any, agree: Any
) -> None:
    """They believed each other meanwhile, so each holds a record of the other from the future."""
    a = await start("a")
    b = await start("b", a)
    c = await start("c", a)
    await until(lambda: agree(a, b, c))
    shifts = [with_own_clock(b), with_own_clock(c)]
    for shift in shifts:
        shift(86400)
    for node in (b, c):
        node.topology.update_node(NodeInfo(node.id, address=node.address, services=ECHO))
    await until(lambda: len(b.topology.get_service_providers("echo", "v1")) == 2)
    await until(lambda: len(c.topology.get_service_providers("echo", "v1")) == 2)
    assert not a.topology.get_service_providers("echo", "v1")
    for shift in shifts:
        shift(0)
    await until(lambda: len(a.topology.get_service_providers("echo", "v1")) == 2)
    await until(lambda: agree(a, b, c))


async def test_a_node_that_leaves_while_its_clock_is_ahead_has_left(
    start: Any, until: Any, agree: Any
) -> None:
    a = await start("a")
    b = await start("b", a)
    await until(lambda: agree(a, b))
    events: list[str] = []
    a.topology.subscribe(lambda event: events.append(f"{event.kind} {event.node.id}"))
    shift = with_own_clock(b)
    shift(86400)
    await b.stop()
    await until(lambda: "left b" in events)
    assert events == ["left b"]
    c = await start("b", a)  # and a later life of it is welcome
    await until(lambda: agree(a, c))
