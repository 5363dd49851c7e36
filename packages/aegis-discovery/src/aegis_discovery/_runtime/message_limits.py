"""The largest messages of the mesh protocol, and the service config that enforces them."""

from __future__ import annotations

MAX_MESSAGE = 1024 * 1024
"""Bytes of one message of a feed; an honest server sends some 64 KiB."""

MAX_TOPOLOGY = 2 * 1024 * 1024
"""Bytes of an unsigned peer's topology: some 20 000 nodes, as many as a mesh holds."""

# Text and not an object, since `json` loads slowly.
SERVICE_CONFIG = """{"methodConfig": [
    {
        "name": [
            {"service": "aegis.mesh.v1.Mesh", "method": "Watch"},
            {"service": "aegis.mesh.v1.Issuer"}
        ],
        "maxResponseMessageBytes": %d
    },
    {
        "name": [{"service": "aegis.MeshService", "method": "SyncTopology"}],
        "maxResponseMessageBytes": %d
    }
]}""" % (MAX_MESSAGE, MAX_TOPOLOGY)  # noqa: UP031 - the text is full of braces
"""Makes gRPC end these calls before it reads a larger message; it does not affect users' calls."""
