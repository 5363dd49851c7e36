"""Whoever asks an issuer gets what was granted to its key, and nothing else."""

from __future__ import annotations

import base64
import datetime as dt
import json
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CAEndsError,
    CertificateAuthority,
    EnrolledIdentity,
    EnrolmentRefusedError,
    InvalidTokenError,
    KeyType,
    StillUsedError,
    Token,
    TokenState,
    TrustBundle,
    enrolment_id_of,
    identity_of,
)
from aegis_certs._ca.inventory import Inventory
from aegis_certs._store.directory import Store
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.pem import encode_certificates
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

P256 = KeyType.P256
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key: Any, *extensions: x509.ExtensionType, **subject: str) -> bytes:
    """A request in DER, with whatever it may ask for."""
    attributes = [
        x509.NameAttribute(getattr(NameOID, name.upper()), value) for name, value in subject.items()
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def leaf_of(identity: EnrolledIdentity) -> x509.Certificate:
    return x509.load_der_x509_certificate(identity.chain[0])


def enroll(ca: CertificateAuthority, token: Token, key: Any, **options: Any) -> x509.Certificate:
    return leaf_of(ca.enroll(csr_of(key), token.certificate, issuer_id="ca-1", **options))


def renew(
    ca: CertificateAuthority, leaf: x509.Certificate, key: Any, **options: Any
) -> x509.Certificate:
    return leaf_of(ca.renew_for(csr_of(key), leaf, issuer_id="ca-1", **options))


GREEDY = (
    x509.BasicConstraints(ca=True, path_length=5),
    x509.KeyUsage(True, True, True, True, False, True, True, False, False),
    x509.ExtendedKeyUsage(
        [
            ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
            *(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CODE_SIGNING),
        ]
    ),
    x509.SubjectAlternativeName(
        [
            x509.DNSName("billing-1"),
            x509.DNSName("*.example"),
            x509.UniformResourceIdentifier("spiffe://aegis.internal/authority"),
            x509.UniformResourceIdentifier("spiffe://aegis.internal/node/billing-1"),
        ]
    ),
)


@pytest.mark.parametrize("step", ["enrol", "renew"])
def test_a_request_that_asks_for_more_gets_no_more(ca: CertificateAuthority, step: str) -> None:
    token, key = ca.create_token("orders-1", client_only=True, days=7), new_key()
    request = csr_of(key, *GREEDY, common_name="billing-1", organization_name="Aegis")
    if step == "enrol":
        leaf = leaf_of(ca.enroll(request, token.certificate, issuer_id="ca-1"))
    else:
        first = enroll(ca, token, new_key())
        leaf = leaf_of(ca.renew_for(request, first, issuer_id="ca-1"))
    assert leaf.subject.rfc4514_string() == "CN=orders-1"
    names = alternative_names(leaf)
    assert names.dns == ("orders-1",)
    assert names.uris == ("spiffe://aegis.internal/node/orders-1",)
    find = leaf.extensions.get_extension_for_class
    assert not find(x509.BasicConstraints).value.ca
    assert list(find(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not find(x509.KeyUsage).value.key_cert_sign
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert life < 8 * DAY
    assert leaf.public_key() == key.public_key()


def tampered() -> bytes:
    """A request whose signature is that of another one."""
    one, other = (bytearray(csr_of(new_key())) for _ in range(2))
    return bytes(one[:-60] + other[-60:])


BAD_REQUESTS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "junk": lambda: b"\x30\x82\xff\xff" + bytes(100),
    "PEM": lambda: b"-----BEGIN CERTIFICATE REQUEST-----\nAA==\n",
    "a signature of another": tampered,
    "10 MB": lambda: csr_of(new_key()) + bytes(10 << 20),
    "many names": lambda: csr_of(
        new_key(),
        x509.SubjectAlternativeName([x509.DNSName(f"n{n}.example") for n in range(2000)]),
    ),
    "RSA 1024": lambda: csr_of(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - refused
    "Ed25519": lambda: csr_of(ed25519.Ed25519PrivateKey.generate()),
    "P-521": lambda: csr_of(ec.generate_private_key(ec.SECP521R1())),
}


@pytest.mark.parametrize("kind", BAD_REQUESTS)
def test_a_bad_request_is_refused_and_costs_nothing(ca: CertificateAuthority, kind: str) -> None:
    token, request = ca.create_token("orders-1"), BAD_REQUESTS[kind]()
    with pytest.raises(EnrolmentRefusedError):
        ca.enroll(request, token.certificate, issuer_id="ca-1")
    leaf = enroll(ca, token, new_key())
    with pytest.raises(EnrolmentRefusedError):
        ca.renew_for(request, leaf, issuer_id="ca-1")
    assert identity_of(renew(ca, leaf, new_key())).node_id == "orders-1"


def test_a_stolen_copy_is_refused_after_the_owner_and_the_owner_after_a_thief(
    ca: CertificateAuthority,
) -> None:
    token, owner, thief = ca.create_token("orders-1"), new_key(), new_key()
    copy = Token.parse(str(token))
    leaf = enroll(ca, token, owner)
    for _ in range(2):
        with pytest.raises(EnrolmentRefusedError) as refused:
            enroll(ca, copy, thief)
        assert refused.value.is_theft
    assert enroll(ca, token, owner) == leaf
    other = ca.create_token("orders-2")
    enroll(ca, other, thief)
    with pytest.raises(EnrolmentRefusedError, match="by another key") as refused:
        enroll(ca, other, owner)
    assert refused.value.is_theft
    ca.revoke("orders-2")
    with pytest.raises(EnrolmentRefusedError, match="cancelled"):
        enroll(ca, other, thief)


def test_a_forged_certificate_with_the_serial_number_of_a_token_is_refused(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    token = ca.create_token("orders-1")
    real = token.certificate
    key = new_key()
    forged = x509.CertificateBuilder(
        issuer_name=real.issuer,
        subject_name=real.subject,
        public_key=key.public_key(),
        serial_number=real.serial_number,
        not_valid_before=real.not_valid_before_utc,
        not_valid_after=real.not_valid_after_utc,
        extensions=list(real.extensions),
    ).sign(key, hashes.SHA256())
    assert enrolment_id_of(forged) == "orders-1"
    with pytest.raises(EnrolmentRefusedError, match="no token"):
        ca.enroll(csr_of(new_key()), forged, issuer_id="ca-1")
    leaf = enroll(ca, token, new_key())
    forged = x509.CertificateBuilder(
        issuer_name=leaf.issuer,
        subject_name=leaf.subject,
        public_key=key.public_key(),
        serial_number=leaf.serial_number,
        not_valid_before=leaf.not_valid_before_utc,
        not_valid_after=leaf.not_valid_after_utc,
        extensions=list(leaf.extensions),
    ).sign(key, hashes.SHA256())
    with pytest.raises(EnrolmentRefusedError, match="not trusted"):
        renew(ca, forged, new_key())


def test_a_certificate_that_is_not_on_record_is_not_renewed(ca: CertificateAuthority) -> None:
    leaf = enroll(ca, ca.create_token("orders-1"), new_key())
    ca.revoke(f"{leaf.serial_number:x}")
    with pytest.raises(EnrolmentRefusedError, match="revoked"):
        renew(ca, leaf, new_key())
    other = enroll(ca, ca.create_token("orders-2"), new_key())
    for name in ("issued.json", "audit.jsonl"):
        (ca.directory / name).unlink()
    with pytest.raises(EnrolmentRefusedError, match="on record"):
        renew(ca, other, new_key())
    placed = ca.issue("node-1", key_type=P256).certificate
    assert identity_of(renew(ca, placed, new_key())).node_id == "node-1"


def test_a_clock_that_is_wrong_is_named(ca: CertificateAuthority) -> None:
    token = ca.create_token("orders-1", at=NOW + 2 * MINUTE)
    with pytest.raises(EnrolmentRefusedError, match="clock"):
        enroll(ca, token, new_key(), at=NOW - 4 * MINUTE)
    assert enroll(ca, token, new_key(), at=NOW)  # within the tolerance


def test_of_many_keys_at_once_one_uses_a_token_at_two_issuers(ca: CertificateAuthority) -> None:
    issuers = [ca, CertificateAuthority.load(ca.directory)]
    token, keys = ca.create_token("orders-1"), [new_key() for _ in range(8)]

    def ask(number: int) -> x509.Certificate | None:
        try:
            return enroll(issuers[number % 2], token, keys[number // 2])
        except EnrolmentRefusedError:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = [leaf for leaf in pool.map(ask, range(16)) if leaf is not None]
    assert len(found) == 2  # one key, at both
    assert len(set(found)) == 1
    assert len(Inventory.load(Store(ca.directory)).of_node("orders-1")) == 1


def test_each_of_two_issuers_sees_at_once_what_the_other_did(ca: CertificateAuthority) -> None:
    other = CertificateAuthority.load(ca.directory)
    leaf, second = enroll(ca, ca.create_token("orders-1"), new_key()), new_key()
    for _ in range(3):
        token, key = other.create_token("orders-2"), new_key()
        assert enroll(ca, token, key) == enroll(other, token, key)
        with pytest.raises(EnrolmentRefusedError, match="thief"):
            enroll(other, token, new_key())
        successor = renew(ca, leaf, second)
        assert renew(other, leaf, second) == successor
        leaf, second = successor, new_key()
    other.cancel_token(ca.create_token("orders-3").serial)
    assert ca.tokens()[-1].state is TokenState.CANCELLED


class Siblings:
    """Two issuing CAs below one root, each in a directory of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.a, self.b = (
            CertificateAuthority.create(
                tmp_path / name, key_type=P256, name=name, root_directory=tmp_path / "root"
            )
            for name in ("a", "b")
        )


def test_a_sibling_renews_what_a_lost_issuer_gave(tmp_path: Path) -> None:
    both = Siblings(tmp_path)
    token = both.a.create_token("orders-1", hosts=["orders.example", "10.0.0.7"], days=7, at=NOW)
    with pytest.raises(EnrolmentRefusedError, match="no token"):
        enroll(both.b, token, new_key(), at=NOW)
    given = both.a.enroll(csr_of(new_key()), token.certificate, issuer_id="a-1", at=NOW)
    leaf, intermediate = (x509.load_der_x509_certificate(der) for der in given.chain)
    shutil.rmtree(both.a.directory)
    key, later = new_key(), NOW + 5 * DAY
    with pytest.raises(EnrolmentRefusedError, match="not trusted"):
        renew(both.b, leaf, key, at=later)
    options: dict[str, Any] = {"intermediates": [intermediate], "at": later}
    second = both.b.renew_for(csr_of(key, *GREEDY), leaf, issuer_id="b-1", **options)
    found = leaf_of(second)
    assert alternative_names(found) == alternative_names(leaf)
    assert found.not_valid_after_utc == later + 7 * DAY
    assert found.issuer == both.b.certificate.subject
    chain = [x509.load_der_x509_certificate(der) for der in second.chain]
    root = TrustBundle([both.b.bundle.certificates[-1]])
    assert root.verify(chain, "server", at=later).node_id == "orders-1"
    assert renew(both.b, leaf, key, **options) == found
    with pytest.raises(EnrolmentRefusedError, match="thief"):
        renew(both.b, leaf, new_key(), **options)
    third = renew(both.b, found, new_key(), at=later)  # now it is on record here
    assert alternative_names(third) == alternative_names(leaf)
    (both.b.directory / "issued.json").unlink()
    with pytest.raises(EnrolmentRefusedError, match="thief"):
        renew(both.b, leaf, new_key(), **options)


def test_a_sibling_does_not_renew_what_it_knows_as_revoked(tmp_path: Path) -> None:
    both = Siblings(tmp_path)
    given = both.a.enroll(
        csr_of(new_key()), both.a.create_token("orders-1").certificate, issuer_id="a-1"
    )
    leaf, intermediate = (x509.load_der_x509_certificate(der) for der in given.chain)
    both.a.revoke("orders-1")
    with (both.b.directory / "crl.pem").open("ab") as file:
        file.write((both.a.directory / "crl.pem").read_bytes())
    bundle = (*both.b.bundle.certificates, both.a.certificate)
    (both.b.directory / "ca-cert.pem").write_bytes(encode_certificates(bundle))
    b = CertificateAuthority.load(both.b.directory)
    with pytest.raises(EnrolmentRefusedError, match="revoked"):
        renew(b, leaf, new_key(), intermediates=[intermediate])


def test_tokens_and_certificates_of_the_old_ca_are_honoured_during_a_rotation(
    ca: CertificateAuthority,
) -> None:
    token, late = ca.create_token("orders-1"), ca.create_token("orders-2")
    leaf = enroll(ca, token, new_key())
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    key = new_key()
    second = renew(ca, leaf, key)
    assert second.issuer == ca.certificate.subject != leaf.issuer
    assert renew(ca, leaf, key) == second
    assert enroll(ca, late, new_key()).issuer == ca.certificate.subject
    with pytest.raises(StillUsedError, match="orders-1"):
        ca.retire_rotation()  # the answer may still be on its way
    ca.retire_rotation(at=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1))
    with pytest.raises(EnrolmentRefusedError, match="not trusted"):
        renew(ca, leaf, key)
    with pytest.raises(EnrolmentRefusedError, match="retired"):
        enroll(ca, late, new_key())
    assert renew(ca, second, new_key())


def test_a_certificate_that_ends_with_its_ca_is_renewed_by_the_next_ca_only(
    tmp_path: Path,
) -> None:
    ca = CertificateAuthority.create(tmp_path / "certs", key_type=P256, days=30, at=NOW)
    leaf, key = enroll(ca, ca.create_token("orders-1"), new_key()), new_key()
    assert leaf.not_valid_after_utc == ca.certificate.not_valid_after_utc
    for _ in range(2):
        with pytest.raises(CAEndsError):
            renew(ca, leaf, key)
    ca.prepare_rotation(days=60)
    ca.activate_rotation(confirm=True)
    assert renew(ca, leaf, key, at=NOW + DAY).not_valid_after_utc > leaf.not_valid_after_utc


def test_a_node_cannot_fill_the_inventory(ca: CertificateAuthority) -> None:
    leaf = enroll(ca, ca.create_token("orders-1"), new_key())
    with pytest.raises(EnrolmentRefusedError, match="valid certificates already"):  # noqa: PT012 - the number is the limit
        for _ in range(100):
            leaf = renew(ca, leaf, new_key())
    assert len(Inventory.load(Store(ca.directory)).of_node("orders-1")) == 64
    assert enroll(ca, ca.create_token("orders-2"), new_key())


def test_short_lives_do_not_fill_the_inventory(ca: CertificateAuthority) -> None:
    at = NOW
    leaf = enroll(ca, ca.create_token("orders-1", days=20 / 86400, at=at), new_key(), at=at)
    for _ in range(150):
        at += 13 * SECOND
        leaf = renew(ca, leaf, new_key(), at=at)
    inventory = Inventory.load(Store(ca.directory))
    assert len(inventory.of_node("orders-1")) < 50  # each is kept for as long as it lived
    assert len(json.dumps([entry.to_json() for entry in inventory])) < 100_000


def test_an_answer_is_stored_only_as_long_as_somebody_may_ask_for_it(
    ca: CertificateAuthority,
) -> None:
    token = ca.create_token("orders-1", days=1, at=NOW)
    leaf = enroll(ca, token, new_key(), at=NOW)
    renew(ca, leaf, new_key(), at=NOW)

    def stored() -> int:
        content = json.loads((ca.directory / "issued.json").read_bytes())
        records = [*content["tokens"], *content["certificates"]]
        return sum("certificate" in record.get("answer", {}) for record in records)

    assert stored() == 2
    ca.create_token("orders-2", at=NOW + DAY / 2)
    assert stored() == 1
    ca.create_token("orders-3", at=NOW + 2 * DAY)
    assert stored() == 0


# Tokens from strangers


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("tokens") / "certs"
    return str(CertificateAuthority.create(directory, key_type=P256).create_token("orders-1"))


def refused(text: str | bytes) -> str:
    """The message of the error, which has no part of the text."""
    with pytest.raises(InvalidTokenError) as caught:
        Token.parse(text)
    assert caught.value.__cause__ is None
    message = str(caught.value)
    body = text if isinstance(text, str) else text.decode("latin-1")
    parts = {body[start : start + 12] for start in range(8, min(len(body), 4000) - 12)}
    assert not any(part in message for part in parts)
    assert len(message) < 300
    return message


def content_of(text: str) -> Any:
    data = text.removeprefix("aegis1.")
    return json.loads(zlib.decompress(base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))))


def text_of(content: Any) -> str:
    return (
        "aegis1." + base64.urlsafe_b64encode(zlib.compress(json.dumps(content).encode())).decode()
    )


def test_a_token_of_a_later_format_says_so(text: str) -> None:
    message = refused(text.replace("aegis1.", "aegis2."))
    assert "version 2" in message
    assert "newer program" in message
    assert "aegis1." in refused("hello")


def test_a_token_that_is_too_long_is_refused_before_it_is_read(text: str) -> None:
    assert "16384" in refused("aegis1." + "A" * (10 << 20))
    assert "16384" in refused(b"\x00" * (10 << 20))
    assert "16384" in refused(text + "A" * 16384)
    bomb = "aegis1." + base64.urlsafe_b64encode(zlib.compress(bytes(8 << 20), 9)).decode()
    assert len(bomb) < 16384
    assert refused(bomb)


def test_a_token_whose_parts_do_not_belong_together_is_refused(
    text: str, ca: CertificateAuthority
) -> None:
    good, other = content_of(text), content_of(str(ca.create_token("orders-1")))
    member = ca.issue("node-1", key_type=P256)
    member_der = base64.b64encode(member.certificate.public_bytes(Encoding.DER)).decode()
    ca_der = other["bundle"][0]
    assert Token.parse(text_of(good)).node_id == "orders-1"
    for changed in (
        {"key": other["key"]},
        {"certificate": other["certificate"]},
        {"bundle": other["bundle"]},
        {"bundle": []},
        {"bundle": good["bundle"] * 33},
        {"key": other["key"], "certificate": member_der, "bundle": other["bundle"]},
        {"key": other["key"], "certificate": ca_der, "bundle": other["bundle"]},
        {"issuers": [["ca-1", "host:1"]] * 17},
        {"issuers": [["CA_1", "host:1"]]},
        {"issuers": [["ca-1", "host"]]},
        {"issuers": [["ca-1", "host:1", "x"]]},
        {"issuers": None},
        {"key": "AA=="},
        {"key": None},
    ):
        refused(text_of(good | changed))
    for content in ([], None, 7, {}, "x", {name: good[name] for name in ("key", "bundle")}):
        refused(text_of(content))


@given(st.one_of(st.text(), st.binary(), st.text().map("aegis1.{}".format)))
@example("aegis1.")
@example("aegis1.====")
@example("")
@example("aegis99999999999.x")
def test_garbage_is_no_token(garbage: str | bytes) -> None:
    with pytest.raises(InvalidTokenError):
        Token.parse(garbage)


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_token_is_an_error_or_the_same_token(text: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(7, len(text) - 1))
    letter = data.draw(st.characters(codec="ascii"))
    damaged = text[:position] + letter + text[position + data.draw(st.integers(0, 3)) :]
    try:
        token = Token.parse(damaged)
    except InvalidTokenError:
        return
    assert token.encode() == text  # a letter that base64 or white space does not count


@settings(max_examples=60)
@given(data=st.data())
def test_a_token_with_changed_content_is_an_error_or_usable(text: str, data: st.DataObject) -> None:
    content = content_of(text)
    field = data.draw(st.sampled_from(sorted(content)))
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=40),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
    content[field] = data.draw(values)
    try:
        token = Token.parse(text_of(content))
    except InvalidTokenError:
        return
    assert token.node_id == "orders-1"
    assert token.tls().chain
