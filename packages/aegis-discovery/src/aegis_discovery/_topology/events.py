"""Topology events and their subscribers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from aegis_discovery._model import NodeInfo, NodeStatus

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


_KINDS = {
    NodeStatus.SUSPECTED: EventKind.SUSPECTED,
    NodeStatus.FAILED: EventKind.FAILED,
    NodeStatus.UNREACHABLE: EventKind.UNREACHABLE,
}


def kind_of(status: NodeStatus) -> EventKind:
    """Returns what happened to a node that has this status now."""
    return _KINDS.get(status, EventKind.UPDATED)


class TopologyEvent(NamedTuple):
    """One change of the topology; the node is as it is after the change, or was last if gone."""

    kind: EventKind
    node: NodeInfo
    version: int


class _Callbacks(Generic[_T]):
    """Callbacks that may be called without a lock: a change replaces the tuple."""

    def __init__(self) -> None:
        self.all: tuple[_T, ...] = ()


class EventDispatcher:
    """Calls subscribers with every event, in order, and change listeners once per change.

    A topology queues events while it holds its lock, and dispatches them after it has released it.

    Args:
        lock: The topology's lock.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._subscribers = _Callbacks[Callable[[TopologyEvent], object]]()
        self._listeners = _Callbacks[Callable[[], object]]()
        self._queue: list[TopologyEvent] = []
        self._is_dispatching = False
        self._has_changed = False

    def subscribe(self, callback: Callable[[TopologyEvent], object]) -> Callable[[], None]:
        """Calls back on every event; returns the function that unsubscribes."""
        return self._register(self._subscribers, callback)

    def subscribe_changed(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Calls `listener` once for all that changed together; returns what unsubscribes it."""
        return self._register(self._listeners, listener)

    def _register(self, callbacks: _Callbacks[_T], callback: _T) -> Callable[[], None]:
        with self._lock:
            callbacks.all = (*callbacks.all, callback)

        def unsubscribe() -> None:
            with self._lock:
                callbacks.all = tuple(kept for kept in callbacks.all if kept is not callback)

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
            listeners = self._listeners.all if has_changed else ()
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
                # All at once: a process that joins a large mesh has an event for each node.
                events, self._queue = self._queue, []
            left = iter(events)
            try:
                for event in left:
                    self._call_subscribers(event)
            except BaseException:  # Ctrl-C in the middle: `resume` goes on after it
                with self._lock:
                    self._queue[:0] = left
                    self._is_dispatching = False
                raise

    def resume(self) -> None:
        """Dispatches what is left after a subscriber was interrupted; to be called regularly."""
        # Read without the lock: nearly always there is nothing.
        if self._queue and not self._is_dispatching:
            self.dispatch()

    def _call_subscribers(self, event: TopologyEvent) -> None:
        for callback in self._subscribers.all:
            try:
                callback(event)
            except Exception:  # noqa: BLE001 - one subscriber's error must not affect others
                _log.exception("a subscriber failed on %s of %s", event.kind, event.node.id)
