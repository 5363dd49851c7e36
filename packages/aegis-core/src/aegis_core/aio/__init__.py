"""The node, for asyncio."""

from aegis_core.aio._health import HealthMonitor
from aegis_core.aio._node import Node
from aegis_core.aio._peers import PeerManager, SyncReport
from aegis_core.aio._server import MeshServer

__all__ = ["HealthMonitor", "MeshServer", "Node", "PeerManager", "SyncReport"]
