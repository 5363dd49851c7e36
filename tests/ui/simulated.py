"""A mesh of many nodes for the page: real membership in virtual time, and traffic by numbers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aegis_cli._view.edges import BUCKETS
from aegis_cli._view.model import CertificateSeen, Seen, View
from aegis_core._node.history import History
from aegis_core.simulation import Simulation
from aegis_discovery import HealthStatus, NodeInfo, NodeStatus, ServiceInfo

LAYERS = (
    ("gateway", ("accounts", "orders", "catalog", "search")),
    ("accounts", ("users",)),
    ("orders", ("payments", "stock", "users")),
    ("catalog", ("stock", "prices")),
    ("search", ("catalog",)),
    ("payments", ("ledger",)),
    ("stock", ()),
    ("prices", ()),
    ("users", ()),
    ("ledger", ()),
)
"""Services, and what each of them calls."""


class SimulatedSource:
    """Views of a simulated mesh; each reading is some seconds later.

    Args:
        regions: The regions, with as many nodes each.
        size: The nodes of a region.
        failing: Services of whose calls one in five fails.
    """

    def __init__(
        self, regions: Sequence[str], size: int, *, failing: Sequence[str] = (), seed: int = 1
    ) -> None:
        self.simulation = Simulation(size, regions=regions, seed=seed)
        self.observer = self.simulation.live[0]
        self.seconds = 2.0
        self.failing = set(failing)
        self.trouble = ""
        self._kinds = {
            node_id: LAYERS[int(node_id.rpartition("-")[2]) % len(LAYERS)][0]
            for node_id in self.simulation.live
        }
        self._began = datetime.now(UTC) - timedelta(hours=5)
        topology = self.simulation.topology_of(self.observer)
        self._history = History(topology, self._observers)
        self._calls: dict[tuple[str, str], int] = {}

    def _observers(self, subject: str) -> frozenset[str]:
        """Enough of the simulation: whoever has said something about a node."""
        topology = self.simulation.topology_of(self.observer)
        return frozenset(one.accuser for one in topology.get_verdicts(subject))

    async def close(self) -> None:
        self._history.close()

    async def read(self, last: View | None) -> View:
        """Lets time pass, and returns the next view."""
        if self.trouble and last is not None:
            return last._replace(trouble=self.trouble)
        # In a thread, since a death of one of many nodes costs the simulation a second of CPU.
        await asyncio.to_thread(self.simulation.run, self.seconds)
        now = datetime.now(UTC)
        topology = self.simulation.topology_of(self.observer)
        standings = {one.id: one for one in self._history.standings}
        nodes = []
        for info in topology.nodes.values():
            standing = standings.get(info.id)
            nodes.append(
                Seen(
                    self._dressed(info),
                    standing.since if standing else self._began,
                    standing.by if standing else (),
                    CertificateSeen(info.id, "Aegis CA", self._began, now + timedelta(days=80)),
                )
            )
        stats = {
            node.id: {
                "started_at": f"{self._began:%Y-%m-%dT%H:%M:%SZ}",
                "edges": self._edges(node, nodes),
            }
            for node in nodes
            if node.info.status is NodeStatus.ALIVE
        }
        stats[self.observer] |= {
            "events": json.loads(
                json.dumps([asdict(one) for one in self._history.events], default=str)
            )
        }
        version, digest = topology.version, topology.digest.hex()
        return View(now, self.observer, version, digest, now, tuple(nodes), stats)

    def _dressed(self, info: NodeInfo) -> NodeInfo:
        kind = self._kinds[info.id]
        return replace(
            info,
            services=(ServiceInfo(kind, "v1"),) if kind != "gateway" else (),
            region=self.simulation.region_of(info.id),
            zone="ab"[int(info.id.rpartition("-")[2]) % 2],
            address=f"{info.id}.example:50051",
            health=HealthStatus.HEALTHY,
        )

    def _edges(self, caller: Seen, nodes: Sequence[Seen]) -> list[dict[str, Any]]:
        """Each node calls two providers of its region, some times in each round."""
        kind = self._kinds[caller.id]
        found = []
        for rank, service in enumerate(dict(LAYERS)[kind]):
            able = [
                one
                for one in nodes
                if self._kinds[one.id] == service
                and one.info.status is NodeStatus.ALIVE
                and one.info.region == caller.info.region
            ]
            for one in able[:2]:
                key = caller.id, one.id
                calls = self._calls[key] = self._calls.get(key, 0) + 60 // (rank + 1)
                failed = calls // 5 if service in self.failing else 0
                codes = {"OK": calls - failed} | ({"UNAVAILABLE": failed} if failed else {})
                buckets = [0] * BUCKETS
                buckets[12 + rank], buckets[20] = calls * 9 // 10, calls // 10
                found.append(
                    {
                        "side": "client",
                        "caller": caller.id,
                        "service": f"{service}/v1",
                        "method": f"shop.{service}/Get",
                        "provider": one.id,
                        "started": calls,
                        "codes": codes,
                        "seconds": {"count": calls, "sum": 1.0, "buckets": buckets},
                    }
                )
        return found
