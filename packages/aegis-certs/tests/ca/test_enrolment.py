"""A machine enrols with a token, and its certificate is renewed, by whoever has the right key."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    EnrolledIdentity,
    EnrolmentRefusedError,
    IdentityError,
    IssuerAddress,
    KeyType,
    NotFoundError,
    Token,
    TokenState,
    TrustBundle,
    enrolment_id_of,
    identity_of,
    list_certificates,
    write_issuer_address,
)
from aegis_certs._ca.inventory import Inventory
from aegis_certs._store.directory import Store
from aegis_certs._x509.identity import alternative_names
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = dt.datetime.now(dt.UTC)
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key: Any, name: str = "", *extensions: x509.ExtensionType) -> bytes:
    """A request in DER for a key, with whatever it may ask for."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def leaf_of(identity: EnrolledIdentity) -> x509.Certificate:
    return x509.load_der_x509_certificate(identity.chain[0])


def enroll(ca: CertificateAuthority, token: Token, key: Any, **options: Any) -> x509.Certificate:
    given = ca.enroll(csr_of(key), token.certificate, issuer_id="ca-1", **options)
    return leaf_of(given)


def renew(ca: CertificateAuthority, leaf: x509.Certificate, key: Any, **options: Any) -> Any:
    return leaf_of(ca.renew_for(csr_of(key), leaf, issuer_id="ca-1", **options))


def test_a_token_gives_one_certificate_with_what_the_inventory_grants(
    ca: CertificateAuthority,
) -> None:
    token = ca.create_token("orders-1", hosts=["orders.example"], days=7, at=NOW)
    key = new_key()
    given = ca.enroll(csr_of(key), token.certificate, issuer_id="ca-1", at=NOW)
    leaf = leaf_of(given)
    assert ca.bundle.verify([leaf], "server", at=NOW).node_id == "orders-1"
    assert ca.bundle.verify([leaf], "client", at=NOW).trust_domain == "aegis.internal"
    assert alternative_names(leaf).dns == ("orders-1", "orders.example")
    assert leaf.public_key() == key.public_key()
    assert abs(leaf.not_valid_after_utc - (NOW + 7 * DAY)) < MINUTE
    assert given.bundle.certificates == ca.bundle.certificates


def test_the_text_of_a_token_has_all_that_a_machine_needs(ca: CertificateAuthority) -> None:
    write_issuer_address(ca.directory, "ca-1", "10.0.0.1:50051")
    write_issuer_address(ca.directory, "ca-2", "[fd00::2]:50051")
    first = IssuerAddress("ca-9", "ca.example:443")
    token = ca.create_token("orders-1", issuers=[first], at=NOW)
    text = str(token)
    assert text.startswith("aegis1.")
    assert len(text) < 4096
    read = Token.parse(f"  {text}\n".encode())
    assert (read.node_id, read.trust_domain) == ("orders-1", "aegis.internal")
    assert read.issuers == (
        first,
        IssuerAddress("ca-2", "[fd00::2]:50051"),
        IssuerAddress("ca-1", "10.0.0.1:50051"),
    )
    assert read.certificate == token.certificate
    assert read.key_pem == token.key_pem
    assert read.bundle.certificates == ca.bundle.certificates
    assert abs(read.not_after - (NOW + 15 * MINUTE)) < MINUTE
    tls = read.tls()
    assert tls.chain == (token.certificate,)
    assert tls.key.public_key() == token.certificate.public_key()
    for shown in (repr(read), repr(tls), repr(token)):
        assert "PRIVATE" not in shown
        assert len(shown) < 100


def test_a_bootstrap_certificate_is_no_member(ca: CertificateAuthority) -> None:
    token = ca.create_token("orders-1")
    assert enrolment_id_of(token.certificate) == "orders-1"
    assert alternative_names(token.certificate).uris == ("spiffe://aegis.internal/enroll/orders-1",)
    with pytest.raises(IdentityError):
        identity_of(token.certificate)
    with pytest.raises(IdentityError):
        ca.bundle.verify(token.chain, "client")
    with pytest.raises(IdentityError):
        _ = token.tls().identity
    assert enrolment_id_of(ca.certificate) is None
    assert enrolment_id_of(ca.issue("node-1", key_type=KeyType.P256).certificate) is None


def test_the_same_key_gets_the_same_certificate_until_the_token_ends(
    ca: CertificateAuthority,
) -> None:
    token, key = ca.create_token("orders-1", at=NOW), new_key()
    leaf = enroll(ca, token, key, at=NOW)
    again = CertificateAuthority.load(ca.directory)
    assert enroll(again, token, key, at=NOW + 14 * MINUTE) == leaf
    assert len(Inventory.load(Store(ca.directory)).of_node("orders-1")) == 1
    with pytest.raises(EnrolmentRefusedError, match="ended at"):
        enroll(again, token, key, at=NOW + 16 * MINUTE)


def test_another_key_cannot_use_a_token_again(ca: CertificateAuthority) -> None:
    token = ca.create_token("orders-1")
    enroll(ca, token, new_key())
    with pytest.raises(EnrolmentRefusedError, match="thief") as refused:
        enroll(ca, Token.parse(str(token)), new_key())
    assert refused.value.is_theft
    assert refused.value.node_id == "orders-1"


def test_a_cancelled_token_is_refused(ca: CertificateAuthority) -> None:
    token, other = ca.create_token("orders-1"), ca.create_token("orders-2")
    assert [one.state for one in ca.cancel_token("orders-1")] == [TokenState.CANCELLED]
    with pytest.raises(EnrolmentRefusedError, match="cancelled"):
        enroll(ca, token, new_key())
    ca.cancel_token(other.serial)
    assert [one.state for one in ca.tokens()] == [TokenState.CANCELLED] * 2
    with pytest.raises(NotFoundError, match="token --list"):
        ca.cancel_token("orders-1")
    used = ca.create_token("orders-3")
    enroll(ca, used, new_key())
    with pytest.raises(NotFoundError, match="it is used"):
        ca.cancel_token("orders-3")


