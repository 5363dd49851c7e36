from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from aegis_certs.cli import show_json
from aegis_certs.cli._output import UNLIMITED
from aegis_cli._mesh.status import Answer, MeshFacts, NodeFacts
from aegis_cli._mesh.table import mesh_json, mesh_table
from aegis_discovery import NodeInfo, NodeStatus, ServiceInfo
from rich.console import Console

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SERVICES = (ServiceInfo("greeter", "v1"), ServiceInfo("translator", "v12"))


def node(node_id: str, **changes: object) -> NodeFacts:
    info = NodeInfo(node_id, address=f"{node_id}.example:50051", services=SERVICES)
    facts = NodeFacts(
        info, Answer("healthy", "serving", "", 0.0123), "", (NOW - DAY, NOW + 60 * DAY)
    )
    return replace(facts, **changes)


def mesh(*nodes: NodeFacts) -> MeshFacts:
    return MeshFacts(NOW, 7, "ab" * 32, NOW, nodes)


def shown(facts: MeshFacts, width: int) -> str:
    out = StringIO()
    Console(file=out, width=width, highlight=False).print(mesh_table(facts, width))
    return out.getvalue()


def test_a_pipe_gets_every_column_and_one_row_for_each_node() -> None:
    lines = shown(mesh(node("orders-1"), node("orders-2")), UNLIMITED).splitlines()
    assert lines[0].split("  ")[0] == "ID"
    assert lines[1].split() == [
        *("orders-1", "orders-1", "generic", "orders-1.example:50051"),
        *("greeter/v1,", "translator/v12", "alive", "healthy", "12.3", "ms", "60"),
    ]
    assert lines[2].startswith("orders-2")
    assert "".join(lines).count("ab" * 32) == 1
    assert "A wider terminal" not in "".join(lines)


@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_a_terminal_gets_lines_that_fit_with_all_important_columns(width: int) -> None:
    text = shown(mesh(node("orders-1"), node("a-node-with-quite-a-long-name-eu-west-1")), width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    for value in ("orders-1", "greeter/v1", "alive", "healthy", "12.3 ms", "60"):
        assert value in text


def test_a_narrow_terminal_names_the_columns_that_it_leaves_out() -> None:
    facts = mesh(node("orders-1"))
    assert "A wider terminal also shows: name, type." in shown(facts, 80)
    assert "A wider terminal" not in shown(facts, 120)


def test_a_node_without_an_answer_is_shown_with_the_reason() -> None:
    silent = node("orders-1", answer=None, problem="it went\naway")
    text = shown(mesh(silent), UNLIMITED)
    assert "no answer" in text.splitlines()[1]
    assert "orders-1: it went away" in text


def test_the_name_of_a_node_cannot_send_control_characters() -> None:
    info = replace(node("orders-1").info, name="\x1b[2Jx\ny", type="\x1b]0;title\x07")
    assert "\x1b" not in shown(mesh(node("orders-1", info=info)), UNLIMITED)


def test_an_unhealthy_node_is_shown_with_the_reason() -> None:
    ill = node("orders-1", answer=Answer("unhealthy", "1 of 1 failed", "disk: full", 0.001))
    text = shown(mesh(ill), 120)
    assert "unhealthy" in text
    assert "orders-1: disk: full" in text


@pytest.mark.parametrize(
    ("certificate", "days"),
    [
        ((NOW - DAY, NOW + timedelta(hours=23)), "0"),
        ((NOW - 2 * DAY, NOW - DAY), "expired"),
        (None, "-"),
    ],
)
def test_the_days_of_a_certificate_are_whole_days(
    certificate: tuple[datetime, datetime] | None, days: str
) -> None:
    row = shown(mesh(node("orders-1", certificate=certificate)), UNLIMITED).splitlines()[1]
    assert row.split()[-1] == days


def test_the_summary_counts_nodes_by_status() -> None:
    failed = replace(node("b").info, status=NodeStatus.FAILED)
    assert "3 (2 alive, 1 failed)" in shown(mesh(node("a"), node("b", info=failed), node("c")), 80)


def test_an_empty_mesh_is_shown_as_empty() -> None:
    assert "nodes    0" in shown(mesh(), 80)


def test_json_has_all_facts(capsys: pytest.CaptureFixture[str]) -> None:
    show_json(mesh_json(mesh(node("orders-1"), node("orders-2", answer=None, problem="gone"))))
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == 7
    assert document["digest"] == "ab" * 32
    first, second = document["nodes"]
    assert first["services"][1] == {"name": "translator", "version": "v12"}
    assert first["health"] == {"status": "healthy", "message": "serving", "error": ""}
    assert first["round_trip_ms"] == 12.3
    assert first["certificate"]["not_after"] == "2027-01-22T12:00:00Z"
    assert first["certificate"]["days_left"] == 60
    assert second["health"] is None
    assert second["problem"] == "gone"
