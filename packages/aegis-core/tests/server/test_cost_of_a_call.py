"""What a node adds to a call, in steps of the interpreter: they do not depend on the machine."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import CallRule, Node, Policy
from aegis_core.aio import Node as AioNode
from aegis_discovery._runtime.loop_timers import _timers
from aegis_discovery.transport import open_channel

MakeIdentity = Callable[[str], TLSConfig]
CALLS = 50
"""Calls that are counted at a time."""

ROUNDS = 20
MAX_STEPS = {"aio": 380, "blocking": 1_310}
"""Of a unary call, in our code: 372, and 1 278 to 1 306 from run to run (Python 3.11), and 33 of
counting its time, which is done for 64 calls at once: the least of some rounds is one without that.
56 steps of those on an asyncio server wait for the next call, in place of 250 of `asyncio.wait` and
a task. The thread that notices growth does not count: it looks once in 10 ms of CPU, so more often
where that is slow."""


class Steps:
    """Counts the steps in our code of threads that are started, or that call `trace`."""

    def __init__(self) -> None:
        self.is_counting = False
        self.count = 0
        # Python 3.12 reports steps only where it was asked to before the trace is set.
        inspect.currentframe().f_trace_opcodes = True  # type: ignore[union-attr]

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not self.is_counting or "/aegis_" not in frame.f_code.co_filename:
            return None
        if threading.current_thread().name == "aegis-growth":
            return None
        frame.f_trace_opcodes = True
        self.count += event == "opcode"
        return self.trace


async def echo(request: bytes, context: Any) -> bytes:
    return request


def echo_blocking(request: bytes, context: Any) -> bytes:
    return request


def options_of(identity: MakeIdentity, handler: Any) -> dict[str, Any]:
    services = grpc.method_handlers_generic_handler(
        "t", {"Echo": grpc.unary_unary_rpc_method_handler(handler)}
    )
    return {
        "address": "127.0.0.1:0",
        "tls": identity("node"),
        "registrars": [lambda server: server.add_generic_rpc_handlers((services,))],
        "policy": Policy(call=[CallRule(ids=["caller"], services=["t"])]),
        "grace": 0,
    }


def steps_of_a_call(steps: Steps, tls: TLSConfig, address: str, at_most: int) -> float:
    """Makes calls, and returns the steps of one: the least, as the node does other work too.

    On a slow machine that other work falls into most rounds, so there are more of them then.
    """
    least = math.inf
    with open_channel(tls, "node", address) as channel:
        call = channel.unary_unary("/t/Echo")
        for number in range(ROUNDS):
            for _ in range(CALLS):
                assert call(b"x", timeout=20) == b"x"
            if number:
                least = min(least, steps.count / CALLS)
            if least <= at_most:
                break
            steps.is_counting, steps.count = True, 0
        steps.is_counting = False
    return least


async def test_an_asyncio_node_adds_few_steps(identity: MakeIdentity) -> None:
    steps, before = Steps(), sys.gettrace()
    async with AioNode("node", **options_of(identity, echo)) as node:
        sys.settrace(steps.trace)
        try:
            count = await asyncio.to_thread(
                steps_of_a_call, steps, identity("caller"), node.address, MAX_STEPS["aio"]
            )
        finally:
            sys.settrace(before)
    assert 100 < count <= MAX_STEPS["aio"]


def test_a_blocking_node_adds_few_steps(identity: MakeIdentity) -> None:
    steps, before = Steps(), threading.gettrace()
    threading.settrace(steps.trace)
    try:
        with Node("node", **options_of(identity, echo_blocking)) as node:
            count = steps_of_a_call(steps, identity("caller"), node.address, MAX_STEPS["blocking"])
    finally:
        threading.settrace(before)  # type: ignore[arg-type]  # None for none
    assert 100 < count <= MAX_STEPS["blocking"]


async def test_an_asyncio_node_has_no_timer_in_its_loop(
    identity: MakeIdentity, until: Callable[[Callable[[], object]], Any]
) -> None:
    """One that waits makes each turn of the loop more expensive, and each call by 5 to 7 %."""
    loop: Any = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("timers of this loop cost nothing")
    async with AioNode("node", **options_of(identity, echo)):
        await until(lambda: len(_timers[loop]._due) >= 3)  # its tasks wait for their next turn
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []
