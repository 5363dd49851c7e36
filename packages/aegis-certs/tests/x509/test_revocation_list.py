"""Revocation lists, as we read them and as other verifiers read them."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    CertsError,
    InvalidPemError,
    InvalidRequestError,
    KeyType,
    NotFoundError,
    RevocationList,
    RevocationListError,
    RevocationReason,
    RevokedError,
    TLSConfig,
    UntrustedError,
)
from aegis_certs._x509.pem import parse_crls
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

P256 = KeyType.P256
DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
KEY_TYPES = [KeyType.RSA_2048, P256, KeyType.P384]


def crl_of(ca: CertificateAuthority) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((ca.directory / "crl.pem").read_bytes())


def read(ca: CertificateAuthority, at: dt.datetime | None = None) -> RevocationList:
    return RevocationList.from_pem((ca.directory / "crl.pem").read_bytes(), ca.bundle, at=at)


def openssl(ca: CertificateAuthority, tls: TLSConfig, *more: str) -> str:
    files = {"leaf.pem": tls.certificate_chain, "root.pem": ca.bundle.pem}
    for name, data in files.items():
        (ca.directory / name).write_bytes(data)
    done = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-crl_check", *more, "-CAfile", "root.pem"),
            *("-untrusted", "leaf.pem", "-CRLfile", "crl.pem", "leaf.pem"),
        ],
        cwd=ca.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("key_type", KEY_TYPES)
@pytest.mark.parametrize("intermediate", [False, True], ids=["root", "intermediate"])
def test_openssl_and_cryptography_accept_our_lists(
    directory: Path, key_type: KeyType, intermediate: bool
) -> None:
    ca = CertificateAuthority.create(directory, key_type=key_type, intermediate=intermediate)
    good, bad = ca.issue("good", key_type=P256), ca.issue("bad", key_type=P256)
    ca.revoke("bad", RevocationReason.KEY_COMPROMISE)
    assert "leaf.pem: OK" in openssl(ca, good)
    assert "certificate revoked" in openssl(ca, bad)
    assert crl_of(ca).is_signature_valid(ca.certificate.public_key())  # type: ignore[arg-type]  # RSA or EC
    assert "leaf.pem: OK" in openssl(ca, good, "-crl_check_all")
    if intermediate:
        root = CertificateAuthority.load(f"{directory}-root")
        root.revoke(ca.name, RevocationReason.CA_COMPROMISE)
        (directory / "crl.pem").write_bytes(
            (directory / "crl.pem").read_bytes() + (root.directory / "crl.pem").read_bytes()
        )
        assert read(ca).is_revoked(good.certificate, good.chain[1:])


def test_the_list_of_an_offline_root_is_valid_as_long_as_the_ca_below_it(directory: Path) -> None:
    ca = CertificateAuthority.create(directory, key_type=P256, intermediate=True, days=400)
    assert read(ca).next_update == ca.certificate.not_valid_after_utc
    ca.issue("node-1", key_type=P256)
    ca.revoke("node-1", at=NOW)
    lists = x509_crls(directory)
    assert sorted(crl.next_update_utc for crl in lists if crl.next_update_utc) == [
        NOW + 30 * DAY,
        ca.certificate.not_valid_after_utc,
    ]


def test_the_next_issuing_ca_copies_the_newest_list_of_its_root(directory: Path) -> None:
    ca = CertificateAuthority.create(directory, key_type=P256, intermediate=True)
    ca.issue("node-1", key_type=P256)
    ca.revoke("node-1")
    ca.prepare_rotation(root_directory=f"{directory}-root", days=500)
    ends = [crl.next_update_utc for crl in x509_crls(directory)]
    assert len(ends) == 2
    assert max(end for end in ends if end) > NOW + 499 * DAY
    assert len(read(ca)) == 1


def x509_crls(directory: Path) -> tuple[x509.CertificateRevocationList, ...]:
    return parse_crls((directory / "crl.pem").read_bytes())


def retired(ca: CertificateAuthority) -> str:
    """The serial number of a certificate whose CA was replaced later."""
    old = ca.issue("node-1", key_type=P256)
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    ca.renew("node-1")
    ca.retire_rotation()
    return f"{old.certificate.serial_number:x}"


def test_a_certificate_of_a_retired_ca_cannot_be_revoked(ca: CertificateAuthority) -> None:
    serial = retired(ca)
    before = (ca.directory / "audit.jsonl").read_bytes()
    with pytest.raises(UntrustedError, match="nothing to revoke"):
        ca.revoke(serial)
    assert (ca.directory / "audit.jsonl").read_bytes() == before
    assert not (ca.directory / "crl.pem").exists()
    assert serial not in {revocation.serial for revocation in ca.revoke("node-1")}


def test_an_expired_certificate_cannot_be_revoked(ca: CertificateAuthority) -> None:
    tls = ca.issue("node-1", key_type=P256, days=10, at=NOW)
    ca.write_revocations(at=NOW + 11 * DAY)
    for what in ("node-1", f"{tls.certificate.serial_number:x}"):
        with pytest.raises(NotFoundError, match="has not expired"):
            ca.revoke(what, at=NOW + 11 * DAY)


def test_a_certificate_of_a_ca_whose_key_is_elsewhere_must_be_revoked_there(
    ca: CertificateAuthority,
) -> None:
    ca.issue("node-1", key_type=P256)
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    (ca.directory / "ca_old-key.pem").rename(ca.directory / "away.pem")
    (ca.directory / "ca_old-cert.pem").unlink()
    with pytest.raises(NotFoundError, match="where that key is"):
        ca.revoke("node-1")


def test_the_extensions_of_a_list_are_those_of_rfc_5280(ca: CertificateAuthority) -> None:
    for node_id, reason in (("a", "unspecified"), ("b", "superseded")):
        ca.issue(node_id, key_type=P256)
        ca.revoke(node_id, RevocationReason(reason), at=NOW)
    crl = crl_of(ca)
    assert (crl.last_update_utc, crl.next_update_utc) == (NOW, NOW + 30 * DAY)
    assert {extension.oid._name for extension in crl.extensions} == {
        "cRLNumber",
        "authorityKeyIdentifier",
    }
    assert not any(extension.critical for extension in crl.extensions)
    named = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    own = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert named.key_identifier == own.digest
    reasons = [
        [extension.value.reason.value for extension in one.extensions]  # type: ignore[attr-defined]  # only reasons are there
        for one in crl
    ]
    assert reasons == [[], ["superseded"]]
    assert all(one.revocation_date_utc == NOW for one in crl)


def test_crl_numbers_increase_even_if_the_file_is_lost(ca: CertificateAuthority) -> None:
    numbers = []
    for lost in (False, False, True, False):
        if lost:
            (ca.directory / "crl.pem").unlink()
        numbers.append(ca.write_revocations().number)
    assert numbers == sorted(set(numbers))


def test_a_lost_or_damaged_list_loses_no_revocation(ca: CertificateAuthority) -> None:
    tls = ca.issue("node-1", key_type=P256)
    ca.revoke("node-1", RevocationReason.KEY_COMPROMISE)
    for damage in (b"junk", None):
        path = ca.directory / "crl.pem"
        path.unlink() if damage is None else path.write_bytes(damage)
        found = ca.write_revocations().is_revoked(tls.certificate)
        assert found is not None
        assert found.reason is RevocationReason.KEY_COMPROMISE


def test_an_expired_revocation_leaves_the_list_even_if_the_inventory_forgot_it(
    ca: CertificateAuthority,
) -> None:
    ca.issue("node-1", key_type=P256, days=1, at=NOW)
    ca.revoke("node-1", at=NOW)
    ca.write_revocations(at=NOW + 2 * DAY)
    ca.issue("node-1", key_type=P256, at=NOW + 40 * DAY)
    assert len(ca.write_revocations(at=NOW + 41 * DAY)) == 0


def test_an_entry_stays_until_it_was_in_a_list_after_the_end_of_its_certificate(
    ca: CertificateAuthority,
) -> None:
    tls = ca.issue("node-1", key_type=P256, days=10, at=NOW)
    ca.revoke("node-1", at=NOW)
    for day, shown in ((5, 1), (9, 1), (11, 1), (12, 0), (13, 0)):
        assert len(ca.write_revocations(at=NOW + day * DAY)) == shown, day
    assert tls.not_after < NOW + 11 * DAY


def test_a_node_id_revokes_all_its_certificates_and_a_serial_number_one(
    ca: CertificateAuthority,
) -> None:
    one, two, three = (ca.issue("node-1", key_type=P256) for _ in range(3))
    serial = f"{two.certificate.serial_number:x}"
    assert [found.serial for found in ca.revoke(serial.upper())] == [serial]
    revocations = read(ca)
    assert revocations.is_revoked(two.certificate)
    assert not revocations.is_revoked(one.certificate)
    first = revocations.is_revoked(two.certificate)
    found = ca.revoke("node-1", RevocationReason.CESSATION_OF_OPERATION)
    assert len(found) == 3
    revocations = read(ca)
    assert all(revocations.is_revoked(tls.certificate) for tls in (one, two, three))
    assert revocations.is_revoked(two.certificate) == first  # the first reason stays


@pytest.mark.parametrize("what", ["node-9", "ffff", "", "../x", "not a serial"])
def test_a_certificate_that_was_never_issued_cannot_be_revoked(
    ca: CertificateAuthority, what: str
) -> None:
    ca.issue("node-1", key_type=P256)
    with pytest.raises(NotFoundError):
        ca.revoke(what)
    assert not (ca.directory / "crl.pem").exists()


def test_a_hold_is_refused_since_it_cannot_be_ended(ca: CertificateAuthority) -> None:
    ca.issue("node-1", key_type=P256)
    with pytest.raises(InvalidRequestError):
        ca.revoke("node-1", RevocationReason.CERTIFICATE_HOLD)


def test_a_revoked_node_cannot_renew_but_can_get_a_new_certificate(
    ca: CertificateAuthority,
) -> None:
    ca.issue("node-1", key_type=P256)
    ca.revoke("node-1")
    with pytest.raises(RevokedError):
        ca.renew("node-1")
    assert ca.renew_due(at=NOW + 89 * DAY) == ()
    tls = ca.issue("node-1", key_type=P256)
    assert read(ca).is_revoked(tls.certificate) is None


def test_everything_below_a_revoked_intermediate_is_revoked(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "c", key_type=P256, intermediate=True, name="Sub")
    tls = ca.issue("node-1", key_type=P256)
    root = CertificateAuthority.load(tmp_path / "c-root")
    root.revoke("Sub", RevocationReason.CA_COMPROMISE)
    data = (root.directory / "crl.pem").read_bytes()
    for bundle in (ca.bundle, root.bundle):  # with and without the intermediate
        revocations = RevocationList.from_pem(data, bundle)
        found = revocations.is_revoked(tls.certificate, tls.chain[1:])
        assert found is not None
        assert (found.reason, found.issuer) == ("ca-compromise", "Sub Root")
    assert RevocationList.from_pem(data, ca.bundle).is_revoked(tls.certificate)


def test_our_lists_keep_those_of_other_cas_of_the_bundle(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "c", key_type=P256, intermediate=True)
    root = CertificateAuthority.load(tmp_path / "c-root")
    root.write_revocations()
    (ca.directory / "crl.pem").write_bytes((root.directory / "crl.pem").read_bytes())
    ca.issue("node-1", key_type=P256)
    ca.revoke("node-1")
    data = (ca.directory / "crl.pem").read_bytes()
    assert data.count(b"BEGIN X509 CRL") == 2


def test_a_list_past_its_next_update_is_stale_but_still_used(ca: CertificateAuthority) -> None:
    tls = ca.issue("node-1", key_type=P256, at=NOW)
    ca.revoke("node-1", at=NOW)
    revocations = read(ca, at=NOW + 31 * DAY)
    assert revocations.is_revoked(tls.certificate)
    assert not revocations.is_stale(NOW + 29 * DAY)
    assert revocations.is_stale(NOW + 31 * DAY)
    assert revocations.this_update == NOW


def test_lists_are_signed_again_when_half_of_their_life_is_over(ca: CertificateAuthority) -> None:
    ca.write_revocations(at=NOW)
    for day, update in ((14, NOW), (16, NOW + 16 * DAY)):
        ca.issue("node-1", key_type=P256, at=NOW + day * DAY)
        assert crl_of(ca).last_update_utc == update
    ca.renew_due(at=NOW + 40 * DAY)
    assert crl_of(ca).last_update_utc == NOW + 40 * DAY


def sign(ca: CertificateAuthority, **changes: object) -> bytes:
    """A list with other fields, signed by the CA."""
    key = load_pem_private_key((ca.directory / "ca-key.pem").read_bytes(), None)
    start = changes.get("start", NOW)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(changes.get("issuer", ca.certificate.subject))  # type: ignore[arg-type]  # tests may change any
        .last_update(start)  # type: ignore[arg-type]  # tests may change any
        .next_update(start + DAY)  # type: ignore[operator]  # a datetime
    )
    if "extension" in changes:
        builder = builder.add_extension(changes["extension"], critical=True)  # type: ignore[arg-type]  # tests may change any
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]  # an EC key


def test_lists_that_cannot_be_trusted_are_refused(ca: CertificateAuthority, tmp_path: Path) -> None:
    other = CertificateAuthority.create(tmp_path / "o", key_type=P256, name="Test CA")
    delta = x509.DeltaCRLIndicator(1)
    for data, says in (
        (sign(other), "not signed by this CA"),
        (sign(ca, start=NOW + DAY), "not valid before"),
        (sign(ca, extension=delta), "full and direct"),
        (sign(ca, issuer=x509.Name([])), "no CA of the trust bundle"),
    ):
        with pytest.raises(RevocationListError, match=says):
            RevocationList.from_pem(data, ca.bundle)
    with pytest.raises(InvalidPemError):
        RevocationList.from_pem(ca.bundle.pem, ca.bundle)
    assert RevocationList.from_pem(sign(ca), ca.bundle).number == 0


def test_a_list_of_a_ca_that_may_not_sign_lists_is_refused(
    make_certificate: object, ca: CertificateAuthority
) -> None:
    from aegis_certs import TrustBundle

    key = load_pem_private_key((ca.directory / "ca-key.pem").read_bytes(), None)
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    certificate = (
        x509.CertificateBuilder(
            subject_name=ca.certificate.subject,
            issuer_name=ca.certificate.subject,
            public_key=ca.certificate.public_key(),
            serial_number=1,
            not_valid_before=NOW,
            not_valid_after=NOW + DAY,
        )
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]  # an EC key
    )
    with pytest.raises(CertsError, match="not signed by this CA"):
        RevocationList.from_pem(sign(ca), TrustBundle([certificate]))


def test_a_list_of_an_untrusted_ca_is_ignored_beside_one_of_a_trusted_ca(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    other = CertificateAuthority.create(tmp_path / "o", key_type=P256, name="Other")
    assert RevocationList.from_pem(sign(other) + sign(ca), ca.bundle).number == 0


def test_the_audit_log_has_the_node_and_the_reason_of_a_revocation(
    ca: CertificateAuthority,
) -> None:
    tls = ca.issue("node-1", key_type=P256)
    ca.revoke("node-1", RevocationReason.SUPERSEDED)
    line = json.loads((ca.directory / "audit.jsonl").read_text().splitlines()[-1])
    assert (line["action"], line["id"], line["reason"]) == ("revoke", "node-1", "superseded")
    assert line["serial"] == f"{tls.certificate.serial_number:x}"
