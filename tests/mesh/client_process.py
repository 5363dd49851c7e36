"""A pure client as a plain blocking script: it calls without end, and imports no node."""

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


def tell(**facts: Any) -> None:
    with _writing:
        print(json.dumps({"at": time.monotonic(), **facts}), flush=True)


def tell_event(event: TopologyEvent) -> None:
    tell(event=f"{event.kind} {event.node.id}", status=event.node.status)


def main() -> None:
    options = json.loads(sys.argv[1])
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    answered: Counter[str] = Counter()
    failures: list[str] = []
    with connect(*options.pop("seeds"), **options) as mesh:
        mesh.topology.subscribe(tell_event)
        tell(ready=list(mesh.topology.nodes), core="aegis_core" in sys.modules)
        method = mesh.pool.channel("echo", "v1").unary_unary("/test.Echo/Say")
        while not over.wait(0.005):
            try:
                provider, caller = method(b"", timeout=10).decode().split()
            except grpc.RpcError as error:
                failures.append(str(error))
            else:
                answered[provider] += 1
                if answered.total() % 20 == 0:
                    tell(calls=answered.total(), caller=caller)
        tell(answered=answered, failures=failures)


main()
