"""When an identity is renewed, with virtual time and real files."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, IdentitySource, KeyType
from aegis_discovery.identity import IdentityEventKind, IdentityKeeper

CHANGED, REFUSED = IdentityEventKind.CHANGED, IdentityEventKind.REFUSED
FAILED, REVOCATIONS = IdentityEventKind.RENEWAL_FAILED, IdentityEventKind.REVOCATIONS


class ManualClock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def own_ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256)


def keeper_of(ca: CertificateAuthority, clock: ManualClock) -> IdentityKeeper:
    ca.issue("a", key_type=KeyType.P256, days=30)
    source = IdentitySource.directory("a", ca.directory)
    return IdentityKeeper(source, source.load(), clock=clock, rng=random.Random(7))


def kinds(keeper: IdentityKeeper) -> list[IdentityEventKind]:
    return [event.kind for event in keeper.step()]


def test_nothing_happens_to_a_young_certificate(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    assert kinds(keeper_of(own_ca, clock)) == []


def test_a_certificate_is_renewed_at_two_thirds_of_its_life(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    keeper = keeper_of(own_ca, clock)
    first = keeper.tls
    share = (keeper.renew_at - clock.now) / (30 * 86400)
    assert 0.6 < share < 0.67
    clock.now = keeper.renew_at
    assert kinds(keeper) == [CHANGED]
    assert keeper.tls.private_key != first.private_key
    assert kinds(keeper) == []


def test_a_renewal_that_fails_is_tried_again_ever_more_slowly_and_past_the_end(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    keeper = keeper_of(own_ca, clock)
    key = own_ca.directory / "ca-key.pem"
    kept = key.read_bytes()
    key.unlink()
    clock.now = keeper.renew_at
    waits = []
    for _ in range(6):
        assert kinds(keeper) == [FAILED]
        assert kinds(keeper) == [], "not before its time"
        waits.append(keeper.renew_at - clock.now)
        clock.now = keeper.renew_at
    assert waits[-1] > 8 * waits[0]
    clock.now += 60 * 86400
    assert kinds(keeper) == [FAILED]
    key.write_bytes(kept)
    clock.now = keeper.renew_at
    assert kinds(keeper) == [CHANGED]


def test_bad_files_are_refused_once_and_good_ones_taken_later(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    keeper = keeper_of(own_ca, clock)
    before = keeper.tls
    path = own_ca.directory / "a-cert.pem"
    kept = path.read_bytes()
    path.write_bytes(kept[:100])
    assert kinds(keeper) == [REFUSED]
    assert kinds(keeper) == []
    assert keeper.tls is before
    path.write_bytes(kept)
    own_ca.issue("a", key_type=KeyType.P256)
    assert kinds(keeper) == [CHANGED]


def test_a_list_of_revocations_is_news_when_it_changes(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    keeper = keeper_of(own_ca, clock)
    other = own_ca.issue("b", key_type=KeyType.P256)
    own_ca.revoke("b")
    assert kinds(keeper) == [REVOCATIONS]
    assert keeper.revocations.is_revoked(other.certificate)
    assert kinds(keeper) == []


def test_an_identity_from_elsewhere_sets_the_plan(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    keeper = keeper_of(own_ca, clock)
    planned = keeper.renew_at
    keeper.adopt(own_ca.issue_in_memory("a", days=60))
    assert keeper.renew_at > planned + 10 * 86400
