"""The largest messages of the mesh protocol, and how gRPC is told of them."""

from __future__ import annotations

import json

MAX_MESSAGE = 1024 * 1024
"""Bytes of one message of a feed; an honest server sends some 64 KiB."""

MAX_ANSWER = 2 * 1024 * 1024
"""Bytes of the topology of a peer that has no feed: some 20 000 nodes, as many as a mesh holds."""

SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "aegis.mesh.v1.Mesh", "method": "Watch"}],
                "maxResponseMessageBytes": MAX_MESSAGE,
            },
            {
                "name": [{"service": "aegis.MeshService", "method": "SyncTopology"}],
                "maxResponseMessageBytes": MAX_ANSWER,
            },
        ]
    }
)
"""Makes gRPC end these calls at a larger message before it is read; calls of the user do not care.
"""
