"""A blocking script that is a client: it calls a service until its standard input ends."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import Any

import grpc
from aegis_discovery import TopologyEvent, connect

_writing = threading.Lock()


def report(**fields: Any) -> None:
    with _writing:
        print(json.dumps({"at": time.monotonic(), **fields}), flush=True)


def report_event(event: TopologyEvent) -> None:
    report(event=f"{event.kind} {event.node.id}", status=event.node.status)


def main() -> None:
    options = json.loads(sys.argv[1])
    stopping = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()
    answered: Counter[str] = Counter()
    failures: list[str] = []
    counting = threading.Lock()
    callers = options.pop("callers", 1)
    with connect(*options.pop("seeds"), **options) as mesh:
        mesh.topology.subscribe(report_event)
        rare = (
            "aegis_core",
            "aegis_discovery._calls.stats",
            "aegis_discovery._runtime.edge_stats",
            "aegis_discovery.policy._rules",
            "cryptography.hazmat.primitives.serialization.ssh",
            "uvloop",
        )
        report(ready=list(mesh.topology.nodes), loaded=[one for one in rare if one in sys.modules])
        method = mesh.pool.channel("echo", "v1").unary_unary("/test.Echo/Say")

        def call() -> None:
            while not stopping.wait(0.005 * callers):
                try:
                    provider, caller = method(b"", timeout=10).decode().split()
                except grpc.RpcError as error:
                    failures.append(str(error))
                    continue
                with counting:
                    answered[provider] += 1
                    count = answered.total()
                if count % 20 == 0:
                    report(calls=count, caller=caller)

        others = [threading.Thread(target=call) for _ in range(callers - 1)]
        for other in others:
            other.start()
        call()
        for other in others:
            other.join()
        report(answered=answered, failures=failures)


main()
