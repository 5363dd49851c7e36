import hashlib
from collections import Counter

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


def test_a_removed_node_is_not_chosen():
    made = observers("a", "b", "c")
    assert made.observers("a") == {"b", "c"}
    assert made.remove("b")
    assert not made.remove("b")
    assert made.observers("a") == {"c"}
    assert len(made) == 2


def test_nodes_have_to_judge_about_as_often_as_others():
    ids = [f"orders-{number}" for number in range(200)]
    made = observers(*ids)
    counts = Counter(chosen for node_id in ids for chosen in made.observers(node_id))
    assert sum(counts.values()) == 5 * len(ids)
    assert max(counts.values()) < 20
    assert len(counts) > 180


def test_the_choice_is_that_of_the_protocol():
    """Other implementations choose the same: `protos/README.md` describes it."""

    def hashed(node_id):
        return int.from_bytes(hashlib.blake2b(node_id.encode(), digest_size=8).digest(), "big")

    def weight(node_id):
        return (hashed(node_id) ^ hashed("n0")) * 0x9E3779B97F4A7C15 % 2**64

    ids = [f"n{number}" for number in range(20)]
    expected = sorted(ids[1:], key=weight)[-5:]
    assert observers(*ids).observers("n0") == set(expected)
