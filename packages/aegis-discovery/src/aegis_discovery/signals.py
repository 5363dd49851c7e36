"""What a process tells its operators: counts of calls by edge (who calls whom), and limited logs.

For code that builds nodes. `EdgeStats` and `LatencyStats` are for everybody.
"""

from aegis_discovery._runtime.call_outcomes import CODES, LATENCY_BOUNDS
from aegis_discovery._runtime.edge_stats import (
    EdgeStats,
    LatencyStats,
    busiest_edges,
    edge_to_json,
)
from aegis_discovery._runtime.edges import MAX_EDGES, OTHER, Edge, EdgeTable, PeerEdges
from aegis_discovery._runtime.log_limiter import LogLimiter

__all__ = [
    "CODES",
    "LATENCY_BOUNDS",
    "MAX_EDGES",
    "OTHER",
    "Edge",
    "EdgeStats",
    "EdgeTable",
    "LatencyStats",
    "LogLimiter",
    "PeerEdges",
    "busiest_edges",
    "edge_to_json",
]
