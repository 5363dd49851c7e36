"""A key never leaves its machine, and the CA signs a request for it."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from aegis_certs import (
    AlreadyExistsError,
    CertificateAuthority,
    IdentitySource,
    InvalidNodeIdError,
    InvalidPemError,
    InvalidRequestError,
    KeyMismatchError,
    KeyType,
    NotFoundError,
    UntrustedError,
    install_certificate,
    request_certificate,
)
from aegis_certs._x509.identity import alternative_names
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

P256 = KeyType.P256


@pytest.fixture
def away(ca: CertificateAuthority, tmp_path: Path) -> Path:
    """The directory of another machine, which has only the trust bundle."""
    away = tmp_path / "away"
    away.mkdir()
    shutil.copy(ca.directory / "ca-cert.pem", away)
    return away


def ask(
    *names: str,
    key: object = None,
    extensions: tuple[x509.ExtensionType, ...] = (),
    organisation: str | None = None,
) -> bytes:
    """A request of any shape."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
    if organisation:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    key = key or ec.generate_private_key(ec.SECP256R1())
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)  # type: ignore[arg-type]  # tests may use any key


@pytest.mark.parametrize("key_type", [KeyType.RSA_2048, P256, KeyType.P384])
def test_a_signed_request_becomes_an_identity_and_the_key_never_moves(
    ca: CertificateAuthority, away: Path, key_type: KeyType
) -> None:
    path = request_certificate("node-1", away, key_type=key_type)
    assert path == away / "node-1_csr.pem"
    assert b"PRIVATE" not in path.read_bytes()
    assert (away / "node-1_csr-key.pem").stat().st_mode & 0o077 == 0
    signed = ca.sign(path.read_bytes(), node_id="node-1")
    assert (signed.node_id, signed.dropped) == ("node-1", ())
    assert not (ca.directory / "node-1-key.pem").exists()
    tls = install_certificate(signed.pem, away)
    assert tls.identity.spiffe_id == "spiffe://aegis.internal/node/node-1"
    assert {p.name for p in away.glob("node-1*")} == {"node-1-cert.pem", "node-1-key.pem"}
    source = IdentitySource.directory("node-1", away)
    assert source.load() == tls
    assert source.renew() is None


def test_the_current_identity_stays_until_the_new_one_is_installed(
    ca: CertificateAuthority, away: Path
) -> None:
    first = install_certificate(
        ca.sign(request_certificate("node-1", away, key_type=P256).read_bytes()).pem, away
    )
    source = IdentitySource.directory("node-1", away)
    assert source.load() == first
    request = request_certificate("node-1", away, key_type=P256).read_bytes()
    assert source.poll() is None
    second = install_certificate(ca.sign(request).pem, away)
    assert source.poll() == second != first


def test_a_pending_request_is_not_replaced_by_another(ca: CertificateAuthority, away: Path) -> None:
    request = request_certificate("node-1", away, key_type=P256).read_bytes()
    with pytest.raises(
        AlreadyExistsError, match=r"install.*remove .*node-1_csr-key\.pem"
    ) as caught:
        request_certificate("node-1", away, key_type=P256)
    assert (away / "node-1_csr.pem").read_bytes() == request
    caught.value.path.unlink()  # as the message says
    second = request_certificate("node-1", away, key_type=P256).read_bytes()
    assert second != request
    assert install_certificate(ca.sign(second).pem, away).node_id == "node-1"


def test_the_ca_decides_what_it_grants_and_says_what_it_dropped(ca: CertificateAuthority) -> None:
    request = ask(
        "node-1",
        organisation="Acme",
        extensions=(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("node-1"),
                    x509.DNSName("a.example"),
                    x509.DNSName("b.example"),
                    x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
                    x509.UniformResourceIdentifier("spiffe://other/node/boss"),
                    x509.RFC822Name("me@acme.example"),
                ]
            ),
            x509.BasicConstraints(ca=True, path_length=None),
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.CODE_SIGNING]
            ),
        ),
    )
    signed = ca.sign(request, hosts=["a.example", "c.example"])
    names = alternative_names(signed.certificate)
    assert names.dns == ("node-1", "a.example", "c.example")
    assert names.ips == ()
    assert names.uris == ("spiffe://aegis.internal/node/node-1",)
    assert signed.certificate.subject.rfc4514_string() == "CN=node-1"
    usage = signed.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert set(signed.dropped) == {
        "O=Acme in the subject",
        "DNS name b.example",
        "IP address 10.0.0.1",
        "URI spiffe://other/node/boss",
        "RFC822Name me@acme.example",
        "extension basicConstraints",
        "usage codeSigning",
    }


