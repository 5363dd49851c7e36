import math

import pytest
from aegis_discovery.registry import Publication
from aegis_discovery.registry._publication import Write


@pytest.fixture
def publication():
    return Publication(uniform=lambda _low, high: high)


def write_all(publication, now, revision):
    written = publication.due(now)
    for write in written:
        publication.wrote(write, revision)
    return written


def test_what_is_wanted_is_written_once(publication):
    publication.want(b"k", b"1", 0.0)
    assert write_all(publication, 0.0, 5) == [Write(b"k", b"1")]
    publication.want(b"k", b"1", 1.0)
    assert publication.due(1.0) == []
    assert publication.next_due() == math.inf


def test_the_echo_of_an_older_write_is_no_change(publication):
    publication.want(b"k", b"1", 0.0)
    write_all(publication, 0.0, 5)
    publication.want(b"k", b"2", 0.1)
    write_all(publication, 0.1, 6)
    publication.observed(b"k", b"1", 5, 0.2)
    publication.observed(b"k", b"2", 6, 0.2)
    assert publication.next_due() == math.inf


def test_a_key_that_somebody_deletes_again_and_again_is_written_ever_more_rarely(publication):
    publication.want(b"k", b"1", 0.0)
    write_all(publication, 0.0, 1)
    now, revision, pauses = 10.0, 2, []
    for _ in range(8):
        publication.observed(b"k", None, revision, now)
        pauses.append(publication.next_due() - now)
        now = publication.next_due()
        assert write_all(publication, now, revision + 1)
        revision += 2
    assert pauses[0] == pytest.approx(0.2)
    assert pauses[-1] == pytest.approx(10.0)
    publication.observed(b"k", b"other", revision, now + 100)
    assert publication.next_due() == pytest.approx(now + 100.2)


def test_leased_keys_are_written_again_after_the_lease_ended(publication):
    publication.want(b"leased", b"1", 0.0)
    publication.want(b"kept", b"2", 0.0, is_leased=False)
    write_all(publication, 0.0, 1)
    publication.lost_lease(5.0)
    assert publication.due(5.0) == []
    assert [write.key for write in publication.due(7.0)] == [b"leased"]


def test_another_cluster_is_given_everything(publication):
    publication.want(b"leased", b"1", 0.0)
    publication.want(b"kept", b"2", 0.0, is_leased=False)
    write_all(publication, 0.0, 1000)
    publication.lost_all(1.0)
    publication.observed(b"kept", b"2", 3, 1.0)
    assert [write.key for write in publication.due(3.0)] == [b"leased"]


def test_what_others_have_written_meanwhile_is_not_written(publication):
    publication.want(b"doc", b"1", 0.0, within=2.0, is_leased=False)
    assert publication.due(1.0) == []
    publication.observed(b"doc", b"1", 7, 1.0)
    assert publication.next_due() == math.inf


def test_a_key_that_was_not_read_is_gone(publication):
    publication.want(b"k", b"1", 0.0)
    write_all(publication, 0.0, 1)
    publication.reading_ended(set(), 9, 1.0)
    assert publication.due(2.0) == [Write(b"k", b"1")]


def test_a_dropped_key_is_deleted_and_forgotten(publication):
    publication.want(b"k", b"1", 0.0)
    write_all(publication, 0.0, 1)
    publication.drop(b"k", 1.0)
    assert write_all(publication, 1.0, 2) == [Write(b"k", None)]
    assert len(publication) == 0


def test_a_refused_write_is_tried_later_and_named_once(publication):
    publication.want(b"k", b"1", 0.0)
    [write] = publication.due(0.0)
    assert publication.failed(write, 0.0)
    assert publication.due(0.1) == []
    [write] = publication.due(publication.next_due())
    assert not publication.failed(write, 0.2)
