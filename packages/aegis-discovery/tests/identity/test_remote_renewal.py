"""Renewal at issuers of the mesh, decided by the rotator, with virtual time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    CertsError,
    IdentitySource,
    IssuerAddress,
    KeyType,
    LockTimeoutError,
    TLSConfig,
)
from aegis_discovery import EnrolmentError
from aegis_discovery.enrolment import MeshRenewal
from aegis_discovery.identity import IdentityEventKind, IdentityRotator

from ..conftest import ManualClock

DAY = 86400.0
CHANGED, FAILED = IdentityEventKind.CHANGED, IdentityEventKind.RENEWAL_FAILED


class Remote:
    """Issuers that answer when the test says so."""

    def __init__(self) -> None:
        self.is_possible = True
        self.reason = ""
        self.asked: list[TLSConfig] = []
        self.answer: Callable[[], TLSConfig] | None = None
        self._is_asked = False

    @property
    def is_running(self) -> bool:
        return self._is_asked

    def obstacle(self, tls: TLSConfig) -> str:
        return self.reason

    def begin(self, tls: TLSConfig) -> None:
        assert not self._is_asked
        self._is_asked = True
        self.asked.append(tls)

    def result(self) -> TLSConfig | None:
        if self.answer is None:
            return None
        answer, self.answer, self._is_asked = self.answer, None, False
        return answer()


@pytest.fixture
def ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", key_type=KeyType.P256)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def rotator(ca: CertificateAuthority, clock: ManualClock, remote: Remote) -> IdentityRotator:
    tls = ca.issue_in_memory("a", key_type=KeyType.P256, days=30)
    source = IdentitySource.fixed(tls)
    source.load()
    return IdentityRotator(source, tls, remote=remote, clock=clock, rng=random.Random(7))


def _kinds(rotator: IdentityRotator) -> list[IdentityEventKind]:
    return [event.kind for event in rotator.poll()]


def _raise(error: Exception) -> Callable[[], TLSConfig]:
    def answer() -> TLSConfig:
        raise error

    return answer


def test_an_issuer_is_asked_at_two_thirds_of_the_life_and_polls_go_on_meanwhile(
    ca: CertificateAuthority, rotator: IdentityRotator, clock: ManualClock, remote: Remote
) -> None:
    assert _kinds(rotator) == []
    assert remote.asked == []
    clock.now += 20 * DAY
    old = rotator.tls
    assert [_kinds(rotator) for _ in range(3)] == [[], [], []]
    assert remote.asked == [old]
    fresh = ca.issue_in_memory("a", key_type=KeyType.P256, days=60)
    remote.answer = lambda: fresh
    assert _kinds(rotator) == [CHANGED]
    assert rotator.tls == fresh
    assert _kinds(rotator) == []


def test_a_failure_is_tried_again_with_backoff(
    rotator: IdentityRotator, clock: ManualClock, remote: Remote
) -> None:
    clock.now += 20 * DAY
    for count in (1, 2, 3):
        assert _kinds(rotator) == []
        assert len(remote.asked) == count
        remote.answer = _raise(EnrolmentError({"ca-1@10.0.0.1:1": "it did not answer"}))
        assert _kinds(rotator) == [FAILED]
        assert _kinds(rotator) == []
        assert len(remote.asked) == count
        clock.now += 3600


def test_another_process_that_renews_the_identity_is_no_failure(
    rotator: IdentityRotator, clock: ManualClock, remote: Remote, tmp_path: Path
) -> None:
    clock.now += 20 * DAY
    rotator.poll()
    remote.answer = _raise(LockTimeoutError(tmp_path, 0))
    assert _kinds(rotator) == []
    clock.now += 10
    rotator.poll()
    assert len(remote.asked) == 2


def test_an_identity_that_can_do_less_is_refused(
    ca: CertificateAuthority, rotator: IdentityRotator, clock: ManualClock, remote: Remote
) -> None:
    clock.now += 20 * DAY
    rotator.poll()
    old = rotator.tls
    remote.answer = lambda: ca.issue_in_memory("a", key_type=KeyType.P256, client_only=True)
    assert _kinds(rotator) == [FAILED]
    assert rotator.tls is old


def test_an_expired_certificate_is_not_sent_to_an_issuer(
    rotator: IdentityRotator, clock: ManualClock, remote: Remote
) -> None:
    clock.now += 31 * DAY
    (event,) = rotator.poll()
    assert event.kind is FAILED
    assert "new token" in event.reason
    assert remote.asked == []


def test_what_prevents_renewal_is_said_once_at_the_start_and_when_it_is_due(
    rotator: IdentityRotator,
    clock: ManualClock,
    remote: Remote,
    caplog: pytest.LogCaptureFixture,
) -> None:
    remote.reason, remote.is_possible = "it may not call", False
    rotator.poll()
    assert caplog.messages == []  # no issuer is known, so nobody expects a renewal
    remote.is_possible = True
    for _ in range(3):
        assert rotator.poll() == []
    (line,) = caplog.messages
    assert "a will not renew its certificate" in line
    assert line.endswith("at an issuer: it may not call")
    clock.now += 20 * DAY
    (event,) = rotator.poll()
    assert (event.kind, event.reason) == (FAILED, "it may not call")
    assert remote.asked == []


def test_a_server_only_identity_and_workers_without_a_directory_say_why(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    serving = ca.issue_in_memory("a", key_type=KeyType.P256, server_only=True)
    tls = ca.issue_in_memory("a", key_type=KeyType.P256)
    fixed, there = IdentitySource.fixed(tls), IdentitySource.directory("a", tmp_path)
    issuers = [IssuerAddress("ca-1", "192.0.2.1:1")]
    assert "to ask an issuer is a call" in MeshRenewal(fixed, lambda: issuers).obstacle(serving)
    assert "a directory" in MeshRenewal(fixed, lambda: issuers, is_shared=True).obstacle(tls)
    assert MeshRenewal(fixed, lambda: issuers).obstacle(tls) == ""
    assert MeshRenewal(there, lambda: issuers, is_shared=True).obstacle(tls) == ""
    with pytest.raises(EnrolmentError, match="to ask an issuer is a call"):
        MeshRenewal(fixed, lambda: issuers).renew(serving)


def test_without_issuers_the_reason_says_what_to_do(
    rotator: IdentityRotator, clock: ManualClock, remote: Remote
) -> None:
    remote.is_possible = False
    clock.now += 20 * DAY
    (event,) = rotator.poll()
    assert "--issuer" in event.reason
    remote.is_possible = True
    clock.now += 3600
    rotator.poll()
    assert len(remote.asked) == 1


def test_the_key_of_a_request_is_the_same_until_the_answer_is_used(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    ca.issue("a", key_type=KeyType.P256)
    there = tmp_path / "there"
    there.mkdir(mode=0o700)
    for name in ("ca-cert.pem", "a-cert.pem", "a-key.pem"):
        (there / name).write_bytes((ca.directory / name).read_bytes())
    for source in (
        IdentitySource.directory("a", there, create_ca=False),
        IdentitySource.fixed(ca.issue_in_memory("a", key_type=KeyType.P256)),
    ):
        tls = source.load()
        keys = set()
        for _ in range(2):
            with source.requesting(tls) as request:
                keys.add(request.request.key_pem)
        assert len(keys) == 1
        with source.requesting(tls) as request:
            granted = ca.renew_for(request.csr, tls.certificate, issuer_id="ca-1")
            fresh = request.install(request.verify(granted.chain))
        with source.requesting(fresh) as request:
            assert request.request.key_pem not in keys


def test_one_process_at_a_time_asks_for_a_directory(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    ca.issue("a", key_type=KeyType.P256)
    first, second = (IdentitySource.directory("a", ca.directory) for _ in range(2))
    old = first.load()
    with first.requesting(old) as request:
        with pytest.raises(LockTimeoutError), second.requesting(second.load()):
            pass
        granted = ca.renew_for(request.csr, old.certificate, issuer_id="ca-1")
        request.install(request.verify(granted.chain))
    # It has just been renewed, and nobody may renew the old certificate with another key.
    with pytest.raises(CertsError), second.requesting(old):
        pass
    assert second.poll() is not None