def test_a_request_must_be_signed_with_its_key(ca: CertificateAuthority) -> None:
    request = x509.load_pem_x509_csr(ask("node-1")).public_bytes(Encoding.DER)
    forged = bytearray(request)
    forged[-1] ^= 1
    pem = x509.load_der_x509_csr(bytes(forged)).public_bytes(Encoding.PEM)
    with pytest.raises(InvalidPemError, match="prove"):
        ca.sign(pem)


def ask_for_code_signing() -> bytes:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    return ask("node-1", extensions=(usage,))


def ask_with_a_weak_key() -> bytes:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    return ask("node-1", key=weak)


REFUSED: dict[str, tuple[Callable[[], bytes], type[Exception]]] = {
    "path": (lambda: ask("../x"), InvalidNodeIdError),
    "localhost": (lambda: ask("localhost"), InvalidNodeIdError),
    "no-name": (ask, InvalidPemError),
    "two-names": (lambda: ask("node-1", "node-2"), InvalidPemError),
    "two-requests": (lambda: ask("node-1") + ask("node-2"), InvalidPemError),
    "weak": (ask_with_a_weak_key, InvalidPemError),
    "p521": (
        lambda: ask("node-1", key=ec.generate_private_key(ec.SECP521R1())),
        InvalidPemError,
    ),
    "ed25519": (
        lambda: ask("node-1", key=ed25519.Ed25519PrivateKey.generate()),
        InvalidPemError,
    ),
    "code-signing": (ask_for_code_signing, InvalidPemError),
    "junk": (lambda: b"junk", InvalidPemError),
}


@pytest.mark.parametrize("why", REFUSED)
def test_requests_that_cannot_be_granted_are_refused(ca: CertificateAuthority, why: str) -> None:
    make, error = REFUSED[why]
    with pytest.raises(error):
        ca.sign(make())
    assert not (ca.directory / "issued.json").exists()


def test_a_request_for_another_node_is_refused(ca: CertificateAuthority) -> None:
    with pytest.raises(InvalidRequestError, match="node-2"):
        ca.sign(ask("node-2"), node_id="node-1")


def test_a_host_that_is_another_node_is_refused(ca: CertificateAuthority) -> None:
    ca.issue("node-1", key_type=P256)
    with pytest.raises(InvalidRequestError):
        ca.sign(ask("node-2"), hosts=["node-1"])


def test_an_answer_that_does_not_match_changes_nothing(
    ca: CertificateAuthority, away: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="request"):
        install_certificate(ca.sign(ask("node-1")).pem, away)
    request = request_certificate("node-1", away, key_type=P256).read_bytes()
    with pytest.raises(KeyMismatchError):
        install_certificate(ca.sign(ask("node-1")).pem, away)
    other = CertificateAuthority.create(tmp_path / "other", key_type=P256)
    with pytest.raises(UntrustedError):
        install_certificate(other.sign(request).pem, away)
    signed = ca.sign(request).pem
    (away / "ca-cert.pem").unlink()
    with pytest.raises(NotFoundError, match="trust bundle"):
        install_certificate(signed, away)
    assert not (away / "node-1-cert.pem").exists()


def test_a_node_whose_key_is_elsewhere_is_renewed_by_a_new_request(
    ca: CertificateAuthority,
) -> None:
    ca.sign(ask("node-1"))
    with pytest.raises(NotFoundError, match="request"):
        ca.renew("node-1")


def test_the_error_for_a_damaged_answer_says_what_to_do(
    ca: CertificateAuthority, away: Path
) -> None:
    signed = ca.sign(request_certificate("node-1", away, key_type=P256).read_bytes()).pem
    with pytest.raises(InvalidPemError, match="get a new copy"):
        install_certificate(signed[: len(signed) // 2], away)
    with pytest.raises(InvalidPemError, match="get a new copy"):
        install_certificate(signed.replace(b"A", b"", 1), away)
