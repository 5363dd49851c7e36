import pytest
from aegis_discovery import NodeStatus
from aegis_discovery.records import Opinion
from aegis_discovery.registry import RendezvousObservers
from aegis_discovery.registry._statuses import RegistryStatuses

ALIVE, SUSPECTED, FAILED = NodeStatus.ALIVE, NodeStatus.SUSPECTED, NodeStatus.FAILED
IDS = [f"n{number}" for number in range(8)]


@pytest.fixture
def mesh(publish, reading):
    nodes = {node_id: publish(node_id) for node_id in IDS}
    reading.read_all(*((node.key, node.value) for node in nodes.values()))
    return nodes


@pytest.fixture
def statuses(mesh, reading):
    made = RegistryStatuses(reading.topology)
    made.key_changes(*reading.contents.take_changes(), 0.0)
    return made


@pytest.fixture
def observers():
    chosen = RendezvousObservers()
    for node_id in IDS:
        chosen.place(node_id, can_observe=True)
    return chosen


def status(reading, node_id="n0"):
    return reading.topology.get_node(node_id).status


def test_a_node_whose_key_vanished_is_suspected_until_it_is_back(mesh, reading, statuses):
    reading.read((mesh["n0"].key, None))
    statuses.key_changes(*reading.contents.take_changes(), 1.0)
    assert status(reading) is SUSPECTED
    reading.read((mesh["n0"].key, mesh["n0"].value))
    statuses.key_changes(*reading.contents.take_changes(), 2.0)
    assert status(reading) is ALIVE


def test_a_node_is_failed_once_three_of_its_observers_say_so(mesh, reading, statuses, observers):
    accusers = sorted(observers.observers("n0"))
    for number, accuser in enumerate(accusers[:3], 1):
        assert status(reading) is (ALIVE if number == 1 else SUSPECTED)
        reading.read(mesh[accuser].accuse(mesh["n0"], Opinion.FAILED))
        statuses.review(float(number) / 10)
    assert status(reading) is FAILED


def test_a_newer_record_answers_all_accusations(mesh, reading, statuses, observers):
    for accuser in observers.observers("n0"):
        reading.read(mesh[accuser].accuse(mesh["n0"], Opinion.FAILED))
    statuses.review(1.0)
    assert status(reading) is FAILED
    mesh["n0"].topology.republish()
    reading.read((mesh["n0"].key, mesh["n0"].value))
    statuses.review(1.1)
    assert status(reading) is ALIVE


def test_verdicts_of_others_than_the_observers_do_not_count(mesh, reading, statuses, observers):
    for accuser in set(IDS) - observers.observers("n0") - {"n0"}:
        reading.read(mesh[accuser].accuse(mesh["n0"], Opinion.FAILED))
    statuses.review(1.0)
    assert status(reading) is ALIVE


def test_the_only_node_that_is_left_replaces_all_observers(mesh, reading, statuses):
    """All others died at the same moment, so most observers of each are dead."""
    dead, now = set(IDS) - {"n7"}, 0.0
    said = set()
    while {status(reading, node_id) for node_id in dead} != {FAILED}:
        now += 0.5
        assert now < 15
        for node_id in sorted(dead - said):
            if "n7" in statuses.observers.observers(node_id):
                said.add(node_id)
                reading.read(mesh["n7"].accuse(mesh[node_id], Opinion.FAILED))
        statuses.review(now)
    assert status(reading, "n7") is ALIVE


def test_dead_observers_are_not_waited_for(mesh, reading, statuses, observers):
    """Three of the five died at the same moment as the node, and nobody can accuse them all."""
    chosen = sorted(observers.observers("n0"))
    for dead in chosen[:3]:
        accuser = next(o for o in sorted(observers.observers(dead)) if o not in chosen[:3])
        reading.read(mesh[accuser].accuse(mesh[dead], Opinion.SUSPECT))
    for accuser in chosen[3:]:
        reading.read(mesh[accuser].accuse(mesh["n0"], Opinion.FAILED))
    statuses.review(1.0)
    assert status(reading) is SUSPECTED
    statuses.review(3.1)
    statuses.review(3.2)
    assert status(reading) is FAILED


def test_a_client_of_some_services_counts_no_verdicts(mesh, reading, observers):
    statuses = RegistryStatuses(reading.topology, counts_verdicts=False)
    statuses.review(0.0)
    for accuser in observers.observers("n0"):
        reading.read(mesh[accuser].accuse(mesh["n0"], Opinion.FAILED))
    statuses.review(1.0)
    assert status(reading) is ALIVE
