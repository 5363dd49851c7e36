from __future__ import annotations

from collections import Counter

import pytest
from aegis_certs import owner_of
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


@settings(max_examples=40, deadline=None)
@given(
    identities=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    unable=st.frozensets(st.integers(0, 60), max_size=50),
    gone=st.frozensets(st.integers(0, 60), max_size=20),
)
def test_the_observers_of_a_node_are_the_nodes_that_watch_it(
    identities: list[int], unable: frozenset[int], gone: frozenset[int]
) -> None:
    every = [
        f"node-{number:04}" + (f"#{worker}" if workers else "")
        for number, workers in enumerate(identities)
        for worker in range(workers or 1)
    ]
    cannot = frozenset(every[number] for number in unable if number < len(every))
    rings = rings_of(every, cannot)
    for number in gone:
        if number < len(every):
            rings.remove(every[number])
    kept = [node_id for node_id in every if node_id in rings]
    fits = [node_id for node_id in kept if node_id not in cannot]
    watched = {observer: rings.subjects(observer) for observer in fits}
    for subject in kept:
        by_subjects = {o for o in fits if subject in watched[o]} - {subject}
        assert rings.observers(subject) == by_subjects
        check_that_an_identity_counts_once(rings, subject, fits)


def check_that_an_identity_counts_once(rings: Rings, subject: str, fits: list[str]) -> None:
    chosen = [owner_of(observer) for observer in rings.observers(subject)]
    others = {owner_of(node_id) for node_id in fits} - {owner_of(subject)}
    siblings = {n for n in fits if owner_of(n) == owner_of(subject)} - {subject}
    if others:
        assert owner_of(subject) not in chosen
        assert len(chosen) == len(set(chosen))
        assert len(chosen) >= min(len(others), 2), "there is not one observer alone"
    else:
        assert bool(chosen) == bool(siblings), "without any other identity its own observes it"


@settings(max_examples=30, deadline=None)
@given(
    workers=st.lists(st.integers(1, 8), min_size=1, max_size=9),
    unable=st.frozensets(st.integers(0, 60), max_size=20),
)
def test_news_reach_every_worker_over_the_feeds(workers: list[int], unable: frozenset[int]) -> None:
    every = [f"n{n}#{worker}" for n, count in enumerate(workers) for worker in range(count)]
    cannot = frozenset(every[number] for number in unable if number < len(every))
    rings = rings_of(every, cannot)
    fits = [node_id for node_id in every if node_id not in cannot]
    read = {n: rings.subjects(n) | rings.followed(n) for n in fits}
    readers = {n: {reader for reader in fits if n in read[reader]} for n in fits}
    for edges in (read, readers):
        reached, left = set(fits[:1]), fits[:1]
        while left:
            following = (set(edges[left.pop()]) & set(fits)) - reached
            reached |= following
            left.extend(following)
        assert reached == set(fits)


def test_without_workers_no_feed_is_added() -> None:
    rings = rings_of(ids(50))
    assert all(rings.followed(node_id) == frozenset() for node_id in ids(50))


def test_a_member_cannot_outvote_others_with_its_workers() -> None:
    honest, minted = ids(12), [f"mallory#{number}" for number in range(64)]
    rings = rings_of(honest + minted)
    for node_id in honest:
        observers = rings.observers(node_id)
        lying = [observer for observer in observers if owner_of(observer) == "mallory"]
        assert len(lying) <= 1
        assert len(observers) >= 3
    assert not rings.observers("mallory#0") & set(minted)


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
