"""Whatever happens in whatever order: once all is healed, the mesh is one and knows the truth."""

from __future__ import annotations

from aegis_core._judge import FLAP_WINDOW
from aegis_core.testing import Simulation
from aegis_discovery import NodeStatus
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

NODES = [f"node-{number:03}" for number in range(8)]
ANCHOR = NODES[0]
"""Never ends: a node that starts anew needs somebody to join through."""

node_ids = st.sampled_from(NODES[1:])


class Schedule(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.simulation = Simulation(NODES, seed=seed)
        self.left: set[str] = set()
        self.updated: dict[str, int] = {}

    def runs(self, node_id: str) -> bool:
        return node_id in self.simulation.live and node_id not in self.left

    @rule(node_id=node_ids)
    def kill(self, node_id: str) -> None:
        if self.runs(node_id):
            self.simulation.kill(node_id)

    @rule(node_id=node_ids)
    def restart(self, node_id: str) -> None:
        if node_id in self.simulation.live:
            self.simulation.kill(node_id)
        self.simulation.join(node_id, seeds=[ANCHOR])
        self.left.discard(node_id)

    @rule(node_id=node_ids)
    def leave(self, node_id: str) -> None:
        if self.runs(node_id):
            self.simulation.leave(node_id)
            self.left.add(node_id)

    @rule(node_id=st.sampled_from(NODES), seconds=st.sampled_from([0.5, 3.0, 8.0]))
    def stall(self, node_id: str, seconds: float) -> None:
        if self.runs(node_id):
            self.simulation.stall(node_id, seconds)

    @rule(group=st.sets(st.sampled_from(NODES), min_size=1, max_size=7))
    def partition(self, group: set[str]) -> None:
        self.simulation.partition(sorted(group))

    @rule(node_id=node_ids)
    def block(self, node_id: str) -> None:
        self.simulation.block(node_id)

    @rule()
    def heal(self) -> None:
        self.simulation.heal()

    @rule(node_id=node_ids, seconds=st.sampled_from([-60.0, 0.0, 60.0]))
    def skew(self, node_id: str, seconds: float) -> None:
        self.simulation.skew(node_id, seconds)

    @rule(node_id=st.sampled_from(NODES))
    def update(self, node_id: str) -> None:
        if self.runs(node_id):
            self.simulation.update(node_id)

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0, 7.0]))
    def wait(self, seconds: float) -> None:
        self.simulation.run(seconds)

    def teardown(self) -> None:
        simulation = self.simulation
        simulation.heal()
        # Stalls end, and those that failed again and again have to be in order for a minute.
        simulation.run(10)
        # Of records, each live node's own latest one must be everywhere.
        simulation.run_until(self.is_true, within=2 * FLAP_WINDOW, what="one true mesh")

    def is_true(self) -> bool:
        gone = (NodeStatus.FAILED, NodeStatus.LEFT, None)
        return self.simulation.is_one_mesh() and all(
            self.simulation.everywhere(node_id, *gone)
            for node_id in NODES
            if node_id not in self.simulation.live
        )


TestSchedules = Schedule.TestCase
TestSchedules.settings = settings(
    max_examples=60,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
