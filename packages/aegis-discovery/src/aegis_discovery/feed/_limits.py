"""How much one side of a feed takes from the other; the protocol page lists the same figures."""

from __future__ import annotations

from collections.abc import Collection

from aegis_discovery._model import ServiceInfo
from aegis_discovery.proto import mesh_pb2

MAX_ITEMS = 2048
"""Records, verdicts and chains in one message, each of which may cost a check of a signature.

An honest one has some 250.
"""

AT_ONCE = 32
"""Certificates, records and verdicts that a watcher checks before others on its loop have a turn.

A check takes half a millisecond where the keys are P-384, and less with others.
"""

MAX_STATUSES = 16 * 1024
"""Statuses in one message."""

MAX_REQUEST = 64 * 1024
"""Bytes of the request that opens a feed: a record, its chain and the services asked for."""

MAX_CURSOR = 64
"""Bytes of a cursor, which goes with every request; ours have 16."""

MAX_SERVICES = 64
"""Services that one feed can be limited to."""

MAX_SERVICE_NAME = 256
"""Characters of a service's name, and of its version."""


def request_problem(request: mesh_pb2.WatchRequest) -> str:
    """Says in a sentence what is wrong with a request's size or filter; empty where nothing is."""
    size = request.ByteSize()
    if size > MAX_REQUEST:
        return f"the request has {size} bytes, the limit is {MAX_REQUEST}"
    if request.services and request.HasField("record"):
        return "a node takes the whole feed; only clients ask for some services"
    return service_filter_problem([ServiceInfo(s.name, s.version) for s in request.services])


def service_filter_problem(services: Collection[ServiceInfo]) -> str:
    """Says why a feed cannot be limited to these services; empty where it can."""
    if len(services) > MAX_SERVICES:
        return f"{len(services)} services were asked for, the limit is {MAX_SERVICES}; ask for all"
    for service in services:
        if not service.name:
            return "a service was asked for that has no name"
        if max(len(service.name), len(service.version)) > MAX_SERVICE_NAME:
            return (
                f"no service is called {service.name[:32]!r}… or has such a version: "
                f"both have {MAX_SERVICE_NAME} characters at most"
            )
    return ""
