"""When an identity is renewed, with virtual time and real files."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    IdentitySource,
    KeyType,
    RevocationList,
    TLSConfig,
    TLSOptions,
)
from aegis_discovery.aio.identity import run_rotator
from aegis_discovery.identity import IdentityEvent, IdentityEventKind, IdentityRotator

Until = Callable[[Callable[[], object]], Awaitable[None]]

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


def rotator_of(ca: CertificateAuthority, clock: ManualClock) -> IdentityRotator:
    ca.issue("a", key_type=KeyType.P256, days=30)
    source = IdentitySource.directory("a", ca.directory)
    return IdentityRotator(source, source.load(), clock=clock, rng=random.Random(7))


def kinds(rotator: IdentityRotator) -> list[IdentityEventKind]:
    return [event.kind for event in rotator.poll()]


def test_nothing_happens_to_a_young_certificate(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    assert kinds(rotator_of(own_ca, clock)) == []


def test_a_certificate_is_renewed_at_two_thirds_of_its_life(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    first = rotator.tls
    share = (rotator.renew_at - clock.now) / (30 * 86400)
    assert 0.6 < share < 0.67
    clock.now = rotator.renew_at
    assert kinds(rotator) == [CHANGED]
    assert rotator.tls.private_key != first.private_key
    assert kinds(rotator) == []


def test_a_renewal_that_fails_is_tried_again_ever_more_slowly_and_past_the_end(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    key = own_ca.directory / "ca-key.pem"
    kept = key.read_bytes()
    key.unlink()
    clock.now = rotator.renew_at
    waits = []
    for _ in range(6):
        assert kinds(rotator) == [FAILED]
        assert kinds(rotator) == [], "not before its time"
        waits.append(rotator.renew_at - clock.now)
        clock.now = rotator.renew_at
    assert waits[-1] > 8 * waits[0]
    clock.now += 60 * 86400
    assert kinds(rotator) == [FAILED]
    key.write_bytes(kept)
    clock.now = rotator.renew_at
    assert kinds(rotator) == [CHANGED]


def test_bad_files_are_refused_once_and_good_ones_taken_later(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    before = rotator.tls
    path = own_ca.directory / "a-cert.pem"
    kept = path.read_bytes()
    path.write_bytes(kept[:100])
    assert kinds(rotator) == [REFUSED]
    assert kinds(rotator) == []
    assert rotator.tls is before
    path.write_bytes(kept)
    own_ca.issue("a", key_type=KeyType.P256)
    assert kinds(rotator) == [CHANGED]


def test_a_list_of_revocations_is_news_when_it_changes(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    other = own_ca.issue("b", key_type=KeyType.P256)
    own_ca.revoke("b")
    assert kinds(rotator) == [REVOCATIONS]
    assert rotator.revocations.is_revoked(other.certificate)
    assert kinds(rotator) == []


def test_an_identity_from_elsewhere_sets_the_plan(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    planned = rotator.renew_at
    rotator.change_identity(own_ca.issue_in_memory("a", days=60))
    assert rotator.renew_at > planned + 10 * 86400


@pytest.fixture
def away(own_ca: CertificateAuthority, tmp_path: Path) -> Path:
    """The directory of node `a` on a machine that never sees the key of the CA."""
    own_ca.issue("a", key_type=KeyType.P256, days=30)
    directory = tmp_path / "away"
    directory.mkdir(mode=0o700)
    for name in ("ca-cert.pem", "a-cert.pem", "a-key.pem"):
        shutil.copy(own_ca.directory / name, directory)
    return directory


def options_of(directory: Path) -> TLSOptions:
    names = ("a-cert.pem", "a-key.pem", "ca-cert.pem")
    cert, key, ca = (directory / name for name in names)
    return TLSOptions(cert_file=cert, key_file=key, ca_file=ca)


def rotator_away(directory: Path, clock: ManualClock) -> IdentityRotator:
    """A rotator of files that somebody else replaces, as a node with `tls_options` has."""
    source = IdentitySource.of(options_of(directory))
    return IdentityRotator(source, source.load(), clock=clock, rng=random.Random(7))


def put(directory: Path, tls: TLSConfig) -> None:
    (directory / "ca-cert.pem").write_bytes(tls.trust_bundle)
    (directory / "a-key.pem").write_bytes(tls.private_key)
    (directory / "a-cert.pem").write_bytes(tls.certificate_chain)


def test_the_same_bad_file_is_told_again_when_it_comes_again(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    path = own_ca.directory / "a-cert.pem"
    kept = path.read_bytes()
    for _ in range(2):
        path.write_bytes(b"junk")
        assert kinds(rotator) == [REFUSED]
        path.write_bytes(kept)
        assert kinds(rotator) == [], "it is the identity that is in use"


def strangers(own_ca: CertificateAuthority, tmp_path: Path) -> dict[str, TLSConfig]:
    """Identities that are in order by themselves, but not for this process to go on with."""
    other = CertificateAuthority.create(
        tmp_path / "other", key_type=KeyType.P256, trust_domain="other.example"
    )
    return {
        "they belong to b": own_ca.issue_in_memory("b"),
        "trust domain is other.example": other.issue_in_memory("a"),
        "fewer usages": own_ca.issue_in_memory("a", client_only=True),
    }


@pytest.mark.parametrize(
    "reason", ["they belong to b", "trust domain is other.example", "fewer usages"]
)
def test_files_that_are_in_order_but_not_of_this_node_are_refused(
    own_ca: CertificateAuthority, away: Path, tmp_path: Path, clock: ManualClock, reason: str
) -> None:
    rotator = rotator_away(away, clock)
    before, planned = rotator.tls, rotator.renew_at
    put(away, strangers(own_ca, tmp_path)[reason])
    (event,) = rotator.poll()
    assert (event.kind, event.tls) == (REFUSED, before)
    assert reason in event.reason
    assert rotator.tls is before
    assert rotator.renew_at == planned, "the identity in use is the one to be renewed"
    put(away, before)
    assert kinds(rotator) == []
    put(away, own_ca.issue_in_memory("a"))
    assert kinds(rotator) == [CHANGED]


def test_a_certificate_that_is_known_to_be_revoked_is_not_taken_up(
    own_ca: CertificateAuthority, away: Path, clock: ManualClock
) -> None:
    rotator = rotator_away(away, clock)
    before = rotator.tls
    stolen = own_ca.issue("a", key_type=KeyType.P256)
    own_ca.revoke(f"{stolen.certificate.serial_number:x}")
    shutil.copy(own_ca.directory / "crl.pem", away)
    assert kinds(rotator) == [REVOCATIONS]
    put(away, stolen)
    event = rotator.poll()[0]
    assert event.kind is REFUSED
    assert "revoked" in event.reason
    assert rotator.tls is before


def test_a_renewal_that_cannot_be_used_is_not_made_at_every_look(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    before = rotator.tls
    put(own_ca.directory, own_ca.issue_in_memory("a", client_only=True))
    assert kinds(rotator) == [REFUSED]
    clock.now = rotator.renew_at
    assert kinds(rotator) == [FAILED], "the successor of a client's is a client's"
    made = (own_ca.directory / "a-cert.pem").read_bytes()
    assert kinds(rotator) == []
    assert (own_ca.directory / "a-cert.pem").read_bytes() == made
    assert rotator.tls is before


class Broken(IdentitySource):
    """A source that fails in ways that no certificate should: the disk, a bug, a wrong unit."""

    def __init__(self, source: IdentitySource, failing: str, error: Exception) -> None:
        self._source, self._failing, self._error = source, failing, error

    def poll(self, **_: object) -> TLSConfig | None:
        return self._or_fail("poll")

    def renew(self, **_: object) -> TLSConfig | None:
        return self._or_fail("renew")

    def issuer_replaced(self) -> bool:
        return self._or_fail("issuer_replaced")

    def revocations(self, **_: object) -> RevocationList:
        return self._or_fail("revocations")

    def _or_fail(self, name: str) -> Any:
        if name == self._failing:
            raise self._error
        return getattr(self._source, name)()


@pytest.mark.parametrize("failing", ["poll", "issuer_replaced", "revocations"])
@pytest.mark.parametrize(
    "error", [OSError(24, "too many open files"), ValueError("torn"), RuntimeError("no thread")]
)
def test_whatever_one_look_fails_with_is_refused_once_and_costs_the_others_nothing(
    own_ca: CertificateAuthority, clock: ManualClock, failing: str, error: Exception
) -> None:
    own_ca.issue("a", key_type=KeyType.P256, days=30)
    source = IdentitySource.directory("a", own_ca.directory)
    first = source.load()
    rotator = IdentityRotator(Broken(source, failing, error), first, clock=clock)
    assert kinds(rotator) == [REFUSED]
    assert kinds(rotator) == []
    own_ca.issue("b", key_type=KeyType.P256)
    own_ca.revoke("b")
    new = own_ca.issue("a", key_type=KeyType.P256)
    needed = {CHANGED: "poll", REVOCATIONS: "revocations"}
    assert kinds(rotator) == [kind for kind, look in needed.items() if look != failing]
    assert rotator.tls == (first if failing == "poll" else new)


def test_whatever_a_renewal_fails_with_it_is_tried_again(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    own_ca.issue("a", key_type=KeyType.P256, days=30)
    source = IdentitySource.directory("a", own_ca.directory)
    broken = Broken(source, "renew", OSError(28, "no space left on device"))
    rotator = IdentityRotator(broken, source.load(), clock=clock)
    for _ in range(3):
        clock.now = rotator.renew_at
        assert kinds(rotator) == [FAILED]
        assert rotator.renew_at > clock.now


@pytest.fixture
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis_discovery.identity._run.POLL_INTERVAL", 0.01)


@pytest.mark.usefixtures("look_often")
async def test_a_change_that_was_not_taken_up_is_passed_on_again_until_it_is(
    own_ca: CertificateAuthority, clock: ManualClock, until: Until
) -> None:
    rotator = rotator_of(own_ca, clock)
    told: list[TLSConfig] = []

    def take(event: IdentityEvent) -> None:
        told.append(event.tls)
        if len(told) < 3:
            raise RuntimeError("halfway")

    running = asyncio.create_task(run_rotator(rotator, take))
    new = own_ca.issue("a", key_type=KeyType.P256)
    await until(lambda: len(told) == 3)
    assert told == [new] * 3
    newer = own_ca.issue("a", key_type=KeyType.P256)
    await until(lambda: len(told) == 4)
    assert told[-1] == newer, "what was taken up is not told again"
    running.cancel()


@pytest.mark.usefixtures("look_often")
async def test_a_change_that_failed_gives_way_to_a_newer_one(
    own_ca: CertificateAuthority, clock: ManualClock, until: Until
) -> None:
    rotator = rotator_of(own_ca, clock)
    told: list[int] = []
    bad: set[int] = set()

    def take(event: IdentityEvent) -> None:
        serial = event.tls.certificate.serial_number
        told.append(serial)
        if serial in bad:
            raise RuntimeError("never")

    first = own_ca.issue("a", key_type=KeyType.P256).certificate.serial_number
    bad.add(first)
    running = asyncio.create_task(run_rotator(rotator, take))
    await until(lambda: told.count(first) > 1)
    newer = own_ca.issue("a", key_type=KeyType.P256).certificate.serial_number
    await until(lambda: newer in told)
    tries = told.count(first)
    newest = own_ca.issue("a", key_type=KeyType.P256).certificate.serial_number
    await until(lambda: newest in told)
    assert told.count(first) == tries
    running.cancel()
