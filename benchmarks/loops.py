"""What uvloop saves on the server, compared with asyncio's own event loop.

    uv run python benchmarks/loops.py

The same node runs in two processes, which differ in their event loop only: an asyncio node with
handlers that are coroutines, one with plain functions, and a blocking node with each. The calls are
unary, over plain HTTP/2 frames (`frames.py`), and the CPU time is the server's. No row has a
target: the table shows whether the extra is worth its 2 MB.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from aegis_discovery.background import new_event_loop
from harness import alternate, estimate, parser_of, ratios
from workload import CALLER, SERVER, Child, children, identities, node_options, register, told
from workload import answer as tell

LOOPS = ("asyncio", "uvloop")
NODES = {
    "async, coroutines": (True, True),
    "async, plain functions": (True, False),
    "blocking, coroutines": (False, True),
    "blocking, plain functions": (False, False),
}
"""Whether the node is async, and whether its handlers are."""

CALLERS, CALLS = (1, 16), 400


def cost(caller: Child, server: Child, name: str, at_once: int) -> float:
    """Returns the server's CPU microseconds a call."""
    began = server.cpu()
    caller.ask(["calls", name, CALLS, at_once])
    return (server.cpu() - began) / CALLS * 1e6


def compare(kind: str, rounds: int) -> None:
    server_tls, caller_tls = identities(SERVER, CALLER)

    def server(loop: str) -> Callable[[], Child]:
        return lambda: Child("serve", [*NODES[kind], loop], server_tls, __file__)

    with children(*map(server, LOOPS)) as servers:
        named = dict(zip(LOOPS, servers, strict=True))
        targets = {loop: child.started for loop, child in named.items()}
        with children(lambda: Child("call", targets, caller_tls)) as (caller,):
            for at_once in CALLERS:
                runs = {
                    loop: partial(cost, caller, child, loop, at_once)
                    for loop, child in named.items()
                }
                taken = alternate(runs, rounds=rounds)
                plain, ratio = estimate(taken["asyncio"]), ratios(taken["uvloop"], taken["asyncio"])
                print(f"{kind:26} {at_once:7}  {f'{plain:.1f}':24} {ratio:.3f}", flush=True)


def serve() -> None:
    tls, (is_async, has_coroutines, loop) = told()
    if loop == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # as if it was not installed
    options: dict[str, Any] = node_options(tls, is_aio=is_async)
    options["registrars"] = [lambda server: register(server, has_coroutines)]
    if not is_async:
        from aegis_core import Node as BlockingNode

        with BlockingNode(tls.node_id, **options) as blocking:
            tell(blocking.address)
            sys.stdin.read()
        return

    async def run() -> None:
        from aegis_core.aio import Node

        async with Node(tls.node_id, **options) as node:
            tell(node.address)
            await asyncio.to_thread(sys.stdin.read)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(run())


def main() -> int:
    parser = parser_of(__doc__, rounds=40, quick=10)
    parser.add_argument("--only", choices=NODES, action="append")
    arguments = parser.parse_args()
    print("node                       callers  asyncio, CPU us a call   uvloop / asyncio")
    for kind in arguments.only or NODES:
        compare(kind, arguments.rounds)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark itself ends its processes
        serve()
    else:
        sys.exit(main())
