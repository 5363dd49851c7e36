from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aegis_cli._view.model import CertificateSeen, Seen, View
from aegis_discovery import HealthStatus, NodeInfo, ServiceInfo

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def certificate() -> Callable[..., CertificateSeen]:
    """A certificate that ends after so many days of 90."""

    def make(days: float, name: str = "orders-1") -> CertificateSeen:
        end = NOW + days * DAY
        return CertificateSeen(name, "Aegis CA", end - 90 * DAY, end)

    return make


@pytest.fixture
def node(certificate: Callable[..., CertificateSeen]) -> Callable[..., Seen]:
    """A node that is alive and healthy since an hour, with changes to its record or the rest."""

    def make(node_id: str, **changes: Any) -> Seen:
        services = (ServiceInfo("greeter", "v1"), ServiceInfo("translator", "v12"))
        info = NodeInfo(
            node_id,
            address=f"{node_id}.example:50051",
            services=services,
            health=HealthStatus.HEALTHY,
        )
        of_seen = set(Seen._fields) & set(changes)
        seen = Seen(info, NOW - timedelta(hours=1), certificate=certificate(60, node_id))
        seen = seen._replace(**{name: changes.pop(name) for name in of_seen})
        return seen._replace(info=replace(info, **changes))

    return make


@pytest.fixture
def view() -> Callable[..., View]:
    def make(*nodes: Seen, **changes: Any) -> View:
        return View(NOW, "seed", 7, "ab" * 32, NOW, nodes)._replace(**changes)

    return make
