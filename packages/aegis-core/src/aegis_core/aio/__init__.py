"""The node, for asyncio."""

from aegis_core._health.monitor import HealthMonitor
from aegis_core._node.node import Node
from aegis_core._peers.manager import PeerManager, SyncReport
from aegis_core._server.aio.server import MeshServer

__all__ = ["HealthMonitor", "MeshServer", "Node", "PeerManager", "SyncReport"]
