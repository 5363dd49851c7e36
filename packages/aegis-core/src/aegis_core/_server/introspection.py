"""What a node tells operators about itself and about others, as JSON. Pure."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from aegis_certs import InvalidNodeIdError, parse_worker_id
from aegis_discovery.proto import stats_pb2

from aegis_core._rate_limit import READS, RateLimiter
from aegis_core._server.mesh_protocol import RequestRefusedError

if TYPE_CHECKING:
    from aegis_core._stats import NodeStats


MAX_EDGE_BYTES = 512 * 1024
"""Of the JSON of the edges, so that the whole answer stays below 1 MiB."""


class NodeIntrospection:
    """Answers the calls of the service Introspection.

    Args:
        stats: Returns a snapshot of the node.
        explain: Returns what the node knows of another one.
    """

    def __init__(
        self, stats: Callable[[], NodeStats], explain: Callable[[str], Mapping[str, Any]]
    ) -> None:
        self._stats = stats
        self._explain = explain
        self._rate_limiter = RateLimiter(READS)

    def get_stats(self, request: stats_pb2.GetStatsRequest) -> stats_pb2.GetStatsResponse:
        """Returns the snapshot, or the parts of it that were asked for."""
        return stats_to_wire(self._stats(), request.parts)

    def explain(
        self, request: stats_pb2.ExplainRequest, caller_id: str, now: float
    ) -> stats_pb2.ExplainResponse:
        """Returns why a node has its status.

        Raises:
            RequestRefusedError: The id is none, or the caller asks too often.
        """
        try:
            parse_worker_id(request.node_id)
        except InvalidNodeIdError as error:
            raise RequestRefusedError("INVALID_ARGUMENT", "that is no node id") from error
        refusal = self._rate_limiter.enter(caller_id, now)
        if refusal:
            raise RequestRefusedError("RESOURCE_EXHAUSTED", refusal)
        try:
            found = self._explain(request.node_id)
            return stats_pb2.ExplainResponse(json=json.dumps(found, default=_plain))
        finally:
            self._rate_limiter.leave(caller_id)


def stats_to_wire(stats: NodeStats, parts: Iterable[str] = ()) -> stats_pb2.GetStatsResponse:
    """Returns a snapshot as JSON: all fields, or those that are named.

    Unknown names are passed over, so that a newer reader can ask an older node.
    """
    wanted = frozenset(parts)
    values = {
        field.name: getattr(stats, field.name)
        for field in fields(stats)
        if not wanted or field.name in wanted
    }
    if "pool" in values:  # its edges are among those of the node
        values["pool"] = {"services": stats.pool.services}
    if not wanted or "versions" in wanted:
        values["versions"] = _versions()
    if "edges" in values:
        from aegis_discovery.signals import busiest_edges  # only operators ask

        values["edges"], values["edges_left_out"] = busiest_edges(stats.edges, MAX_EDGE_BYTES)
    return stats_pb2.GetStatsResponse(json=json.dumps(values, default=_plain))


@cache
def _versions() -> Mapping[str, str]:
    """The versions of this package and of what it runs on."""
    # Only operators ask, and this loads slowly.
    from importlib.metadata import version

    return {
        "aegis-core": version("aegis-core"),
        "grpcio": version("grpcio"),
        "python": sys.version.split()[0],
    }


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{value!r} has no JSON form")
