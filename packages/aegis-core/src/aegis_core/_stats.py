"""A node's statistics: frozen values that `dataclasses.asdict` turns into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from aegis_discovery import EdgeStats, PoolStats

from aegis_core._mesh_events import MeshEvent, NodeStanding


@dataclass(frozen=True, slots=True)
class CallStats:
    """Calls that arrived at a node since it started.

    Attributes:
        begun: Calls of its services that ran.
        running: Calls of its services that run now.
        limit: How many of them may run at the same time; None for no limit.
        shed: Calls that were shed because the limit was reached.
        late: Calls that were rejected because the node was leaving.
        denied: Calls that the policy denied.
        refused: Calls whose caller was refused: a revoked or expired certificate, another trust
            domain, or an old TLS version.
        over_limit: Calls refused for a limit of their caller: it had too many open, cancelled too
            many, or sent metadata that is too long.
        closed_connections: Connections closed since their caller had too many, or flooded.
    """

    begun: int
    running: int
    limit: int | None
    shed: int
    late: int
    denied: int
    refused: int
    over_limit: int
    closed_connections: int


@dataclass(frozen=True, slots=True)
class FeedStats:
    """The feeds of a node.

    Attributes:
        served: Watchers that hold a feed of this node open now.
        opened: Feeds of this node that watchers opened since it started.
        watched: Nodes whose feeds this node holds open now.
        lag: Seconds since the last message of the watched node that was silent longest. Each
            node sends a heartbeat every two seconds. 0 if no node is watched.
        across: Those of the watched nodes that are in other regions.
        unreachable: The regions that are silent as a whole.
    """

    served: int
    opened: int
    watched: int
    lag: float
    across: int
    unreachable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy that decides at a node.

    Attributes:
        source: `file` or `code` for the node's own one, `published` for that of the mesh.
        sha256: Of its content, in hexadecimal; empty for a policy in code.
        sequence: The sequence of a published one: when it was signed, in Unix milliseconds.
        call_rules: How many rules it has about calls.
        provide_rules: How many about providers.
    """

    source: str
    sha256: str
    sequence: int | None
    call_rules: int
    provide_rules: int


@dataclass(frozen=True, slots=True)
class NodeStats:
    """A snapshot of a node.

    Attributes:
        node_id: The node.
        started_at: When it started to serve (UTC).
        certificate_not_after: When its certificate expires (UTC).
        topology_version: The version of its topology, which counts changes.
        topology_nodes: The number of nodes in its topology.
        has_policy: Whether a policy decides which calls are allowed.
        own_policy: SHA-256 of the file of its own policy, in hexadecimal; `in code` for a policy
            without a file, and empty without one.
        calls: The calls that it receives.
        feeds: The feeds that it serves and watches.
        pool: The calls that it makes.
        documents: What the mesh has published, as this node knows it: the sequences of documents
            by kind. That of a CRL, whose kind is followed by the CA's key, is its number.
        policies: The policies that decide here; something is allowed only if all allow it.
        standings: Nodes whose status changed, those that are not alive first; at most 200.
        events: The last 200 events, the oldest one first.
        edges: The calls of your services, by caller and method, and the attempts of calls that the
            pool made, which `pool` has too.
        loop_lag: By how many seconds the latest check of the event loop was late. It is checked
            every second.
        nodes: The number of nodes by status.
    """

    node_id: str
    started_at: datetime
    certificate_not_after: datetime
    topology_version: int
    topology_nodes: int
    has_policy: bool
    own_policy: str
    calls: CallStats
    feeds: FeedStats
    pool: PoolStats
    documents: Mapping[str, int]
    policies: tuple[LoadedPolicy, ...]
    standings: tuple[NodeStanding, ...]
    events: tuple[MeshEvent, ...]
    edges: tuple[EdgeStats, ...]
    loop_lag: float
    nodes: Mapping[str, int]
