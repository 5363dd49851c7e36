"""Clients of a mesh, for asyncio."""

from aegis_discovery._calls.aio.pool import ServiceClientPool
from aegis_discovery._client.aio_mesh import Mesh, connect

__all__ = ["Mesh", "ServiceClientPool", "connect"]
