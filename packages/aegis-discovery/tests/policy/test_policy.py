"""Policies: everything is denied unless a rule allows it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from aegis_discovery import NodeInfo, ServiceInfo
from aegis_discovery.policy import (
    CallRule,
    Policy,
    PolicyError,
    ProviderAuthorizer,
    ProvideRule,
    Subject,
    load_policy,
    parse_policy,
    split_method,
)
from hypothesis import given
from hypothesis import strategies as st

BILLING = Subject("billing-1", "worker", "prod.example")

GOOD = """
# Rules about calls.
[[call]]
ids = ["billing-*", "ops"]
services = ["shop.v1.Orders"]
methods = ["Cancel", "Get*"]

[[call]]
types = ["gateway"]
trust_domains = ["prod.example"]
services = ["shop.*"]

[[provide]]
ids = ["payments-*"]
services = ["payments", "ledger/v2"]
"""


def may_call(caller: Subject, method: str = "Cancel", service: str = "shop.v1.Orders") -> bool:
    return parse_policy(GOOD).may_call(caller, service, method).allowed


def test_what_no_rule_allows_is_denied() -> None:
    assert not Policy().may_call(BILLING, "shop.v1.Orders", "Cancel")
    assert not Policy().may_provide(BILLING, "orders", "v1")
    assert not Policy(provide=[ProvideRule(ids=["*"], services=["*"])]).may_call(BILLING, "s", "m")


def test_every_condition_of_a_rule_must_hold() -> None:
    assert may_call(BILLING)
    assert may_call(Subject("ops"), "GetOne")
    assert not may_call(BILLING, "Delete")
    assert not may_call(BILLING, service="shop.v1.Orders2")
    assert not may_call(Subject("xbilling-1"))
    assert may_call(Subject("edge", "gateway", "prod.example"), "Delete")
    assert not may_call(Subject("edge", "gateway", "test.example"), "Delete")
    assert not may_call(Subject("edge", "gateway"), "Delete"), "it has no trust domain"


def test_a_caller_without_a_type_matches_no_pattern_of_types() -> None:
    policy = Policy(call=[CallRule(types=["*"], services=["*"])])
    assert policy.may_call(Subject("a", ""), "s", "m")
    assert not policy.may_call(Subject("a"), "s", "m")
    assert policy.depends_on_caller_type


def test_a_service_may_be_provided_in_all_versions_or_in_one() -> None:
    policy = parse_policy(GOOD)
    node = Subject("payments-3")
    for service, version, allowed in [
        ("payments", "v1", True),
        ("payments", "v9", True),
        ("ledger", "v2", True),
        ("ledger", "v1", False),
        ("orders", "v1", False),
    ]:
        assert policy.may_provide(node, service, version).allowed is allowed, (service, version)
    assert not policy.may_provide(BILLING, "payments", "v1")


@pytest.mark.parametrize(
    ("rule", "voucher", "allowed"),
    [
        ({"ids": ["payments-*"]}, None, True),
        ({"ids": ["payments-*"]}, "gateway-1", False),
        ({"ids": ["*"]}, "gateway-1", False),
        ({"types": ["*"]}, "gateway-1", False),
        ({"ids": ["*"], "vouched_by": ["gateway-*"]}, "gateway-1", True),
        ({"ids": ["*"], "vouched_by": ["gateway-*"]}, "mallory", False),
        ({"ids": ["*"], "vouched_by": ["*"]}, None, False),
        ({"ids": ["orders-*"], "vouched_by": ["*"]}, "gateway-1", False),
    ],
)
def test_a_rule_holds_for_a_vouched_provider_only_if_it_names_the_voucher(
    rule: dict[str, list[str]], voucher: str | None, allowed: bool
) -> None:
    policy = Policy(provide=[ProvideRule(services=["payments"], **rule)])
    node = NodeInfo("payments-7", vouched_by=voucher, services=(ServiceInfo("payments", "v1"),))
    assert ProviderAuthorizer(policy, "acme.example")(node, "payments", "v1") is allowed


def test_no_call_rule_has_a_voucher() -> None:
    with pytest.raises(PolicyError, match="'vouched_by' is not known"):
        parse_policy('[[call]]\nids = ["*"]\nservices = ["*"]\nvouched_by = ["a"]')


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("a", "A", False),
        ("*", "", True),
        ("*", "anything.at/all", True),
        ("a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*b*", "abc", True),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("**", "x", True),
        ("a.b", "axb", False),
        ("*x", "x\n", False),
    ],
)
def test_a_star_matches_anything_and_other_characters_match_themselves(
    pattern: str, text: str, matches: bool
) -> None:
    policy = Policy(call=[CallRule(ids=[pattern], services=["*"])])
    assert policy.may_call(Subject(text), "s", "m").allowed is matches


@given(st.lists(st.sampled_from(["a", "b", "*"])), st.text("ab"))
def test_patterns_match_as_a_simple_recursive_definition_does(parts: list[str], text: str) -> None:
    def simple(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(simple(pattern[1:], text[n:]) for n in range(len(text) + 1))
        return text[:1] == pattern[0] and simple(pattern[1:], text[1:])

    pattern = "".join(parts[:8]) or "*"
    policy = Policy(call=[CallRule(ids=[pattern], services=["*"])])
    assert policy.may_call(Subject(text[:12]), "s", "m").allowed is simple(pattern, text[:12])


def test_matching_a_long_name_with_many_stars_is_fast() -> None:
    policy = Policy(call=[CallRule(ids=["*"], services=["*a" * 20 + "b"])])
    began = time.process_time()
    assert not policy.may_call(BILLING, "a" * 16_000, "m")
    assert time.process_time() - began < 5, "a backtracking matcher would take years"


def test_a_decision_names_its_rule_or_why_no_rule_matches() -> None:
    policy = parse_policy(GOOD)
    decision = policy.may_call(BILLING, "shop.v1.Orders", "Cancel")
    assert decision.rule is policy.call[0]
    assert decision.reason == "call rule 1 (line 3) allows it"
    decision = policy.may_call(BILLING, "shop.v1.Orders", "Delete")
    assert decision.rule is None
    assert decision.reason == (
        "call rule 1 (line 3) is for other methods; call rule 2 (line 8) is for other types"
    )
    client = policy.may_call(Subject("web"), "shop.v1.Carts", "Add")
    assert client.reason.endswith("call rule 2 (line 8) is for types, but no type is known")
    assert Policy().may_provide(BILLING, "a", "b").reason == "there is no provide rule at all"


def test_a_grpc_path_is_split_into_service_and_method() -> None:
    assert split_method("/shop.v1.Orders/Cancel") == ("shop.v1.Orders", "Cancel")
    assert split_method("odd") == ("", "odd")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[[call]\n", 1, "not valid TOML"),
        ('\n\n[[call]]\nids = ["a"]\nids = ["b"]', 5, "not valid TOML"),
        ("\n[[calls]]\n", 2, "'calls' is not known"),
        ('\n[call]\nids = ["a"]', 2, "write [[call]] above"),
        ('call = "x"', 1, "write [[call]] above"),
        ("[[provide]]\n[[call]]\n", 2, "call rule 1: services is missing"),
        ('[[call]]\nservices = ["a"]\n', 1, "no node is named"),
        ('[[call]]\nids = ["a"]\nservices = ["*"]\n[[call]]\nid = []', 4, "'id' is not known"),
        ('[[provide]]\nmethods = ["a"]', 1, "'methods' is not known"),
        ('[[call]]\nservices = "a"', 1, "services must be a list"),
        ('[[call]]\nservices = ["a", 1]\nids = ["a"]', 1, "services must be a list"),
        ('[[call]]\nids = []\nservices = ["a"]', 1, "ids is empty"),
        ('[[call]]\nids = [""]\nservices = ["a"]', 1, "ids has an empty pattern"),
        ('[[call]]\nids = ["a?"]\nservices = ["a"]', 1, "only * is special"),
        ('[[call]]\nids = ["a b"]\nservices = ["a"]', 1, "only * is special"),
    ],
)
def test_an_invalid_policy_file_is_refused_in_one_sentence_with_the_line(
    text: str, line: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as refused:
        load_policy(path)
    error = refused.value
    if text.startswith("[[provide]]\n[[call]]"):
        assert error.line == 2
    assert (error.path, error.line) == (str(path), line), error
    assert reason in str(error)
    assert str(error).startswith(f"policy {path}, line {line}: ")
    assert "\n" not in str(error)


def test_rules_in_an_inline_list_are_named_by_their_number() -> None:
    policy = parse_policy('call = [{ids=["a"], services=["s"]}, {ids=["b"], services=["s"]}]')
    assert policy.may_call(Subject("b"), "s", "m").reason == "call rule 2 allows it"


def test_the_error_about_an_unreadable_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere.toml: cannot be read: No such file"):
        load_policy(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="not text in UTF-8"):
        load_policy(tmp_path / "binary.toml")


@given(st.text())
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    message = ""
    try:
        parse_policy(text)
    except PolicyError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("ids", ["billing-*", [1]])
def test_a_rule_in_code_is_validated_as_in_a_file(ids: object) -> None:
    with pytest.raises(PolicyError, match="must be a list"):
        CallRule(ids=ids, services=["*"])  # type: ignore[arg-type]  # the wrong type is the point
