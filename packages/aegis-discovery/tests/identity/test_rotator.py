"""Identity rotation, with virtual time and real files."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
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

from ..conftest import ManualClock

Until = Callable[[Callable[[], object]], Awaitable[None]]

CHANGED, REFUSED = IdentityEventKind.CHANGED, IdentityEventKind.REFUSED
FAILED, REVOCATIONS = IdentityEventKind.RENEWAL_FAILED, IdentityEventKind.REVOCATIONS


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


@pytest.fixture
def own_ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256)


def rotator_of(ca: CertificateAuthority, clock: ManualClock) -> IdentityRotator:
    ca.issue("a", key_type=KeyType.P256, days=30)
    source = IdentitySource.directory("a", ca.directory)
    return IdentityRotator(source, source.load(), clock=clock, rng=random.Random(7))


def kinds(rotator: IdentityRotator) -> list[IdentityEventKind]:
    return [event.kind for event in rotator.poll()]


def test_a_young_certificate_is_not_renewed(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    assert kinds(rotator_of(own_ca, clock)) == []


def test_a_certificate_is_renewed_at_two_thirds_of_its_lifetime(
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


def test_a_failed_renewal_is_tried_again_with_backoff_even_after_expiry(
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
        assert kinds(rotator) == [], "not before it is due"
        waits.append(rotator.renew_at - clock.now)
        clock.now = rotator.renew_at
    assert waits[-1] > 8 * waits[0]
    clock.now += 60 * 86400
    assert kinds(rotator) == [FAILED]
    key.write_bytes(kept)
    clock.now = rotator.renew_at
    assert kinds(rotator) == [CHANGED]


def test_a_node_whose_ca_ends_says_how_to_replace_it_and_does_not_fill_the_log(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    ca = CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256, days=0.001)
    rotator = rotator_of(ca, clock)
    for _ in range(6):  # the life is so short that the retries are seconds apart
        clock.now = rotator.renew_at
        (event,) = rotator.poll()
        assert event.kind is FAILED
        assert "`aegis-certs rotate-ca prepare`" in event.reason
    assert len([one for one in caplog.records if "could not renew" in one.message]) == 1


def test_bad_files_are_refused_once_and_good_files_are_accepted_later(
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


def test_a_changed_revocation_list_is_an_event(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    other = own_ca.issue("b", key_type=KeyType.P256)
    own_ca.revoke("b")
    assert kinds(rotator) == [REVOCATIONS]
    assert rotator.revocations.is_revoked(other.certificate)
    assert kinds(rotator) == []


def test_a_changed_identity_decides_when_the_next_renewal_is_due(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    planned = rotator.renew_at
    rotator.change_identity(own_ca.issue_in_memory("a", days=60))
    assert rotator.renew_at > planned + 10 * 86400


@pytest.fixture
def away(own_ca: CertificateAuthority, tmp_path: Path) -> Path:
    """The directory of node `a` on a machine without the CA's key."""
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
    """A rotator of files that others replace, as a node with `tls_options` has."""
    source = IdentitySource.of(options_of(directory))
    return IdentityRotator(source, source.load(), clock=clock, rng=random.Random(7))


def put(directory: Path, tls: TLSConfig) -> None:
    (directory / "ca-cert.pem").write_bytes(tls.trust_bundle)
    (directory / "a-key.pem").write_bytes(tls.private_key)
    (directory / "a-cert.pem").write_bytes(tls.certificate_chain)


