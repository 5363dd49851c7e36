"""Serves a node's statistics to other members of the mesh."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

import grpc
from aegis_discovery.proto import stats_pb2, stats_pb2_grpc

from aegis_core._stats import NodeStats


class Introspection(stats_pb2_grpc.IntrospectionServicer):
    """Serves `GetStats`.

    Args:
        stats: Returns a snapshot of the node.
    """

    def __init__(self, stats: Callable[[], NodeStats]) -> None:
        self._stats = stats

    async def GetStats(  # noqa: N802 - the wire's name
        self,
        request: stats_pb2.GetStatsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> stats_pb2.GetStatsResponse:
        """Returns a snapshot as JSON."""
        return stats_pb2.GetStatsResponse(json=json.dumps(asdict(self._stats()), default=_utc))


def _utc(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
