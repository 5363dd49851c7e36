"""What happened in the mesh, as one node saw it: for operators, and bounded. Pure."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aegis_discovery import EventKind, NodeInfo, NodeStatus, Topology, TopologyEvent
from aegis_discovery.records import Opinion

if TYPE_CHECKING:
    from aegis_core._mesh_events import MeshEvent, NodeStanding

MAX_EVENTS = 200
"""Events that a node keeps; one has at most some 700 bytes."""

MAX_STANDINGS = 200
"""Nodes whose status is listed with its time: first those that are not alive."""

MAX_BY = 8
"""Accusers that are named."""

MAX_TEXT = 160
"""Characters of the text of an event, which can have what a peer wrote."""

_GONE = {EventKind.LEFT, EventKind.EXPIRED, EventKind.REVOKED, EventKind.FORGOTTEN}


class History:
    """Keeps the last events of a topology, and since when each node has its status.

    Args:
        topology: The node's own.
        observers: Returns the nodes whose verdicts on a node count.
        clock: The present time (UTC).
    """

    def __init__(
        self,
        topology: Topology,
        observers: Callable[[str], frozenset[str]],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._topology = topology
        self._observers = observers
        self._clock = clock
        self._events: deque[MeshEvent] = deque(maxlen=MAX_EVENTS)
        self._number = 0
        self._known = dict(topology.nodes)
        self._standings: dict[str, NodeStanding] = {}
        self._lock = threading.Lock()
        self._end = topology.subscribe(self._on_event)

    def close(self) -> None:
        self._end()

    @property
    def events(self) -> tuple[MeshEvent, ...]:
        """The last events, the oldest one first."""
        with self._lock:
            return tuple(self._events)

    @property
    def standings(self) -> tuple[NodeStanding, ...]:
        """The nodes whose status changed, with those that are not alive first."""
        with self._lock:
            held = sorted(
                self._standings.values(),
                key=lambda one: (one.status == NodeStatus.ALIVE, -one.since.timestamp(), one.id),
            )
        return tuple(held[:MAX_STANDINGS])

    def standing_of(self, node_id: str) -> NodeStanding | None:
        """The status of a node and its time; None if it did not change since the node joined."""
        with self._lock:
            return self._standings.get(node_id)

    def note(self, kind: str, what: str) -> None:
        """Adds an event that is not about another node."""
        with self._lock:
            self._add(kind, "", what, ())

    def _on_event(self, event: TopologyEvent) -> None:
        from aegis_core._mesh_events import NodeStanding  # not before a node runs

        after = event.node
        accusers = () if after.status is NodeStatus.ALIVE else self._accusers(after.id)
        with self._lock:
            before = self._known.get(after.id)
            if event.kind in _GONE:
                self._known.pop(after.id, None)
                self._standings.pop(after.id, None)
                self._add(event.kind, after.id, "", ())
                return
            self._known[after.id] = after
            kind = str(event.kind)
            if before is not None and before.status is not after.status:
                self._standings[after.id] = NodeStanding(
                    after.id, str(after.status), self._clock(), accusers
                )
                if after.status is NodeStatus.ALIVE:
                    kind = "recovered"
            self._add(kind, after.id, _difference(before, after), accusers)

    def _add(self, kind: str, node_id: str, what: str, by: tuple[str, ...]) -> None:
        from aegis_core._mesh_events import MeshEvent  # not before a node runs

        self._number += 1
        self._events.append(
            MeshEvent(self._number, self._clock(), kind, node_id, what[:MAX_TEXT], by)
        )

    def _accusers(self, node_id: str) -> tuple[str, ...]:
        observers = self._observers(node_id)
        accusers = {
            verdict.accuser
            for verdict in self._topology.get_verdicts(node_id)
            if verdict.opinion is not Opinion.CLEAR and verdict.accuser in observers
        }
        return tuple(sorted(accusers)[:MAX_BY])


def _difference(before: NodeInfo | None, after: NodeInfo) -> str:
    """Says what changed in a record; of a new node, where it is and what it provides."""
    services = ", ".join(map(str, after.services))
    if before is None:
        return f"at {after.address}" + (f", provides {services}" if services else "")
    found = []
    if before.joined_at != after.joined_at:
        found.append("restarted")
    if before.address != after.address:
        found.append(f"now at {after.address}")
    if before.health is not after.health:
        found.append(f"health {after.health}")
    if before.services != after.services:
        found.append(f"provides {services or 'nothing'}")
    if (before.region, before.zone) != (after.region, after.zone):
        found.append(f"now in {after.region or '-'}/{after.zone or '-'}")
    if before.trust_bundle != after.trust_bundle:
        found.append("trusts other CAs")
    return "; ".join(found)
