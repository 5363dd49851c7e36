"""The signer of documents: made by a root, for documents alone."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    DocumentSigner,
    ExpiredError,
    IdentityError,
    KeyType,
    NotFoundError,
    TrustBundle,
    UntrustedError,
    identity_of,
    is_authority,
    verify_authority,
)
from aegis_certs._ca.builder import Issuer, build_authority
from aegis_certs._x509.validity import validity
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = dt.timedelta(days=1)


@dataclass
class CA:
    directory: Path

    def create(self, **options: object) -> CertificateAuthority:
        return CertificateAuthority.create(
            self.directory,
            key_type=KeyType.P256,
            at=NOW,
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture
def ca(tmp_path: Path) -> CertificateAuthority:
    return CA(tmp_path / "certs").create()


def verify(ca: CertificateAuthority, signer: DocumentSigner, at: dt.datetime) -> x509.Certificate:
    return verify_authority(signer.certificate, ca.bundle, ca.trust_domain, at=at)


def test_a_signer_is_below_the_root_and_signs_documents_only(ca: CertificateAuthority) -> None:
    signer = ca.document_signer(at=NOW)
    names = signer.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    usage = signer.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert [name.value for name in names.value] == ["spiffe://aegis.internal/authority"]
    assert usage.critical
    assert [one.dotted_string for one in usage.value] == ["1.3.6.1.5.5.7.3.36"]
    assert signer.certificate.not_valid_after_utc == NOW + 7 * DAY
    assert verify(ca, signer, NOW) == ca.certificate
    assert "PRIVATE" not in repr(signer)


def test_a_signer_is_no_member_and_a_member_is_no_signer(ca: CertificateAuthority) -> None:
    signer, member = ca.document_signer(at=NOW), ca.issue("authority", key_type=KeyType.P256)
    assert is_authority(signer.certificate)
    assert not is_authority(member.certificate)
    with pytest.raises(IdentityError):
        identity_of(signer.certificate)
    for usage in ("server", "client", None):
        with pytest.raises((IdentityError, UntrustedError)):
            ca.bundle.verify([signer.certificate], usage, at=NOW)
    with pytest.raises(UntrustedError):
        verify_authority(member.certificate, ca.bundle, ca.trust_domain, at=NOW)


def test_its_key_is_private_and_it_is_recorded(ca: CertificateAuthority) -> None:
    signer = ca.document_signer(at=NOW)
    key = ca.directory / "ca_documents-key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    log = (ca.directory / "audit.jsonl").read_text()
    assert f"{signer.certificate.serial_number:x}" in log


def test_a_signer_is_used_for_two_thirds_of_its_life(ca: CertificateAuthority) -> None:
    first = ca.document_signer(at=NOW)
    again = CertificateAuthority.load(ca.directory)
    assert again.document_signer(at=NOW + 4 * DAY).certificate == first.certificate
    second = again.document_signer(at=NOW + 5 * DAY)
    assert second.certificate != first.certificate
    assert second.not_after == NOW + 12 * DAY


def test_a_lost_or_revoked_signer_is_replaced(ca: CertificateAuthority) -> None:
    first = ca.document_signer(at=NOW)
    (ca.directory / "ca_documents-key.pem").unlink()
    (ca.directory / "ca_documents-cert.pem").unlink()
    second = ca.document_signer(at=NOW)
    assert second.certificate != first.certificate
    ca.revoke(f"{second.certificate.serial_number:x}", at=NOW)
    assert ca.document_signer(at=NOW).certificate != second.certificate


def test_the_signer_of_an_intermediate_ca_is_below_its_root_and_lives_as_long(
    tmp_path: Path,
) -> None:
    ca = CA(tmp_path / "certs").create(intermediate=True, days=90, passphrase="a secret")
    (tmp_path / "certs-root").rename(tmp_path / "elsewhere")
    signer = ca.document_signer(at=NOW + 60 * DAY)
    root = verify(ca, signer, NOW)
    assert root == ca.bundle.certificates[1]
    assert signer.not_after == NOW + 90 * DAY
    assert b"ENCRYPTED" in (ca.directory / "ca_documents-key.pem").read_bytes()
    listed = CertificateAuthority.load(tmp_path / "elsewhere", passphrase="a secret").directory
    assert f"{signer.certificate.serial_number:x}" in (listed / "issued.json").read_text()


def test_an_intermediate_ca_alone_makes_no_signer(tmp_path: Path) -> None:
    ca = CA(tmp_path / "certs").create(intermediate=True)
    (ca.directory / "ca_documents-key.pem").unlink()
    (ca.directory / "ca_documents-cert.pem").unlink()
    with pytest.raises(NotFoundError, match="rotate-ca prepare --root-dir"):
        ca.document_signer(at=NOW)
    # Nor does anybody believe one that it makes by force.
    session = ca._session
    span = validity(NOW, 7)
    key = ca.issue("a", key_type=KeyType.P256).key
    forged = build_authority(ca.trust_domain, key.public_key(), span, session.issuer)
    with pytest.raises(UntrustedError, match="directly"):
        verify_authority(forged, ca.bundle, ca.trust_domain, at=NOW)


def test_the_old_root_signs_until_it_is_retired(ca: CertificateAuthority) -> None:
    old = ca.certificate
    before = ca.document_signer(at=NOW)
    ca.prepare_rotation(at=NOW)
    ca.activate_rotation(confirm=True, at=NOW)
    assert ca.document_signer(at=NOW).certificate == before.certificate
    assert verify(ca, ca.document_signer(at=NOW + 6 * DAY), NOW + 6 * DAY) == old
    ca.retire_rotation(at=NOW)
    assert verify(ca, ca.document_signer(at=NOW + 6 * DAY), NOW + 6 * DAY) == ca.certificate


def test_the_new_root_signs_when_the_old_one_ends_before_it_is_retired(
    ca: CertificateAuthority,
) -> None:
    later = NOW + 300 * DAY
    ca.prepare_rotation(at=later)
    ca.activate_rotation(confirm=True, at=later)
    at = NOW + 355 * DAY
    assert verify(ca, ca.document_signer(at=at), at) == ca.certificate


def test_the_next_intermediate_ca_brings_its_own_signer(tmp_path: Path) -> None:
    ca = CA(tmp_path / "certs").create(intermediate=True, days=90)
    first = ca.document_signer(at=NOW)
    ca.prepare_rotation(root_directory=tmp_path / "new-root", at=NOW)
    assert ca.document_signer(at=NOW).certificate == first.certificate
    ca.activate_rotation(confirm=True, at=NOW)
    assert ca.document_signer(at=NOW).certificate == first.certificate
    ca.retire_rotation(at=NOW)
    second = ca.document_signer(at=NOW)
    assert second.certificate != first.certificate
    assert verify(ca, second, NOW) in ca.bundle.certificates


def test_signers_of_others_are_refused(ca: CertificateAuthority, tmp_path: Path) -> None:
    signer = ca.document_signer(at=NOW)
    other = CA(tmp_path / "other").create()
    foreign = CA(tmp_path / "foreign").create(trust_domain="other.example")
    with pytest.raises(UntrustedError, match="no root"):
        verify(ca, other.document_signer(at=NOW), NOW)
    with pytest.raises(UntrustedError):
        verify(ca, foreign.document_signer(at=NOW), NOW)
    # A root that signs for another domain cannot name ours.
    both = TrustBundle([*ca.bundle.certificates, *foreign.bundle.certificates])
    issuer: Issuer = foreign._session.issuer
    key = signer.certificate.public_key()
    assert not isinstance(key, bytes)
    forged = build_authority(ca.trust_domain, key, validity(NOW, 7), issuer)  # type: ignore[arg-type]
    with pytest.raises(UntrustedError, match=r"no root of aegis\.internal"):
        verify_authority(forged, both, ca.trust_domain, at=NOW)
    with pytest.raises(ExpiredError):
        verify(ca, signer, NOW + 8 * DAY)


def test_the_usages_of_a_member_make_no_signer(ca: CertificateAuthority) -> None:
    member = ca.issue("a", key_type=KeyType.P256)
    usages = member.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {*usages} == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not is_authority(ca.certificate)
