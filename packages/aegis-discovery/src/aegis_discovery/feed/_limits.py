"""How much one end of a feed accepts from the other; the protocol page lists the same figures."""

from __future__ import annotations

from collections.abc import Collection

from aegis_discovery._model import NodeInfo, ServiceInfo
from aegis_discovery.proto import mesh_pb2

MAX_ITEMS = 2048
"""Records, verdicts and chains in one message, each of which may cost a check of a signature.

A message of an honest server has some 250.
"""

MAX_CHECKS = 32
"""Certificates, records and verdicts that a watcher checks before it yields to its event loop.

A check takes half a millisecond with P-384 keys, and less with others.
"""

MAX_JOIN_CHECKS = 80
"""The same until a feed is complete, while as many take less than `PART_SECONDS`.

They are about as many as an honest message has. With half as many a join with RSA keys takes 8 %
more CPU: see `RecordVerifier.add_chains`.
"""

MIN_JOIN_CHECKS = 8
"""The least, whatever they take."""

PART_SECONDS = 0.025
"""CPU seconds that a part may take until a feed is complete, about those of `MAX_CHECKS`."""

MAX_DOCUMENTS = 64
"""Documents in one message."""

DOCUMENT_CHECKS = 2
"""Signatures that a document may cost: its own, and that of its signer's certificate."""

MAX_STATUSES = 16 * 1024
"""Statuses in one message."""

MAX_REQUEST = 64 * 1024
"""Bytes of the request that opens a feed: a record, its chain and the requested services."""

MAX_CURSOR = 64
"""Bytes of a cursor, which every request contains; ours have 16."""

MAX_SERVICES = 64
"""Services that one feed can be limited to."""

MAX_SERVICE_NAME = 256
"""Characters of a service's name, and of its version."""


def request_problem(request: mesh_pb2.WatchRequest) -> str:
    """Returns why a request is refused for its size or its services; empty if it is not."""
    size = request.ByteSize()
    if size > MAX_REQUEST:
        return f"the request has {size} bytes, the limit is {MAX_REQUEST}"
    if request.services and request.HasField("record"):
        return "a node needs the whole feed; only clients may request some services"
    if request.HasField("region") and not request.HasField("record"):
        return "only a node may request the records of one region"
    return service_filter_problem([ServiceInfo(s.name, s.version) for s in request.services])


def service_filter_problem(services: Collection[ServiceInfo]) -> str:
    """Returns why a feed cannot be limited to these services; empty if it can."""
    if len(services) > MAX_SERVICES:
        return (
            f"{len(services)} services were requested, the limit is {MAX_SERVICES}; "
            "request all services"
        )
    for service in services:
        if not service.name:
            return "a requested service has no name"
        if max(len(service.name), len(service.version)) > MAX_SERVICE_NAME:
            return (
                f"the name or the version of service {service.name[:32]!r}… is too long: "
                f"both have {MAX_SERVICE_NAME} characters at most"
            )
    return ""


def provides_any(node: NodeInfo | None, services: Collection[tuple[str, str]]) -> bool:
    """Tells whether a node provides one of these services; one without a version means any.

    None, for a node that left, provides nothing.
    """
    return node is not None and any(
        service.key in services or (service.name, "") in services for service in node.services
    )