def test_a_renewal_keeps_what_was_granted_and_takes_only_the_key(
    ca: CertificateAuthority,
) -> None:
    token = ca.create_token("orders-1", hosts=["orders.example"], days=7, client_only=True, at=NOW)
    first = enroll(ca, token, new_key(), at=NOW)
    asked = x509.SubjectAlternativeName([x509.DNSName("billing-1")])
    later = NOW + 5 * DAY
    given = ca.renew_for(csr_of(new_key(), "billing-1", asked), first, issuer_id="ca-2", at=later)
    second = leaf_of(given)
    assert alternative_names(second) == alternative_names(first)
    assert abs(second.not_valid_after_utc - (later + 7 * DAY)) < MINUTE
    usages = second.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    entry = Inventory.load(Store(ca.directory)).latest()["orders-1"]
    assert entry.through == "ca-2"
    assert entry.enrolled is not None
    assert (entry.enrolled.token, entry.enrolled.through) == (token.serial, "ca-1")


def test_a_certificate_is_renewed_by_one_key_only(ca: CertificateAuthority) -> None:
    leaf, key = enroll(ca, ca.create_token("orders-1"), new_key()), new_key()
    second = renew(ca, leaf, key)
    assert renew(CertificateAuthority.load(ca.directory), leaf, key) == second
    with pytest.raises(EnrolmentRefusedError, match="thief") as refused:
        renew(ca, leaf, new_key())
    assert refused.value.is_theft
    third = renew(ca, second, new_key())
    assert identity_of(third).node_id == "orders-1"


def test_what_was_granted_while_the_clock_was_ahead_is_granted_anew_to_the_same_key(
    ca: CertificateAuthority,
) -> None:
    first, key = (
        enroll(ca, ca.create_token("orders-1", days=7, at=NOW), new_key(), at=NOW),
        new_key(),
    )
    ahead = renew(ca, first, key, at=NOW + 5 * DAY)
    usable = renew(ca, first, key, at=NOW + DAY)
    assert usable.not_valid_before_utc <= NOW + DAY < ahead.not_valid_before_utc
    assert renew(ca, first, key, at=NOW + DAY) == usable
    with pytest.raises(EnrolmentRefusedError, match="thief"):
        renew(ca, first, new_key(), at=NOW + DAY)


def test_a_renewal_is_refused_without_a_good_certificate(
    ca: CertificateAuthority, tmp_path: Path, go_node: Callable[..., Any]
) -> None:
    old_key = new_key()
    leaf = enroll(ca, ca.create_token("orders-1", days=1, at=NOW), old_key, at=NOW)
    with pytest.raises(EnrolmentRefusedError, match="key of its certificate"):
        renew(ca, leaf, old_key, at=NOW)
    with pytest.raises(EnrolmentRefusedError, match="expired"):
        renew(ca, leaf, new_key(), at=NOW + 2 * DAY)
    foreign = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    with pytest.raises(EnrolmentRefusedError, match="not trusted"):
        renew(ca, foreign.issue("orders-1", key_type=KeyType.P256).certificate, new_key())
    with pytest.raises(EnrolmentRefusedError):
        renew(ca, ca.create_token("orders-1").certificate, new_key())
    ca.revoke("orders-1")
    with pytest.raises(EnrolmentRefusedError, match="revoked"):
        renew(ca, leaf, new_key(), at=NOW)


def test_a_token_of_another_directory_is_refused(ca: CertificateAuthority, tmp_path: Path) -> None:
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    with pytest.raises(EnrolmentRefusedError, match="no token"):
        enroll(ca, other.create_token("orders-1"), new_key())
    member = ca.issue("node-1", key_type=KeyType.P256).certificate
    with pytest.raises(EnrolmentRefusedError, match="not that of a token"):
        ca.enroll(csr_of(new_key()), member, issuer_id="ca-1")


def test_tokens_and_answers_survive_the_loss_of_the_inventory(ca: CertificateAuthority) -> None:
    used, unused = ca.create_token("orders-1"), ca.create_token("orders-2")
    key, second = new_key(), new_key()
    leaf = enroll(ca, used, key)
    renew(ca, leaf, second)
    (ca.directory / "issued.json").unlink()
    again = CertificateAuthority.load(ca.directory)
    assert [one.state for one in again.tokens()] == [TokenState.USED, TokenState.UNUSED]
    for refused in (lambda: enroll(again, used, new_key()), lambda: renew(again, leaf, new_key())):
        with pytest.raises(EnrolmentRefusedError, match="thief"):
            refused()
    assert enroll(again, used, key).public_key() == key.public_key()
    assert renew(again, leaf, second).public_key() == second.public_key()
    assert identity_of(enroll(again, unused, new_key())).node_id == "orders-2"


def test_the_bundle_of_an_intermediate_travels_in_the_token(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256, intermediate=True)
    token = Token.parse(str(ca.create_token("orders-1")))
    assert token.chain == (token.certificate, ca.certificate)
    given = ca.enroll(csr_of(new_key()), token.certificate, issuer_id="ca-1")
    chain = [x509.load_der_x509_certificate(der) for der in given.chain]
    assert chain[1] == ca.certificate
    root = TrustBundle([ca.bundle.certificates[-1]])
    assert root.verify(chain, "server").node_id == "orders-1"
    assert [one.id for one in list_certificates(ca.directory) if one.id == "orders-1"]
