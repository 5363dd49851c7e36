from __future__ import annotations

from aegis_core._membership.refutation import REFUTE_EVERY, Refutation
from aegis_discovery.records import Opinion, Verdict


def test_an_accuser_that_becomes_an_observer_is_answered_as_one() -> None:
    answers = Refutation()
    verdict = Verdict("m", "i", 1, 1, "a", "x", 1, Opinion.FAILED)
    given = [
        second
        for second in range(100)
        if answers.is_due("m", second, is_observer=False)
        and (answers.answered(verdict, second, is_observer=False) or True)
    ]
    assert given == [0, 1, 3, 7, 15, 31, 63]
    last = float(given[-1])
    assert not answers.is_due("m", last + REFUTE_EVERY, is_observer=False)
    assert not answers.is_due("m", last + REFUTE_EVERY / 2, is_observer=True)
    assert answers.is_due("m", last + REFUTE_EVERY, is_observer=True)
    answers.answered(verdict, last + REFUTE_EVERY, is_observer=True)
    assert answers.is_due("m", last + 2 * REFUTE_EVERY, is_observer=True)
