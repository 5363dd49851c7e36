"""Wakes the calls that wait until their service has a provider."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from aegis_discovery._calls.source import ProviderSource


class Service(Protocol):
    """What is waited for."""

    def may_have_provider(self) -> bool: ...


class Waiters:
    """The waiting calls of one pool, by service.

    It follows the topology only while a call waits, and wakes only the calls whose service may have
    a provider. A call that was woken picks again.
    """

    def __init__(self, source: ProviderSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._wakes: dict[Service, dict[object, Callable[[], object]]] = {}
        self._unsubscribe: Callable[[], None] | None = None

    def __len__(self) -> int:
        return sum(map(len, list(self._wakes.values())))

    @contextmanager
    def waiting(self, service: Service, wake: Callable[[], object]) -> Iterator[None]:
        """Calls `wake`, from any thread, each time when a pick may find a provider or an end."""
        token = object()
        with self._lock:
            self._wakes.setdefault(service, {})[token] = wake
            if self._unsubscribe is None:
                self._unsubscribe = self._source.subscribe_changed(self.changed)
        try:
            yield
        finally:
            with self._lock:
                del self._wakes[service][token]
                if not self._wakes[service]:
                    del self._wakes[service]
                if not self._wakes and self._unsubscribe is not None:
                    self._unsubscribe()
                    self._unsubscribe = None

    def changed(self) -> None:
        """Wakes the calls whose service may have a provider now."""
        with self._lock:
            services = list(self._wakes)
        for service in services:
            if service.may_have_provider():
                self.wake(service)

    def wake(self, service: Service) -> None:
        """Wakes all calls that wait for this service."""
        with self._lock:
            wakes = list(self._wakes.get(service, {}).values())
        for wake in wakes:
            wake()

    def wake_all(self) -> None:
        with self._lock:
            services = list(self._wakes)
        for service in services:
            self.wake(service)
