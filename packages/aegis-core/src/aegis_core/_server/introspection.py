"""A node's statistics as other members of the mesh read them. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aegis_discovery.proto import stats_pb2

if TYPE_CHECKING:
    from aegis_core._stats import NodeStats


def stats_to_wire(stats: NodeStats) -> stats_pb2.GetStatsResponse:
    """Returns a snapshot as JSON."""
    return stats_pb2.GetStatsResponse(json=json.dumps(asdict(stats), default=_utc))


def _utc(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
