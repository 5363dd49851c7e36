"""Topology events and their subscribers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from aegis_discovery._model import NodeInfo

_log = logging.getLogger("aegis.topology")

_T = TypeVar("_T")


class EventKind(StrEnum):
    """What happened to a node."""

    JOINED = "joined"
    UPDATED = "updated"
    SUSPECTED = "suspected"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    LEFT = "left"
    EXPIRED = "expired"
    REVOKED = "revoked"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class TopologyEvent:
    """One change of the topology; the node is as it is after the change, or was last if gone."""

    kind: EventKind
    node: NodeInfo
    version: int


class EventDispatcher:
    """Calls subscribers with every event, in order, and change listeners once per change.

    A topology queues events while it holds its lock, and dispatches them after it has released it.

    Args:
        lock: The topology's lock.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._subscribers: list[Callable[[TopologyEvent], object]] = []
        self._listeners: list[Callable[[], object]] = []
        self._queue: deque[TopologyEvent] = deque()
        self._is_dispatching = False
        self._has_changed = False

    def subscribe(self, callback: Callable[[TopologyEvent], object]) -> Callable[[], None]:
        """Calls back on every event; returns the function that unsubscribes."""
        return self._register(self._subscribers, callback)

    def subscribe_changed(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Calls `listener` once for all that changed together; returns what unsubscribes it."""
        return self._register(self._listeners, listener)

    def _register(self, callbacks: list[_T], callback: _T) -> Callable[[], None]:
        with self._lock:
            callbacks.append(callback)

        def unsubscribe() -> None:
            with self._lock:
                callbacks[:] = [kept for kept in callbacks if kept is not callback]

        return unsubscribe

    def mark_changed(self) -> None:
        """Records, under the lock, that log or version changed."""
        self._has_changed = True

    def queue(self, event: TopologyEvent) -> None:
        """Queues an event, under the lock."""
        self._queue.append(event)

    def dispatch(self) -> None:
        """Dispatches what is queued, without the lock; in order, whichever thread queued it."""
        with self._lock:
            has_changed, self._has_changed = self._has_changed, False
            listeners = list(self._listeners) if has_changed else []
        for listener in listeners:
            listener()
        with self._lock:
            if self._is_dispatching:
                return
            self._is_dispatching = True
        while True:
            with self._lock:
                if not self._queue:
                    self._is_dispatching = False
                    return
                event, subscribers = self._queue.popleft(), list(self._subscribers)
            for callback in subscribers:
                try:
                    callback(event)
                except Exception:  # noqa: BLE001 - one subscriber's error must not affect others
                    _log.exception("a subscriber failed on %s of %s", event.kind, event.node.id)
