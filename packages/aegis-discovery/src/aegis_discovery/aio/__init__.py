"""The mesh as a client sees it, for asyncio."""

from aegis_discovery.aio._mesh import Mesh, connect
from aegis_discovery.aio._pool import ServiceClientPool

__all__ = ["Mesh", "ServiceClientPool", "connect"]
