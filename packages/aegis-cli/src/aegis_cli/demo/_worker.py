"""What a process of the demo does on command: report its topology, and call the greeter.

It needs a topology and a pool, which both a node and a client have.
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

CALL_TIMEOUT = 5.0
"""Seconds that a call may take."""

PAUSE = 0.002
"""Seconds between two calls: the demo shows calls, and need not load the machine."""

STARTED_AFTER = 20
"""Calls after which the parent learns that calls are under way."""


class Worker:
    """Executes the commands of the parent until `stop`.

    Its requests have `name` as the caller, which no provider trusts.
    """

    def __init__(
        self, parent: ParentPipe, name: str, topology: Topology, pool: ServiceClientPool
    ) -> None:
        self._parent = parent
        self._topology = topology
        stub = GreeterStub(pool.channel("greeter", "v1"))
        self._hello: Callable[[], HelloReply] = lambda: stub.Hello(
            HelloRequest(name=name), timeout=CALL_TIMEOUT
        )
        self._changed = threading.Event()
        self._stop_calling = threading.Event()

    def run(self) -> None:
        self._topology.subscribe_changed(self._changed.set)
        self._changed.set()
        _in_background(self._report_topology)
        for command in self._parent.commands():
            match command["command"]:
                case "call":
                    self._call(command["times"])
                case "keep calling":
                    self._stop_calling.clear()
                    _in_background(lambda: self._call(sys.maxsize))
                case "stop calling":
                    self._stop_calling.set()

    def _report_topology(self) -> None:
        reported: dict[str, object] = {}
        while self._changed.wait():
            self._changed.clear()
            snapshot = self._topology.snapshot()
            facts: dict[str, object] = {
                "version": snapshot.version,
                "digest": snapshot.digest.hex(),
                "nodes": {node.id: node.status for node in snapshot.nodes.values()},
            }
            if facts != reported:
                self._parent.report("topology", **facts)
                reported = facts

    def _call(self, times: int) -> None:
        """Makes calls until there were so many or `stop calling`; reports their start and end."""
        by_provider: Counter[str] = Counter()
        callers: set[str] = set()
        failures: list[str] = []
        for number in range(times):
            if self._stop_calling.wait(PAUSE):
                break
            try:
                reply = self._hello()
            except (grpc.RpcError, DiscoveryError) as error:
                failures.append(" ".join(str(error).split()))
            else:
                by_provider[reply.provider] += 1
                callers.add(reply.caller)
            if number == STARTED_AFTER:
                self._parent.report("calling")
        self._parent.report(
            "called",
            by_provider=dict(sorted(by_provider.items())),
            callers=sorted(callers),
            failures=failures,
            loaded_aegis_core="aegis_core" in sys.modules,
        )


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()
