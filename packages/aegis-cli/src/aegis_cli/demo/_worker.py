"""What a process of the demo does on order: tells its topology, and calls the greeter.

It needs a topology and a pool, which a node and a client have alike.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable

import grpc
from aegis_discovery import DiscoveryError, ServiceClientPool, Topology

from aegis_cli.demo._child import ParentPipe
from aegis_cli.demo.greeter_pb2 import HelloReply, HelloRequest
from aegis_cli.demo.greeter_pb2_grpc import GreeterStub

TIMEOUT = 5.0
"""Seconds that a call may take."""

PACE = 0.002
"""Seconds between two calls: the demo is to show them, not to fill the machine."""

UNDER_WAY = 20
"""Calls after which the parent is told that they are under way."""


class Worker:
    """Answers orders until it is told to stop.

    Args:
        lifeline: To the parent.
        name: Who this claims to be in its calls; nobody believes it.
        topology: To tell of.
        pool: To call through.
    """

    def __init__(
        self, lifeline: ParentPipe, name: str, topology: Topology, pool: ServiceClientPool
    ) -> None:
        self._lifeline = lifeline
        self._topology = topology
        stub = GreeterStub(pool.channel("greeter", "v1"))
        self._hello: Callable[[], HelloReply] = lambda: stub.Hello(
            HelloRequest(name=name), timeout=TIMEOUT
        )
        self._news = threading.Event()
        self._enough = threading.Event()

    def run(self) -> None:
        """Works until the order to stop."""
        self._topology.subscribe_changed(self._news.set)
        self._news.set()
        _in_background(self._tell_topology)
        for order in self._lifeline.orders():
            match order["order"]:
                case "call":
                    self._call(order["times"])
                case "call on":
                    self._enough.clear()
                    _in_background(lambda: self._call(sys.maxsize))
                case "enough":
                    self._enough.set()

    def _tell_topology(self) -> None:
        told: dict[str, object] = {}
        while self._news.wait():
            self._news.clear()
            snapshot = self._topology.snapshot()
            facts: dict[str, object] = {
                "version": snapshot.version,
                "digest": snapshot.digest.hex(),
                "nodes": {node.id: node.status for node in snapshot.nodes.values()},
            }
            if facts != told:
                self._lifeline.report("topology", **facts)
                told = facts

    def _call(self, times: int) -> None:
        """Calls so many times, or until it is enough; tells when it is under way, and the sum."""
        by_provider: Counter[str] = Counter()
        callers: set[str] = set()
        failures: list[str] = []
        for number in range(times):
            if self._enough.wait(PACE):
                break
            try:
                reply = self._hello()
            except (grpc.RpcError, DiscoveryError) as error:
                failures.append(" ".join(str(error).split()))
            else:
                by_provider[reply.provider] += 1
                callers.add(reply.caller)
            if number == UNDER_WAY:
                self._lifeline.report("calling")
        self._lifeline.report(
            "called",
            by_provider=dict(sorted(by_provider.items())),
            callers=sorted(callers),
            failures=failures,
            loaded_aegis_core="aegis_core" in sys.modules,
        )


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()
