"""Merge is a join: order, grouping and repetition do not matter, and nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence

from aegis_discovery import NodeInfo, ServiceInfo, Topology
from aegis_discovery.records._record import Record
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

REPLICAS = 4
IDS = ("a", "b", "c")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def skewed(self, seconds: float):  # type: ignore[no-untyped-def]  # a one-line closure
        return lambda: self.now + seconds


operations = st.lists(
    st.tuples(
        st.sampled_from(("add", "remove", "wait", "vouch")),
        st.sampled_from(IDS),
        st.integers(1, 3),
    ),
    max_size=12,
)


def build(script: Sequence[tuple[str, str, int]], clock: Clock, voucher: str) -> Topology:
    """Runs a script on a topology without an owner: it may write any id."""
    topology = Topology(clock=clock.skewed(0))
    topology._signer._node_id = voucher
    for operation, node_id, number in script:
        match operation:
            case "add":
                topology.add_node(node(node_id, number))
            case "vouch":
                topology.vouch(node(node_id, number))
            case "remove" if topology.get_node(node_id) is not None:
                topology.remove_node(node_id)
            case _:
                clock.now += 0.001 * number
    return topology


def node(node_id: str, number: int) -> NodeInfo:
    return NodeInfo(node_id, address=f"h:{number}", services=(ServiceInfo("s", f"v{number}"),))


def held(topology: Topology) -> dict[str, Record]:
    return {record.id: record for record in topology.snapshot().records}


def joined(*parts: Topology) -> dict[str, Record]:
    result = Topology(clock=parts[0]._clock)
    for part in parts:
        result.merge(part)
    return held(result)


@given(operations, operations, operations)
def test_merge_is_commutative_associative_and_idempotent(
    one: Sequence[tuple[str, str, int]],
    two: Sequence[tuple[str, str, int]],
    three: Sequence[tuple[str, str, int]],
) -> None:
    clock = Clock()
    a, b, c = (build(script, clock, f"v{i}") for i, script in enumerate((one, two, three)))
    assert joined(a, b) == joined(b, a)
    assert joined(a, a) == held(a)
    left, right = Topology(clock=a._clock), Topology(clock=a._clock)
    left.merge(a)
    left.merge(b)
    right.merge(b)
    right.merge(c)
    assert joined(left, c) == joined(a, right)


@given(operations, operations)
def test_merge_never_loses_what_only_one_side_held(
    one: Sequence[tuple[str, str, int]], two: Sequence[tuple[str, str, int]]
) -> None:
    clock = Clock()
    a, b = build(one, clock, "v1"), build(two, clock, "v2")
    before = [held(a), held(b)]
    version = max(a.version, b.version)
    a.merge(b)
    after = held(a)
    for known in before:
        for node_id, record in known.items():
            assert after[node_id].precedence >= record.precedence
    assert a.version >= version


@given(operations, operations)
def test_merging_a_topology_that_holds_all_of_ours_adopts_it(
    one: Sequence[tuple[str, str, int]], two: Sequence[tuple[str, str, int]]
) -> None:
    clock = Clock()
    a, b = build(one, clock, "v1"), build(two, clock, "v2")
    b.merge(a)
    if b.version > a.version:
        a.merge(b)
        assert held(a) == held(b)
        assert (a.version, a.digest) == (b.version, b.digest)


class MeshMachine(RuleBasedStateMachine):
    """Nodes that change, restart and meet at random; clocks differ by minutes."""

    @initialize(skews=st.lists(st.integers(-120, 120), min_size=REPLICAS, max_size=REPLICAS))
    def start(self, skews: list[int]) -> None:
        self.clock = Clock()
        self.skews = skews
        self.replicas = [self.fresh(index) for index in range(REPLICAS)]
        self.running = [True] * REPLICAS

    def fresh(self, index: int) -> Topology:
        topology = Topology(owner=f"n{index}", clock=self.clock.skewed(self.skews[index]))
        topology.add_node(node(f"n{index}", 1))
        return topology

    @rule(index=st.integers(0, REPLICAS - 1), number=st.integers(1, 5))
    def update(self, index: int, number: int) -> None:
        self.replicas[index].add_node(node(f"n{index}", number))
        self.running[index] = True

    @rule(index=st.integers(0, REPLICAS - 1))
    def leave(self, index: int) -> None:
        if self.replicas[index].get_node(f"n{index}") is not None:
            self.replicas[index].remove_node(f"n{index}")
        self.running[index] = False

    @rule(index=st.integers(0, REPLICAS - 1))
    def restart(self, index: int) -> None:
        self.replicas[index] = self.fresh(index)
        self.running[index] = True

    @rule(milliseconds=st.integers(1, 60_000))
    def wait(self, milliseconds: int) -> None:
        self.clock.now += milliseconds / 1000

    @rule()
    def outlive_every_lease(self) -> None:
        self.clock.now += 48 * 3600
        for replica in self.replicas:
            replica.expire()
            replica.republish()

    @rule(reader=st.integers(0, REPLICAS - 1), source=st.integers(0, REPLICAS - 1))
    def meet(self, reader: int, source: int) -> None:
        self.merge(reader, source)

    def merge(self, reader: int, source: int) -> bool:
        ours = self.replicas[reader]
        before = held(ours)
        version = ours.version
        result = ours.merge(self.replicas[source])
        for node_id, record in before.items():
            assert held(ours)[node_id].precedence >= record.precedence
        if result.foreign is not None:
            # An earlier instance of this node: continue above its stamps.
            if self.running[reader]:
                ours.republish()
            else:
                ours.add_node(node(f"n{reader}", 1))
                ours.remove_node(f"n{reader}")
            return True
        return result.changed or ours.version != version

    @invariant()
    def queries_agree_with_the_nodes(self) -> None:
        for replica in getattr(self, "replicas", ()):
            assert list(replica.nodes.items()) == sorted(
                (record.id, replica.get_node(record.id))
                for record in replica.snapshot().records
                if record.info is not None
            )
            assert replica.node_count == len(replica.nodes)
            for number in range(1, 6):
                found = replica.get_service_providers("s", f"v{number}")
                assert found == tuple(
                    n for n in replica.nodes.values() if n.provides("s", f"v{number}")
                )

    def teardown(self) -> None:
        if not hasattr(self, "replicas"):
            return
        for _ in range(4 * REPLICAS):
            changed = [
                self.merge(reader, source)
                for reader in range(REPLICAS)
                for source in range(REPLICAS)
                if reader != source
            ]
            if not any(changed):
                break
        else:
            raise AssertionError("the exchange did not converge")
        assert len({(replica.version, replica.digest) for replica in self.replicas}) == 1
        expected = [f"n{index}" for index in range(REPLICAS) if self.running[index]]
        assert list(self.replicas[0].nodes) == expected


TestMesh = MeshMachine.TestCase
TestMesh.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
