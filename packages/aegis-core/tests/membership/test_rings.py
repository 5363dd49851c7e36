from __future__ import annotations

from collections import Counter

import pytest
from aegis_core._membership.rings import RINGS, Rings
from hypothesis import given, settings
from hypothesis import strategies as st


def ids(count: int) -> list[str]:
    return [f"node-{number:04}" for number in range(count)]


def rings_of(node_ids: list[str], unable: frozenset[str] = frozenset()) -> Rings:
    rings = Rings()
    for node_id in node_ids:
        rings.place(node_id, can_observe=node_id not in unable)
    return rings


def test_the_order_of_arrival_does_not_matter() -> None:
    forth, back = rings_of(ids(50)), rings_of(ids(50)[::-1])
    assert all(forth.observers(i) == back.observers(i) for i in ids(50))
    assert all(forth.subjects(i) == back.subjects(i) for i in ids(50))


def test_each_node_watches_about_as_many_as_it_has_observers() -> None:
    rings = rings_of(ids(1000))
    watched = Counter(len(rings.subjects(node_id)) for node_id in ids(1000))
    observed = Counter(len(rings.observers(node_id)) for node_id in ids(1000))
    assert max(watched) <= RINGS
    assert max(observed) <= RINGS
    assert watched[RINGS] > 950
    assert observed[RINGS] > 950


@pytest.mark.parametrize("count", range(1, RINGS + 2))
def test_in_a_small_mesh_every_node_watches_every_other(count: int) -> None:
    rings = rings_of(ids(count))
    for node_id in ids(count):
        everybody_else = set(ids(count)) - {node_id}
        assert rings.observers(node_id) == rings.subjects(node_id) == everybody_else


def test_an_unknown_node_neither_watches_nor_is_watched() -> None:
    rings = rings_of(ids(10))
    assert rings.observers("stranger") == rings.subjects("stranger") == frozenset()


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    unable=st.frozensets(st.integers(0, 39), max_size=30),
    gone=st.frozensets(st.integers(0, 39), max_size=20),
)
def test_the_observers_of_a_node_are_the_nodes_that_watch_it(
    count: int, unable: frozenset[int], gone: frozenset[int]
) -> None:
    rings = rings_of(ids(count), frozenset(f"node-{number:04}" for number in unable))
    for number in gone:
        rings.remove(f"node-{number:04}")
    kept = [node_id for node_id in ids(count) if node_id in rings]
    fits = [node_id for node_id in kept if int(node_id[-4:]) not in unable]
    for subject in kept:
        by_subjects = {o for o in fits if subject in rings.subjects(o)} - {subject}
        assert rings.observers(subject) == by_subjects


def test_every_node_is_observed_while_two_nodes_can_observe() -> None:
    unable = frozenset(ids(60)[2:])
    rings = rings_of(ids(60), unable)
    assert all(rings.observers(node_id) for node_id in ids(60))
    assert all(not rings.observers(node_id) & unable for node_id in ids(60))


def test_a_node_that_rejoins_has_the_same_observers() -> None:
    rings = rings_of(ids(30))
    before = {node_id: rings.observers(node_id) for node_id in ids(30)}
    assert rings.place("node-0004", can_observe=False)
    assert any(rings.observers(node_id) != before[node_id] for node_id in ids(30))
    assert rings.place("node-0004", can_observe=True)
    assert {node_id: rings.observers(node_id) for node_id in ids(30)} == before


def test_a_node_that_joins_changes_the_observers_of_few_others() -> None:
    rings = rings_of(ids(500))
    before = {node_id: rings.subjects(node_id) for node_id in ids(500)}
    rings.place("newcomer", can_observe=True)
    moved = [node_id for node_id in ids(500) if rings.subjects(node_id) != before[node_id]]
    assert len(moved) <= RINGS


def test_place_reports_changes_only() -> None:
    rings = Rings()
    assert rings.place("a", can_observe=True)
    assert not rings.place("a", can_observe=True)
    assert rings.place("a", can_observe=False)
    assert not rings.place("a", can_observe=False)
    assert rings.remove("a")
    assert not rings.remove("a")
    assert len(rings) == 0


def test_positions_on_the_rings_do_not_change_between_versions() -> None:
    # Nodes of two versions are one mesh only if they agree on this.
    assert sorted(rings_of(ids(20)).observers("node-0007")) == [
        "node-0006",
        "node-0010",
        "node-0011",
        "node-0015",
    ]
