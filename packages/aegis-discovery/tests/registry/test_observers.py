import pytest
from aegis_certs import owner_of
from aegis_discovery.registry import RendezvousObservers


def observers(*node_ids):
    made = RendezvousObservers()
    for node_id in node_ids:
        made.place(node_id, can_observe=True)
    return made


def test_five_others_observe_a_node_and_all_processes_choose_the_same():
    ids = [f"n{number}" for number in range(50)]
    one, other = observers(*ids), observers(*reversed(ids))
    for node_id in ids:
        assert len(one.observers(node_id)) == 5
        assert node_id not in one.observers(node_id)
        assert one.observers(node_id) == other.observers(node_id)


def test_an_observer_that_fails_is_replaced_and_the_others_stay():
    made = observers(*(f"n{number}" for number in range(50)))
    before = made.observers("n0")
    gone = min(before)
    made.place(gone, can_observe=False)
    assert before - made.observers("n0") == {gone}


def test_one_identity_counts_once_and_a_node_is_not_judged_by_its_own():
    workers = [f"liar#{number}" for number in range(64)]
    made = observers(*workers, "a", "b", "c")
    assert {owner_of(node_id) for node_id in made.observers("a")} == {"liar", "b", "c"}
    assert made.observers("liar#0") == {"a", "b", "c"}


def test_workers_without_others_observe_each_other():
    assert observers("a#0", "a#1").observers("a#0") == {"a#1"}


def test_only_suspects_are_watched():
    made = observers("a", "b")
    assert made.subjects("a") == frozenset()
    made.suspect("b")
    made.suspect("unknown")
    assert made.take_changed()
    assert made.subjects("a") == {"b"}
    assert made.subjects("b") == frozenset()
    made.trust("b")
    assert made.take_changed()
    assert not made.take_changed()
    assert made.subjects("a") == frozenset()


@pytest.mark.parametrize("count", [1, 2])
def test_a_removed_node_is_no_suspect(count):
    made = observers(*(f"n{number}" for number in range(count + 1)))
    made.suspect("n1")
    assert made.remove("n1")
    assert not made.remove("n1")
    assert made.subjects("n0") == frozenset()
