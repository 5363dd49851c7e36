from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

POLICY = """
[[call]]
ids = ["billing-*"]
services = ["shop.v1.Orders"]
methods = ["Cancel"]

[[call]]
types = ["gateway"]
trust_domains = ["prod.example"]
services = ["*"]

[[provide]]
ids = ["payments-*"]
services = ["payments/v2"]
"""


ONE = "call rule 1 (line 2) is for"
TWO = "call rule 2 (line 7) is for"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return str(path)


@pytest.mark.parametrize(
    ("question", "code", "answer"),
    [
        ("call billing-1 shop.v1.Orders/Cancel", 0, "allowed: call rule 1 (line 2) allows it"),
        ("call billing-1 /shop.v1.Orders/Cancel", 0, "allowed: call rule 1 (line 2) allows it"),
        ("call billing-1#3 shop.v1.Orders/Cancel", 0, "allowed: call rule 1 (line 2) allows it"),
        (
            "call billing-1 shop.v1.Orders/Delete",
            1,
            f"denied: {ONE} other methods; {TWO} types, but no type is known",
        ),
        (
            "call edge shop.v1.Orders/Delete --type gateway --trust-domain prod.example",
            0,
            "allowed: call rule 2 (line 7) allows it",
        ),
        (
            "call edge shop.v1.Carts/Add --type gateway",
            1,
            f"denied: {ONE} other services; {TWO} other trust domains",
        ),
        (
            "call anybody grpc.health.v1.Health/Check",
            0,
            "allowed: every member of the mesh may call it, whatever the rules",
        ),
        ("provide payments-1 payments/v2", 0, "allowed: provide rule 1 (line 12) allows it"),
        ("provide payments-1 payments/v1", 1, "denied: provide rule 1 (line 12) is for other"),
        (
            "provide payments-1 payments/v2 --vouched-by gateway-1",
            1,
            "denied: provide rule 1 (line 12) is for nodes that sign their records",
        ),
    ],
)
def test_it_prints_the_rule_that_allows_it_or_why_no_rule_does(
    aegis, file: str, question: str, code: int, answer: str
) -> None:
    done = aegis.invoke("policy", "check", file, *question.split())
    assert done.stdout.startswith(answer), done
    assert (done.returncode, done.stderr) == (code, "")


def test_json_has_the_same_facts_for_a_policy(aegis, file: str) -> None:
    yes = aegis.run("policy", "check", file, "call", "billing-1", "shop.v1.Orders/Cancel", "--json")
    assert json.loads(yes.stdout) == {
        "allowed": True,
        "rule": 1,
        "line": 2,
        "reason": "call rule 1 (line 2) allows it",
    }
    no = aegis.invoke("policy", "check", file, "provide", "x", "payments/v2", "--json")
    assert no.returncode == 1
    assert json.loads(no.stdout) == {
        "allowed": False,
        "rule": None,
        "line": None,
        "reason": "provide rule 1 (line 12) is for other ids",
    }


def test_an_invalid_policy_file_is_one_sentence_and_exit_code_2(aegis, tmp_path: Path) -> None:
    for text, reason in [(None, "cannot be read"), ("[[call]]\nid = []", "line 1: call rule 1")]:
        path = tmp_path / "bad.toml"
        if text is not None:
            path.write_text(text)
        done = aegis.invoke("policy", "check", str(path), "call", "a", "s/m")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert reason in " ".join(done.stderr.split())


@pytest.mark.parametrize("what", ["Cancel", "a/b/c", "/", "a/"])
def test_an_invalid_method_is_a_usage_error(aegis, file: str, what: str) -> None:
    done = aegis.invoke("policy", "check", file, "call", "billing-1", what)
    assert done.returncode == 2
    assert "is not like shop.v1.Orders/Cancel" in " ".join(done.stderr.split())


def test_a_node_applies_a_policy_and_refuses_an_invalid_file(
    aegis, file: str, tmp_path: Path
) -> None:
    node, _ = aegis.node("seed", "--policy", file)
    Path(file).write_text("[[call]\n")
    node.stderr.until("the policy stays as it is")
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    bad = aegis.invoke("node", "run", "--id", "seed", "--policy", file)
    assert bad.returncode == 2
    assert "not valid TOML" in bad.stderr
