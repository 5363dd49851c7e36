from __future__ import annotations

import pytest
from aegis_cli._mesh.status import Answer, NodeFacts
from aegis_cli._mesh.workers import line_address, line_name, line_state, line_type, lines
from aegis_discovery import NodeInfo


def node(node_id: str, **options: str) -> NodeFacts:
    return NodeFacts(NodeInfo(node_id, **options), Answer("healthy", "", "", 0.001))


def test_the_line_of_workers_has_what_they_share() -> None:
    workers = [
        node("a#10", address="h:10", type="web"),
        node("a#2", address="h:2", type="web"),
        node("b", address="h:1", name="Bee"),
    ]
    first, second = lines(workers, each=False)
    assert [worker.info.id for worker in first] == ["a#2", "a#10"]
    assert (line_name(first), line_type(first), line_address(first)) == ("a", "web", "h:2 +1")
    assert (line_name(second), line_address(second)) == ("Bee", "h:1")
    assert line_type([*first, node("a#3", type="batch")]) == "-"
    assert len(lines(workers, each=True)) == 3


@pytest.mark.parametrize(
    ("states", "shown", "worst"),
    [
        (["alive"], "alive", "alive"),
        (["alive", "alive"], "alive", "alive"),
        (["alive", "failed", "suspected"], "1 of 3 failed", "failed"),
        (["healthy", "no answer", "unhealthy", "no answer"], "2 of 4 no answer", "no answer"),
    ],
)
def test_the_worst_state_is_shown_with_how_many_have_it(
    states: list[str], shown: str, worst: str
) -> None:
    assert line_state(states) == (shown, worst)
