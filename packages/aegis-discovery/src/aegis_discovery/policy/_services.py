"""The services that every node knows without a policy, and the names in the path of a call."""

from __future__ import annotations

OPEN_SERVICES = frozenset(
    (
        "aegis.MeshService",
        "aegis.mesh.v1.Mesh",
        "aegis.mesh.v1.Issuer",
        "aegis.mesh.v1.Introspection",
        "grpc.health.v1.Health",
    )
)
"""Services that every member of a mesh may call: without them there is no mesh."""

NAMED_SERVICES = frozenset(("aegis.mesh.v1.Operations",))
"""Services that end processes: only a rule with their full name and with ids allows a call.

A pattern such as `*`, a type, which any member can claim, or the lack of a policy is not enough.
"""


def split_method(path: str) -> tuple[str, str]:
    """Splits a gRPC path, `/package.Service/Method`, into service and method."""
    service, _, method = path.removeprefix("/").rpartition("/")
    return service, method
