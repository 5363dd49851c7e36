"""What a node tells of itself: frozen values that turn into JSON by `dataclasses.asdict`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aegis_discovery import PoolStats


@dataclass(frozen=True, slots=True)
class CallStats:
    """Calls that came to a node since it started.

    Attributes:
        begun: Calls of its services that were let in.
        running: Those that run now.
        limit: The most that may run at the same time; None for no limit.
        shed: Calls that were turned away because of it.
        late: Calls that were turned away because the node was leaving.
        denied: Calls that the policy did not allow.
        refused: Calls of those who may not speak: revoked, expired, or on an old TLS.
    """

    begun: int
    running: int
    limit: int | None
    shed: int
    late: int
    denied: int
    refused: int


@dataclass(frozen=True, slots=True)
class FeedStats:
    """The feeds of a node.

    Attributes:
        served: Watchers that hold a feed of this node open now.
        opened: Feeds of this node that were opened since it started.
        watched: Nodes whose feeds this node holds open now.
        lag: Seconds since the one of them was heard that was silent longest; heartbeats come
            every second. 0 where there is none.
    """

    served: int
    opened: int
    watched: int
    lag: float


@dataclass(frozen=True, slots=True)
class NodeStats:
    """A snapshot of a node.

    Attributes:
        node_id: The node.
        started_at: When it began to serve (UTC).
        certificate_not_after: When its certificate expires (UTC).
        topology_version: Counts changes of the topology.
        topology_nodes: How many nodes it has.
        has_policy: Whether a policy says who may call what.
        calls: What came to it.
        feeds: How it hears of the mesh, and others by it.
        pool: The calls that it makes itself.
    """

    node_id: str
    started_at: datetime
    certificate_not_after: datetime
    topology_version: int
    topology_nodes: int
    has_policy: bool
    calls: CallStats
    feeds: FeedStats
    pool: PoolStats
