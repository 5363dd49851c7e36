"""What a process tells its operators: counts of calls by edge (who calls whom), and limited logs.

For code that builds nodes. `EdgeStats` and `LatencyStats` are for everybody.
"""

from typing import TYPE_CHECKING, Any

from aegis_discovery._runtime.call_outcomes import CODES, LATENCY_BOUNDS
from aegis_discovery._runtime.edges import FOLD_MASK, MAX_EDGES, OTHER, Edge, EdgeTable, PeerEdges
from aegis_discovery._runtime.log_limiter import LogLimiter

if TYPE_CHECKING:
    from aegis_discovery._runtime.edge_stats import (
        EdgeStats,
        LatencyStats,
        busiest_edges,
        edge_to_json,
    )

__all__ = [
    "CODES",
    "FOLD_MASK",
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


def __getattr__(name: str) -> Any:
    # Every node counts, and few are asked for the counts.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aegis_discovery._runtime import edge_stats

    value = globals()[name] = getattr(edge_stats, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
