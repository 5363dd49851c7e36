"""Events of the topology: what happened, and who is told."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from aegis_discovery._model import NodeInfo

_log = logging.getLogger("aegis.topology")


class EventKind(StrEnum):
    """What happened to a node."""

    JOINED = "joined"
    UPDATED = "updated"
    SUSPECTED = "suspected"
    FAILED = "failed"
    LEFT = "left"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class TopologyEvent:
    """One change of the topology, with the node as it is after it (or was last) and the version."""

    kind: EventKind
    node: NodeInfo
    version: int


class Announcer:
    """Tells subscribers every event, in order, and wakes those who read the log.

    A topology notes what happened while it holds its lock, and announces it once it has let go.

    Args:
        lock: The topology's lock.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._subscribers: list[Callable[[TopologyEvent], object]] = []
        self._wakers: list[Callable[[], object]] = []
        self._pending: deque[TopologyEvent] = deque()
        self._announcing = False
        self._moved = False

    def subscribe(self, callback: Callable[[TopologyEvent], object]) -> Callable[[], None]:
        """Calls back on every event; returns what ends that."""
        with self._lock:
            self._subscribers = [*self._subscribers, callback]

        def end() -> None:
            with self._lock:
                self._subscribers = [kept for kept in self._subscribers if kept is not callback]

        return end

    def subscribe_changed(self, waker: Callable[[], object]) -> Callable[[], None]:
        """Calls `waker` once for all that moved together; returns what ends that."""
        with self._lock:
            self._wakers = [*self._wakers, waker]

        def end() -> None:
            with self._lock:
                self._wakers = [kept for kept in self._wakers if kept is not waker]

        return end

    def moved(self) -> None:
        """Notes, under the lock, that log or version moved."""
        self._moved = True

    def note(self, event: TopologyEvent) -> None:
        """Notes an event, under the lock."""
        self._pending.append(event)

    def announce(self) -> None:
        """Tells what was noted, without the lock, in order, whichever thread noted it."""
        with self._lock:
            moved, self._moved = self._moved, False
            wakers = self._wakers if moved else []
        for waker in wakers:
            waker()
        with self._lock:
            if self._announcing:
                return
            self._announcing = True
        while True:
            with self._lock:
                if not self._pending:
                    self._announcing = False
                    return
                event, subscribers = self._pending.popleft(), self._subscribers
            for callback in subscribers:
                try:
                    callback(event)
                except Exception:  # noqa: BLE001 - a subscriber's fault is no one else's
                    _log.exception("a subscriber failed on %s of %s", event.kind, event.node.id)
