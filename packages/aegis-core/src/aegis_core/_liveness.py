"""Who is alive, as one node judges it from the feeds that it holds. Pure: time comes in."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_discovery import NodeStatus

SILENCE = 3.0
"""Seconds without a message, three heartbeats, after which a node is suspected."""

SUSPICION = 1.0
"""Seconds that a suspect has to be heard of again before it counts as failed.

A killed process is noticed at once by its broken connection, so this is nearly all the time that
its failure takes to be known; a node that only restarts its connection is back far sooner.
"""

STALL = 1.0
"""Seconds between two ticks from which on the fault is ours: such time counts against nobody."""


@dataclass(slots=True)
class _Subject:
    status: NodeStatus
    heard_at: float
    suspected_at: float = 0.0


class Liveness:
    """Judges each watched node by what is heard of it.

    alive     -- lost, or silent too long -->  suspected
    suspected -- heard ----------------------> alive
    suspected -- not heard for SUSPICION ----> failed
    failed    -- heard, or a new record -----> alive
    """

    def __init__(self, now: float) -> None:
        self._ticked_at = now
        self._subjects: dict[str, _Subject] = {}

    def __repr__(self) -> str:
        shown = ", ".join(f"{i}={s.status}" for i, s in sorted(self._subjects.items()))
        return f"<Liveness {shown or 'nobody'}>"

    def watch(self, node_id: str, now: float) -> None:
        """Begins to judge a node; it is alive until something speaks against it."""
        self._subjects.setdefault(node_id, _Subject(NodeStatus.ALIVE, now))

    def forget(self, node_id: str) -> None:
        """Judges a node no longer."""
        self._subjects.pop(node_id, None)

    def heard(self, node_id: str, now: float) -> None:
        """Notes a sign of life."""
        subject = self._subjects.get(node_id)
        if subject is not None:
            subject.heard_at = now
            subject.status = NodeStatus.ALIVE

    def renewed(self, node_id: str, now: float) -> None:
        """Notes a new record, which only a living process can have written."""
        self.heard(node_id, now)

    def lost(self, node_id: str, now: float) -> None:
        """Notes that its feed broke, or could not be opened."""
        subject = self._subjects.get(node_id)
        if subject is not None and subject.status is NodeStatus.ALIVE:
            subject.status = NodeStatus.SUSPECTED
            subject.suspected_at = now

    def tick(self, now: float) -> dict[str, NodeStatus]:
        """Moves time on and returns every watched node's status; call it a few times a second."""
        gap = now - self._ticked_at
        self._ticked_at = now
        for node_id, subject in self._subjects.items():
            if gap > STALL:
                subject.heard_at = min(now, subject.heard_at + gap)
                subject.suspected_at = min(now, subject.suspected_at + gap)
            if subject.status is NodeStatus.ALIVE and now - subject.heard_at >= SILENCE:
                self.lost(node_id, now)
            elif subject.status is NodeStatus.SUSPECTED and now - subject.suspected_at >= SUSPICION:
                subject.status = NodeStatus.FAILED
        return {node_id: subject.status for node_id, subject in self._subjects.items()}