def test_a_bad_file_is_reported_again_when_it_returns(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    path = own_ca.directory / "a-cert.pem"
    kept = path.read_bytes()
    for _ in range(2):
        path.write_bytes(b"junk")
        assert kinds(rotator) == [REFUSED]
        path.write_bytes(kept)
        assert kinds(rotator) == [], "the file has the identity in use"


def strangers(own_ca: CertificateAuthority, tmp_path: Path) -> dict[str, TLSConfig]:
    """Valid identities that this process cannot use."""
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
def test_a_valid_identity_that_this_node_cannot_use_is_refused(
    own_ca: CertificateAuthority, away: Path, tmp_path: Path, clock: ManualClock, reason: str
) -> None:
    rotator = rotator_away(away, clock)
    before, planned = rotator.tls, rotator.renew_at
    put(away, strangers(own_ca, tmp_path)[reason])
    (event,) = rotator.poll()
    assert (event.kind, event.tls) == (REFUSED, before)
    assert reason in event.reason
    assert rotator.tls is before
    assert rotator.renew_at == planned, "the renewal is still that of the identity in use"
    put(away, before)
    assert kinds(rotator) == []
    put(away, own_ca.issue_in_memory("a"))
    assert kinds(rotator) == [CHANGED]


def test_a_revoked_certificate_is_refused(
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


def test_a_renewal_that_cannot_be_used_is_not_repeated_at_every_poll(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    rotator = rotator_of(own_ca, clock)
    before = rotator.tls
    put(own_ca.directory, own_ca.issue_in_memory("a", client_only=True))
    assert kinds(rotator) == [REFUSED]
    clock.now = rotator.renew_at
    assert kinds(rotator) == [FAILED], "a client certificate is renewed as one"
    made = (own_ca.directory / "a-cert.pem").read_bytes()
    assert kinds(rotator) == []
    assert (own_ca.directory / "a-cert.pem").read_bytes() == made
    assert rotator.tls is before


class Broken(IdentitySource):
    """A source with errors that are not about certificates, such as those of a disk or a bug."""

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
def test_an_error_of_one_check_is_reported_once_and_does_not_affect_the_others(
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


def test_a_renewal_is_tried_again_after_any_error(
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
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis_discovery.identity._run.POLL_INTERVAL", 0.01)


@pytest.mark.usefixtures("poll_often")
async def test_an_event_is_passed_again_until_it_is_handled(
    own_ca: CertificateAuthority, clock: ManualClock, until: Until
) -> None:
    rotator = rotator_of(own_ca, clock)
    received: list[TLSConfig] = []

    def handle(event: IdentityEvent) -> None:
        received.append(event.tls)
        if len(received) < 3:
            raise RuntimeError("halfway")

    running = asyncio.create_task(run_rotator(rotator, handle))
    new = own_ca.issue("a", key_type=KeyType.P256)
    await until(lambda: len(received) == 3)
    assert received == [new] * 3
    newer = own_ca.issue("a", key_type=KeyType.P256)
    await until(lambda: len(received) == 4)
    assert received[-1] == newer, "a handled event is not passed again"
    running.cancel()


@pytest.mark.usefixtures("poll_often")
async def test_a_newer_event_replaces_one_that_failed(
    own_ca: CertificateAuthority, clock: ManualClock, until: Until
) -> None:
    rotator = rotator_of(own_ca, clock)
    received: list[int] = []
    bad: set[int] = set()

    def handle(event: IdentityEvent) -> None:
        serial = event.tls.certificate.serial_number
        received.append(serial)
        if serial in bad:
            raise RuntimeError("never")

    first = own_ca.issue("a", key_type=KeyType.P256).certificate.serial_number
    bad.add(first)
    running = asyncio.create_task(run_rotator(rotator, handle))
    await until(lambda: received.count(first) > 1)
    newer = own_ca.issue("a", key_type=KeyType.P256).certificate.serial_number
    await until(lambda: newer in received)
    tries = received.count(first)
    newest = own_ca.issue("a", key_type=KeyType.P256).certificate.serial_number
    await until(lambda: newest in received)
    assert received.count(first) == tries
    running.cancel()


class Issuer:
    """An issuer without a network: it answers as soon as it is asked."""

    is_possible, is_running = True, False

    def __init__(
        self, ca: CertificateAuthority, source: IdentitySource, clock: ManualClock
    ) -> None:
        self._ca, self._source, self._clock = ca, source, clock
        self._answer: TLSConfig | None = None
        self.asked_at: list[float] = []

    def obstacle(self, tls: TLSConfig) -> str:
        return ""

    def begin(self, tls: TLSConfig) -> None:
        self.is_running = True
        self.asked_at.append(self._clock.now)
        at = dt.datetime.fromtimestamp(self._clock.now, dt.UTC)
        with self._source.requesting(tls, at=at) as request:
            chain = self._ca.renew_for(request.csr, tls.certificate, issuer_id="ca-1", at=at).chain
            self._answer = request.install(request.verify(chain, at=at))

    def result(self) -> TLSConfig | None:
        self.is_running = False
        return self._answer


def test_members_ask_an_issuer_one_after_the_other_when_their_ca_was_replaced(
    own_ca: CertificateAuthority, clock: ManualClock
) -> None:
    old = own_ca.certificate
    members = []
    for number in range(20):
        tls = own_ca.issue_in_memory(f"a{number}", days=30)
        source = IdentitySource.fixed(tls)
        issuer = Issuer(own_ca, source, clock)
        rng = random.Random(number)
        members.append((issuer, IdentityRotator(source, tls, remote=issuer, clock=clock, rng=rng)))
    start = clock.now
    for step in (own_ca.prepare_rotation, lambda: own_ca.activate_rotation(confirm=True)):
        assert not any(issuer.asked_at for issuer, _ in members)
        step()
        for _, rotator in members:
            trusting = replace(rotator.tls, trust_bundle=own_ca.bundle.pem)
            rotator.change_identity(trusting)
            rotator.poll()
    while clock.now < start + 61:
        clock.now += 1
        for _, rotator in members:
            rotator.poll()
    asked = [issuer.asked_at for issuer, _ in members]
    assert all(len(times) == 1 for times in asked), "each asks once"
    assert len({times[0] for times in asked}) > 10, "not all at once"
    assert not any(rotator.tls.certificate.issuer == old.subject for _, rotator in members)
