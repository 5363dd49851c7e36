import pytest
from aegis_discovery.records import Opinion
from aegis_discovery.registry import Keys

KEYS = Keys("prod", "test")


def test_a_record_is_known_as_its_node_signed_it(publish, reading):
    a, b = publish("a"), publish("b")
    reading.read_all((a.key, a.value), (b.key, b.value))
    assert list(reading.topology.nodes) == ["a", "b"]
    assert reading.contents.present == {"a", "b"}
    assert reading.topology.get_record("a") == a.topology.get_record("a")


def test_a_key_that_vanishes_is_reported_once_and_its_node_stays_known(publish, reading):
    a = publish("a")
    reading.read((a.key, a.value))
    reading.contents.take_changes()
    reading.read((a.key, None), (a.key, None))
    assert reading.contents.take_changes() == (["a"], [])
    assert "a" in reading.topology.nodes
    reading.read((a.key, a.value))
    assert reading.contents.take_changes() == ([], ["a"])


def test_a_key_that_is_not_read_any_more_has_vanished(publish, reading):
    a, b = publish("a"), publish("b")
    reading.read_all((a.key, a.value), (b.key, b.value))
    reading.contents.take_changes()
    reading.read_all((a.key, a.value))
    assert reading.contents.take_changes() == (["b"], [])


def test_a_tombstone_is_a_leave_and_its_key_is_not_missed(publish, reading):
    a = publish("a")
    reading.read((a.key, a.value))
    reading.contents.take_changes()
    a.topology.remove_node("a")
    reading.read((a.key, a.value), (a.key, None))
    assert reading.topology.nodes == {}
    assert reading.contents.take_changes() == ([], [])


def test_verdicts_are_merged(publish, reading):
    a, b = publish("a"), publish("b")
    verdict = a.accuse(b, Opinion.FAILED)
    reading.read_all((a.key, a.value), (b.key, b.value), verdict)
    [found] = reading.topology.get_verdicts("b")
    assert (found.accuser, found.opinion) == ("a", Opinion.FAILED)


def garbage(a, b):
    verdict_key, verdict = a.accuse(b, Opinion.FAILED)
    half = len(a.value) // 2
    return {
        "no message": (a.key, b"\xff\xff"),
        "empty": (a.key, b""),
        "cut": (a.key, a.value[:half]),
        "too large": (a.key, a.value + bytes(30_000)),
        "another node's key": (a.key, b.value),
        "a verdict in a node's key": (a.key, verdict),
        "a record in a verdict's key": (verdict_key, a.value),
        "a verdict by another": (KEYS.verdict("a", "b"), verdict),
        "no key of ours": (KEYS.start + b"secrets/x", b"x"),
        "a changed signature": (a.key, a.value[:-40] + bytes(40)),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "no message",
        "empty",
        "cut",
        "too large",
        "another node's key",
        "a verdict in a node's key",
        "a record in a verdict's key",
        "a verdict by another",
        "no key of ours",
        "a changed signature",
    ],
)
def test_garbage_changes_nothing_and_gives_one_line(publish, reading, caplog, kind):
    a, b = publish("a"), publish("b")
    bad = garbage(a, b)[kind]
    reading.read(bad, bad)
    assert reading.topology.nodes == {}
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("aegis.")]
    assert len(lines) == 1
    assert "prod/test" in lines[0] or "record of a" in lines[0] or "chain" in lines[0]


def test_an_older_record_does_not_replace_a_newer_one(publish, reading):
    a = publish("a")
    older = a.value
    a.topology.republish()
    reading.read((a.key, a.value), (a.key, older))
    assert reading.topology.get_record("a") == a.topology.get_record("a")
