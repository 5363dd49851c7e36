"""After any sequence of actions: no healthy node fails, and the mesh becomes one again."""

from __future__ import annotations

import math

import pytest
from aegis_core._membership.failure_detector import FLAP_WINDOW
from aegis_core.simulation import Simulation
from aegis_discovery import NodeStatus
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

NODES = [f"node-{number:03}" for number in range(8)]
ANCHOR = NODES[0]
"""Never ends, so that a node that restarts has a seed peer."""

STEADY = FLAP_WINDOW + 15.0
"""Seconds without trouble after which a node is healthy: no verdict is held any more."""

SETTLED = 10.0
"""Seconds after which a node that started, paused, or lost its streams is healthy."""

node_ids = st.sampled_from(NODES[1:])


class Nodes(RuleBasedStateMachine):
    """Actions on nodes, and on streams between them, while all links work."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.simulation = Simulation(NODES, seed=seed)
        self.left: dict[str, float] = {}
        self.links_healthy_at = self.leaves_reliable_at = -math.inf
        self.healthy_at = dict.fromkeys(NODES, -math.inf)
        self.looked_at = 0

    def runs(self, node_id: str) -> bool:
        return node_id in self.simulation.live and node_id not in self.left

    def is_healthy(self, node_id: str) -> bool:
        return self.simulation.now >= max(self.healthy_at[node_id], self.links_healthy_at)

    def unsettle(self, *node_ids: str, seconds: float = 0.0) -> None:
        for node_id in node_ids:
            after = self.simulation.now + seconds + SETTLED
            self.healthy_at[node_id] = max(self.healthy_at[node_id], after)

    def note_missed_leave(self) -> None:
        """Notes that a node may miss the tombstone of one that leaves now, or just left."""
        self.leaves_reliable_at = self.simulation.now + SETTLED
        for node_id, since in self.left.items():
            if self.simulation.now - since < SETTLED:
                self.left[node_id] = math.inf

    # Actions on nodes

    @rule(node_id=node_ids)
    def kill(self, node_id: str) -> None:
        if self.runs(node_id):
            self.simulation.kill(node_id)
            self.healthy_at[node_id] = math.inf
            self.note_missed_leave()

    @rule(node_id=node_ids)
    def restart(self, node_id: str) -> None:
        if node_id in self.simulation.live:
            self.simulation.kill(node_id)
        self.simulation.join(node_id, seeds=[ANCHOR])
        self.left.pop(node_id, None)
        self.healthy_at[node_id] = -math.inf
        self.unsettle(node_id)
        self.note_missed_leave()

    @rule(node_id=node_ids)
    def leave(self, node_id: str) -> None:
        if self.runs(node_id):
            is_quiet = self.is_healthy(node_id) and self.simulation.now >= self.leaves_reliable_at
            self.simulation.leave(node_id)
            self.healthy_at[node_id] = math.inf
            self.note_missed_leave()
            self.left[node_id] = self.simulation.now if is_quiet else math.inf

    @rule(node_id=st.sampled_from(NODES), seconds=st.sampled_from([0.5, 3.0, 8.0]))
    def stall(self, node_id: str, seconds: float) -> None:
        if self.runs(node_id):
            self.simulation.stall(node_id, seconds)
            self.unsettle(node_id, seconds=seconds)
            self.note_missed_leave()

    @rule(node_id=node_ids, seconds=st.sampled_from([-60.0, 0.0, 60.0]))
    def skew(self, node_id: str, seconds: float) -> None:
        self.simulation.skew(node_id, seconds)

    @rule(node_id=st.sampled_from(NODES))
    def update(self, node_id: str) -> None:
        if self.runs(node_id):
            self.simulation.update(node_id)

    @rule(ends=st.lists(st.sampled_from(NODES), min_size=1, max_size=2, unique=True))
    def break_streams(self, ends: list[str]) -> None:
        if self.runs(ends[0]):
            self.simulation.break_streams(*ends)
            self.note_missed_leave()

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0, 7.0, STEADY]))
    def wait(self, seconds: float) -> None:
        self.simulation.run(seconds)

    # What must hold

    @invariant()
    def no_healthy_node_is_accused(self) -> None:
        """A healthy node never fails, and one that leaves is not suspected for it."""
        events = self.simulation.events
        for event in events[self.looked_at :]:
            healthy_at = max(self.healthy_at.get(event.subject, math.inf), self.links_healthy_at)
            assert event.kind != "failed" or event.at < healthy_at, event
            is_blamed = event.kind in ("suspected", "failed")
            assert not is_blamed or event.at <= self.left.get(event.subject, math.inf), event
        self.looked_at = len(events)

    def teardown(self) -> None:
        simulation = self.simulation
        simulation.heal()
        # Pauses end, and held nodes have to be healthy for a minute.
        simulation.run(10)
        # Every node must hold the latest record of each live node.
        simulation.run_until(self.is_true, within=2 * FLAP_WINDOW, what="one true mesh")

    def is_true(self) -> bool:
        gone = [NodeStatus.FAILED, NodeStatus.LEFT, None]
        if len(self.simulation.live) == 1:
            # A single node cannot tell whether the others are gone, or it is cut off.
            gone.append(NodeStatus.SUSPECTED)
        return self.simulation.is_one_mesh() and all(
            self.simulation.everywhere(node_id, *gone)
            for node_id in NODES
            if node_id not in self.simulation.live
        )


class NodesAndLinks(Nodes):
    """As `Nodes`, while links are cut, delayed and healed."""

    @rule(group=st.sets(st.sampled_from(NODES), min_size=1, max_size=7))
    def partition(self, group: set[str]) -> None:
        self.simulation.partition(sorted(group))
        self.trouble()

    @rule(node_id=node_ids)
    def block(self, node_id: str) -> None:
        self.simulation.block(node_id)
        self.trouble()

    @rule(node_id=node_ids, seconds=st.sampled_from([2.0, 10.0]))
    def flap(self, node_id: str, seconds: float) -> None:
        self.simulation.flap(node_id, blocked=seconds, opened=seconds)
        self.trouble()

    @rule(share=st.sampled_from([0.1, 0.5]), most=st.sampled_from([1.0, 3.0, 6.0]))
    def delay(self, share: float, most: float) -> None:
        self.simulation.delay(share, least=0.5, most=most)
        self.trouble()

    @rule()
    def heal(self) -> None:
        self.simulation.heal()
        if self.links_healthy_at == math.inf:
            self.links_healthy_at = self.simulation.now + STEADY

    def trouble(self) -> None:
        self.links_healthy_at = math.inf
        self.note_missed_leave()


# The same examples each time, so that no unrelated change meets a rare schedule.
ALWAYS_THE_SAME = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
# New examples each time; a failure prints the line that repeats it, `@reproduce_failure`.
ANEW = settings(ALWAYS_THE_SAME, max_examples=200, derandomize=False, print_blob=True)

TestNodes = Nodes.TestCase
TestNodesAndLinks = NodesAndLinks.TestCase
TestNodes.settings = TestNodesAndLinks.settings = ALWAYS_THE_SAME


class NewNodes(Nodes):
    """A separate class, so that it has its own settings."""


class NewNodesAndLinks(NodesAndLinks):
    """A separate class, so that it has its own settings."""


TestNewNodes = pytest.mark.soak(NewNodes.TestCase)
TestNewNodesAndLinks = pytest.mark.soak(NewNodesAndLinks.TestCase)
TestNewNodes.settings = TestNewNodesAndLinks.settings = ANEW
