"""A CA decides by itself when it is replaced: as a table, and with real certificates."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from aegis_certs import (
    CertificateAuthority,
    KeyType,
    MeshView,
    RotationPhase,
    RotationPlan,
    RotationState,
    RotationStep,
    StillUsedError,
    TrustBundle,
    new_enrolment_key_and_csr,
)
from hypothesis import given

P256 = KeyType.P256
DAY = dt.timedelta(days=1)
START = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
END = START + 360 * DAY
OLD, BOTH, OLD_KEY = "old bundle", "both roots", "0a"
NONE = RotationState(
    phase=RotationPhase.NONE,
    issuing="CA",
    next=None,
    old="CA",
    bundle_fingerprint=OLD,
    trusting=frozenset(),
    old_leaves=(),
    old_used_until=None,
    old_key_id=OLD_KEY,
    is_root=True,
    issued_at=START,
    ends_at=END,
    prepared_at=None,
)
TRUSTING = MeshView({"a": BOTH, "b": BOTH})


def day(number: float) -> dt.datetime:
    return START + number * DAY


def prepared(at: dt.datetime) -> RotationState:
    phase = RotationPhase.PREPARED
    return replace(NONE, phase=phase, prepared_at=at, trusting=frozenset({BOTH}), next="CA G2")


def activated(until: dt.datetime | None = None) -> RotationState:
    state = replace(prepared(day(240)), phase=RotationPhase.ACTIVATED, old_used_until=until)
    return replace(state, issuing="CA G2", next=None)


LAGGING = MeshView({"a": BOTH, "b": OLD})
GO = MeshView({"a": BOTH}, unsigned=frozenset({"go-1"}))
USING_OLD = MeshView({"a": BOTH}, {"a": OLD_KEY})
PREPARE, ACTIVATE, RETIRE = RotationStep


@pytest.mark.parametrize(
    ("state", "view", "at", "step"),
    [
        (NONE, TRUSTING, day(239.9), None),
        (NONE, TRUSTING, day(240), PREPARE),  # two thirds
        (NONE, MeshView(), day(500), PREPARE),  # an issuer that was off for long
        (NONE, GO, day(240), None),
        (replace(NONE, is_root=False), TRUSTING, day(350), None),
        (prepared(day(240)), TRUSTING, day(269.9), None),
        (prepared(day(240)), TRUSTING, day(270), ACTIVATE),  # three quarters
        (prepared(day(240)), MeshView(), day(270), ACTIVATE),
        (prepared(day(240)), LAGGING, day(270), None),
        (prepared(day(240)), LAGGING, day(329.9), None),
        (prepared(day(240)), LAGGING, day(330), ACTIVATE),  # 11/12
        (prepared(day(240)), GO, day(350), None),
        (prepared(day(0)), TRUSTING, day(89), None),  # prepared by hand
        (prepared(day(0)), TRUSTING, day(90), ACTIVATE),
        (prepared(day(0)), LAGGING, day(329), None),
        (prepared(day(352)), TRUSTING, day(353), None),  # late: there is less time for all
        (prepared(day(352)), TRUSTING, day(354), ACTIVATE),
        (prepared(day(352)), LAGGING, day(354), None),
        (prepared(day(352)), LAGGING, day(356), ACTIVATE),
        (prepared(day(500)), LAGGING, day(500), ACTIVATE),  # nobody trusts anybody any more
        (activated(day(300)), TRUSTING, day(299), None),
        (activated(), USING_OLD, day(299), None),  # the inventory is not all
        (activated(), GO, day(299), None),
        (activated(), TRUSTING, day(299), RETIRE),
        (activated(END), USING_OLD, day(360.1), RETIRE),
    ],
)
def test_a_step_is_done_when_it_is_due(
    state: RotationState, view: MeshView, at: dt.datetime, step: RotationStep | None
) -> None:
    decision = RotationPlan(state).decide(view, at)
    assert decision.step is step
    assert decision.check_at == at if step else at < decision.check_at <= at + DAY / 1000


def test_nodes_that_lag_are_named() -> None:
    plan = RotationPlan(prepared(day(240)))
    assert plan.decide(LAGGING, day(250)).lagging == (), "nothing waits for it yet"
    assert plan.decide(LAGGING, day(280)).lagging == ("b",)
    assert plan.decide(LAGGING, day(331)).lagging == ("b",)
    assert plan.decide(TRUSTING, day(331)).lagging == ()


@pytest.mark.parametrize(
    ("state", "view", "words"),
    [
        (NONE, GO, ("go-1", "rotate-ca prepare")),
        (replace(NONE, is_root=False), TRUSTING, ("root", "rotate-ca prepare")),
        (prepared(day(240)), GO, ("go-1", "rotate-ca activate --confirm")),
    ],
)
def test_a_ca_that_cannot_rotate_itself_says_so_in_time(
    state: RotationState, view: MeshView, words: tuple[str, ...]
) -> None:
    plan = RotationPlan(state)
    assert plan.decide(view, day(239)).blocked == ""
    blocked = plan.decide(view, day(271)).blocked
    assert "2027-12-27" in blocked  # its end
    assert all(word in blocked for word in words)


def test_the_dates_of_a_plan_are_told() -> None:
    plan = RotationPlan(NONE)
    assert (plan.next_step, plan.next_at) == (PREPARE, day(240))
    assert (plan.activate_from, plan.activate_by, plan.retire_by) == (day(270), day(330), END)
    plan = RotationPlan(prepared(day(240)))
    assert (plan.next_step, plan.next_at) == (ACTIVATE, day(270))
    plan = RotationPlan(activated(day(310)))
    assert (plan.next_step, plan.next_at) == (RETIRE, day(310))


@given(
    prepared_at=st.floats(0, 720),
    at=st.floats(0, 720),
    life=st.floats(1e-4, 4000),
    lags=st.booleans(),
)
def test_the_dates_are_in_order_whenever_a_rotation_was_prepared(
    prepared_at: float, at: float, life: float, lags: bool
) -> None:
    state = replace(prepared(day(prepared_at)), ends_at=day(life))
    plan = RotationPlan(state)
    assert day(prepared_at) <= plan.activate_from <= plan.activate_by
    assert plan.activate_by <= max(plan.retire_by, day(prepared_at))
    decision = plan.decide(LAGGING if lags else TRUSTING, day(at))
    due = plan.activate_by if lags else plan.activate_from
    assert (decision.step is ACTIVATE) == (day(at) >= due)


# With real certificates


@pytest.fixture
def aged(directory: Path) -> CertificateAuthority:
    return CertificateAuthority.create(directory, key_type=P256, days=360, at=START)


def test_a_ca_goes_through_its_steps_and_its_successors_live_as_long(
    aged: CertificateAuthority, directory: Path
) -> None:
    done, at = [], START
    while at < START + 1100 * DAY:
        bundle = TrustBundle.from_pem((directory / "ca-cert.pem").read_bytes()).fingerprint
        decision = aged.advance_rotation(MeshView({"a": bundle}), at=at)
        if decision.step is not None:
            done.append(((at - START).days, decision.step))
        at += DAY
    assert done == [
        *((240, PREPARE), (270, ACTIVATE), (271, RETIRE)),
        *((480, PREPARE), (510, ACTIVATE), (511, RETIRE)),
        *((720, PREPARE), (750, ACTIVATE), (751, RETIRE)),
        *((960, PREPARE), (990, ACTIVATE), (991, RETIRE)),
    ]
    assert aged.certificate.not_valid_after_utc - aged.rotation(at=at).issued_at == 360 * DAY


def test_every_valid_leaf_of_the_old_root_delays_its_end(aged: CertificateAuthority) -> None:
    first = aged.issue("a", days=20, key_type=P256, at=day(265))
    aged.issue("client", days=0.01, key_type=P256, client_only=True, at=day(269.995))
    view = MeshView({"a": aged.bundle.fingerprint})
    assert aged.advance_rotation(view, at=day(240)).step is PREPARE
    view = MeshView({"a": aged.bundle.fingerprint})
    assert aged.advance_rotation(view, at=day(270)).step is ACTIVATE
    second = aged.renew("a", at=day(270))
    assert second.certificate.issuer != first.certificate.issuer
    # The answer of an issuer may be lost, so a process may still use the replaced certificate.
    assert aged.rotation(at=day(270)).old_used_until == first.not_after
    assert aged.advance_rotation(view, at=day(284.9)).step is None
    assert aged.advance_rotation(view, at=day(285.1)).step is RETIRE


def test_a_token_of_the_old_root_delays_its_end(aged: CertificateAuthority) -> None:
    for number in (240, 270):
        aged.create_token("new", ttl=20 * DAY, at=day(number - 1))
        aged.create_token("cancelled", ttl=29 * DAY, at=day(number - 1))
        aged.cancel_token("cancelled", at=day(number - 1))
        aged.advance_rotation(MeshView(), at=day(number))
    assert aged.advance_rotation(MeshView(), at=day(288.9)).step is None
    assert aged.advance_rotation(MeshView(), at=day(289.1)).step is RETIRE


def test_a_node_whose_new_certificate_may_be_on_its_way_delays_the_end_by_hand(
    ca: CertificateAuthority,
) -> None:
    """An issuer records an answer before it is sent."""
    leaf = ca.issue_in_memory("member").certificate
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    request = new_enrolment_key_and_csr("member", key_type=P256)
    now = dt.datetime.now(dt.UTC)
    ca.renew_for(request.csr, leaf, issuer_id="ca-1", at=now)
    with pytest.raises(StillUsedError, match=r"wait until the members .*\(member\)"):
        ca.retire_rotation(at=now + dt.timedelta(seconds=29))
    ca.retire_rotation(at=now + dt.timedelta(seconds=31))


def test_several_issuers_do_each_step_once(aged: CertificateAuthority, directory: Path) -> None:
    aged.issue("a", days=270.5, key_type=P256, at=START)
    issuers = [aged, *(CertificateAuthority.load(directory) for _ in range(4))]
    with ThreadPoolExecutor(len(issuers)) as threads:
        for number, step in ((240, PREPARE), (270, ACTIVATE), (271, RETIRE)):
            at = day(number)
            decisions = threads.map(
                lambda one, at=at: one.advance_rotation(MeshView(), at=at), issuers
            )
            assert [one.step for one in decisions].count(step) == 1
    assert {one.rotation(at=day(271)).issuing for one in issuers} == {aged.name}


def test_an_intermediate_whose_root_is_away_is_left_alone(directory: Path) -> None:
    ca = CertificateAuthority.create(
        directory, key_type=P256, days=360, intermediate=True, at=START
    )
    decision = ca.advance_rotation(MeshView(), at=day(300))
    assert decision.step is None
    assert "its root is not in the directory" in decision.blocked


def test_a_passphrase_encrypts_the_next_key_too(directory: Path) -> None:
    ca = CertificateAuthority.create(
        directory, key_type=P256, days=360, passphrase="secret", at=START
    )
    for number in (240, 270):
        ca.advance_rotation(MeshView(), at=day(number))
    assert b"ENCRYPTED" in (directory / "ca-key.pem").read_bytes()
    assert CertificateAuthority.load(directory, passphrase="secret").name == ca.name
