"""A machine that enrols keeps its key until the answer is installed, and its roots for ever."""

from __future__ import annotations

import datetime as dt
import shutil
import stat
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    CertsError,
    EnrolmentRequest,
    IdentityError,
    InvalidPemError,
    KeyMismatchError,
    KeyType,
    Token,
    TrustBundle,
    UntrustedError,
    install_identity,
    load_or_generate_tls,
    new_enrolment_key_and_csr,
    request_certificate,
)
from aegis_certs._x509.keys import describe_key
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

P256 = KeyType.P256
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def ask(ca: CertificateAuthority, token: Token, request: EnrolmentRequest) -> tuple[bytes, ...]:
    return ca.enroll(request.csr, token.certificate, issuer_id="ca-1").chain


def enrolled(ca: CertificateAuthority, directory: Path, node_id: str = "orders-1") -> Token:
    token = ca.create_token(node_id)
    request = new_enrolment_key_and_csr(node_id, directory, key_type=P256)
    chain = ask(ca, token, request)
    install_identity(directory, node_id, request.key_pem, chain, token.bundle)
    return token


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_new_directory_gets_key_chain_and_bundle_for_its_owner_alone(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    away = tmp_path / "deep" / "away"
    enrolled(ca, away)
    assert mode(away) == 0o700
    assert mode(away / "orders-1-key.pem") == 0o600
    names = {path.name for path in away.iterdir() if not path.name.startswith(".")}
    assert names == {"orders-1-cert.pem", "orders-1-key.pem", "ca-cert.pem"}
    tls = load_or_generate_tls("orders-1", away)
    assert tls.bundle.verify(tls.chain, "server").node_id == "orders-1"


def test_a_lost_answer_is_asked_for_with_the_same_key(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    token, away = ca.create_token("orders-1"), tmp_path / "away"
    first = new_enrolment_key_and_csr("orders-1", away, key_type=P256)
    lost = ask(ca, token, first)
    second = new_enrolment_key_and_csr("orders-1", away, key_type=KeyType.RSA_2048)
    assert second.key_pem == first.key_pem
    assert ask(ca, token, second) == lost
    assert mode(away / "orders-1_csr-key.pem") == 0o600
    install_identity(away, "orders-1", second.key_pem, lost, token.bundle)
    assert new_enrolment_key_and_csr("orders-1", away, key_type=P256).key_pem != first.key_pem


def test_a_key_that_is_installed_already_is_not_used_again(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    enrolled(ca, away)
    shutil.copy(away / "orders-1-key.pem", away / "orders-1_csr-key.pem")  # as after a crash
    request = new_enrolment_key_and_csr("orders-1", away, key_type=P256)
    assert request.key_pem != (away / "orders-1-key.pem").read_bytes()
    tls = load_or_generate_tls("orders-1", away)
    chain = ca.renew_for(request.csr, tls.certificate, issuer_id="ca-1").chain
    new = install_identity(away, "orders-1", request.key_pem, chain)
    assert new.certificate != tls.certificate
    assert load_or_generate_tls("orders-1", away) == new


def test_a_damaged_key_of_a_request_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "orders-1_csr-key.pem").write_bytes(b"-----BEGIN")
    request = new_enrolment_key_and_csr("orders-1", tmp_path, key_type=P256)
    assert (tmp_path / "orders-1_csr-key.pem").read_bytes() == request.key_pem


def test_a_request_by_hand_and_an_enrolment_share_one_key(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    request_certificate("orders-1", tmp_path / "away", key_type=P256)
    enrolled(ca, tmp_path / "away")
    assert not list((tmp_path / "away").glob("*csr*"))


@pytest.mark.parametrize("key_type", [KeyType.RSA_2048, KeyType.P256, KeyType.P384])
def test_a_key_in_memory_is_of_the_asked_type_and_its_request_names_the_node(
    key_type: KeyType,
) -> None:
    request = new_enrolment_key_and_csr("orders-1", key_type=key_type)
    key = load_pem_private_key(request.key_pem, None)
    assert describe_key(key) == key_type
    csr = x509.load_der_x509_csr(request.csr)
    assert csr.is_signature_valid
    assert csr.public_key() == key.public_key()
    assert csr.subject.rfc4514_string() == "CN=orders-1"
    assert "PRIVATE" not in repr(request)


def test_a_bad_answer_changes_nothing(ca: CertificateAuthority, tmp_path: Path) -> None:
    away, token = tmp_path / "away", ca.create_token("orders-1")
    request = new_enrolment_key_and_csr("orders-1", away, key_type=P256)
    good = ask(ca, token, request)
    other = new_enrolment_key_and_csr("orders-1", key_type=P256)
    theirs = CertificateAuthority.create(tmp_path / "theirs", key_type=P256)
    forged = ask(theirs, theirs.create_token("orders-1"), request)
    wrong = ask(ca, ca.create_token("billing-1"), request)
    before = contents(away)
    for chain, bundle, error in [
        (ask(ca, ca.create_token("orders-1"), other), token.bundle, KeyMismatchError),
        (forged, token.bundle, UntrustedError),
        (wrong, token.bundle, IdentityError),
        ([b"junk"], token.bundle, InvalidPemError),
        ([good[0][:-9]], token.bundle, CertsError),
        ([], token.bundle, UntrustedError),
        (good * 17, token.bundle, UntrustedError),
        (good, None, UntrustedError),
        (good, theirs.bundle, UntrustedError),
    ]:
        with pytest.raises(error):
            install_identity(away, "orders-1", request.key_pem, chain, bundle)
        assert contents(away) == before
    assert install_identity(away, "orders-1", request.key_pem, good, token.bundle)


def test_a_bundle_that_verifies_the_answer_is_kept(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    enrolled(ca, away)
    held = (away / "ca-cert.pem").read_bytes()
    ca.prepare_rotation()
    assert len(ca.bundle.certificates) == 2
    enrolled(ca, away)
    assert (away / "ca-cert.pem").read_bytes() == held


def test_a_bundle_grows_and_never_loses_a_root_that_is_valid(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    enrolled(ca, away)
    before = contents(away)
    theirs = CertificateAuthority.create(tmp_path / "theirs", key_type=P256)
    with pytest.raises(UntrustedError):
        enrolled(theirs, away)
    pending = "orders-1_csr-key.pem"
    assert contents(away) == before | {pending: (away / pending).read_bytes()}
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    enrolled(ca, away)
    held = TrustBundle.from_pem((away / "ca-cert.pem").read_bytes())
    assert set(held.certificates) == set(ca.bundle.certificates)
    assert len(held.certificates) == 2


def test_a_bundle_whose_roots_have_all_expired_is_replaced(tmp_path: Path) -> None:
    long_ago, away = NOW - 400 * DAY, tmp_path / "away"
    old = CertificateAuthority.create(tmp_path / "old", key_type=P256, at=long_ago)
    away.mkdir(mode=0o700)
    (away / "ca-cert.pem").write_bytes(old.bundle.pem)
    new = CertificateAuthority.create(tmp_path / "new", key_type=P256)
    enrolled(new, away)
    assert (away / "ca-cert.pem").read_bytes() == new.bundle.pem


def test_the_bundle_of_a_ca_is_never_replaced(ca: CertificateAuthority, tmp_path: Path) -> None:
    theirs = CertificateAuthority.create(tmp_path / "theirs", key_type=P256)
    before = (ca.directory / "ca-cert.pem").read_bytes()
    both = TrustBundle((*theirs.bundle.certificates, *ca.bundle.certificates))
    request = new_enrolment_key_and_csr("orders-1", ca.directory, key_type=P256)
    chain = ask(theirs, theirs.create_token("orders-1"), request)
    with pytest.raises(UntrustedError):
        install_identity(ca.directory, "orders-1", request.key_pem, chain, both)
    assert (ca.directory / "ca-cert.pem").read_bytes() == before
    enrolled(ca, ca.directory)
    assert (ca.directory / "ca-cert.pem").read_bytes() == before
