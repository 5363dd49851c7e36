"""Any input raises either no error or a CertsError."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    CertsError,
    IdentitySource,
    InventoryError,
    KeyType,
    RevocationList,
    RevocationReason,
    TLSConfig,
    TLSOptions,
    TrustBundle,
    identity_of,
    install_certificate,
    list_certificates,
    load_or_generate_tls,
    load_tls,
    request_certificate,
    validate_node_id,
)
from aegis_certs._ca.request import Request
from aegis_certs._inspect.doctor import examine
from aegis_certs._x509.pem import parse_certificates, parse_crls, parse_private_key
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Each example writes the damaged file again, so all examples may share a fixture.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
LABELS = [
    *("CERTIFICATE", "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "X509 CRL"),
    *("CERTIFICATE REQUEST", "ENCRYPTED PRIVATE KEY"),
]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> TLSConfig:
    directory = tmp_path_factory.mktemp("garbage") / "certs"
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
    return ca.issue_in_memory("node-1", hosts=["api.example", "10.0.0.1"])


def blocks() -> st.SearchStrategy[bytes]:
    import base64

    def wrap(label: str, body: bytes) -> bytes:
        text = base64.encodebytes(body).decode()
        return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()

    return st.builds(wrap, st.sampled_from(LABELS), st.binary(max_size=200))


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The data, cut off somewhere or with some bytes changed; sometimes in DER, not in PEM."""
    import base64

    lines = data.split(b"\n")
    der = bytearray(base64.b64decode(b"".join(lines[1:-2])))
    for _ in range(draw(st.integers(1, 4))):
        der[draw(st.integers(0, len(der) - 1))] = draw(st.integers(0, 255))
    changed = b"\n".join([lines[0], base64.encodebytes(bytes(der)).strip(), *lines[-2:]])
    cut = data[: draw(st.integers(0, len(data) - 1))]
    return draw(st.sampled_from([changed, cut]))


def read_everything(data: bytes) -> None:
    for certificate in parse_certificates(data):
        identity_of(certificate)
    TrustBundle.from_pem(data)


def signed_parts(chain: tuple[x509.Certificate, ...]) -> list[bytes]:
    return [certificate.tbs_certificate_bytes for certificate in chain]


@given(data=st.binary(max_size=300) | blocks())
def test_garbage_raises_only_certs_errors(data: bytes) -> None:
    for read in (read_everything, parse_private_key, parse_crls, Request.parse):
        with contextlib.suppress(CertsError):
            read(data)


@settings(suppress_health_check=SHARED, max_examples=150)
@given(draw=st.data())
def test_a_damaged_certificate_is_a_certs_error_or_not_trusted(
    material: TLSConfig, draw: st.DataObject
) -> None:
    data = draw.draw(damaged(material.certificate_chain))
    with contextlib.suppress(CertsError):
        chain = parse_certificates(data)
        # The unused bits of a signature's BIT STRING may change without making it invalid.
        if signed_parts(chain) != signed_parts(material.chain):
            with pytest.raises(CertsError):
                material.bundle.verify(chain, "server")


@settings(suppress_health_check=SHARED)
@given(draw=st.data())
def test_a_damaged_ca_is_a_certs_error_or_verifies_nothing_new(
    material: TLSConfig, draw: st.DataObject
) -> None:
    with contextlib.suppress(CertsError):
        bundle = TrustBundle.from_pem(draw.draw(damaged(material.trust_bundle)))
        bundle.verify(material.chain, "server")


@settings(suppress_health_check=SHARED)
@given(draw=st.data())
def test_a_damaged_key_is_a_certs_error(material: TLSConfig, draw: st.DataObject) -> None:
    with contextlib.suppress(CertsError):
        parse_private_key(draw.draw(damaged(material.private_key)))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    directory = tmp_path_factory.mktemp("authority") / "certs"
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
    ca.issue("node-1", key_type=KeyType.P256)
    ca.revoke("node-1", RevocationReason.SUPERSEDED)
    request_certificate("node-2", directory, key_type=KeyType.P256, hosts=["a.example"])
    return ca


@settings(suppress_health_check=SHARED, max_examples=150)
@given(draw=st.data())
def test_a_damaged_list_is_a_certs_error_or_has_the_same_revocations(
    authority: CertificateAuthority, draw: st.DataObject
) -> None:
    good = (authority.directory / "crl.pem").read_bytes()
    with contextlib.suppress(CertsError):
        found = RevocationList.from_pem(draw.draw(damaged(good)), authority.bundle)
        assert list(found) == list(RevocationList.from_pem(good, authority.bundle))


@settings(suppress_health_check=SHARED, max_examples=100)
@given(draw=st.data())
def test_a_damaged_request_is_a_certs_error(
    authority: CertificateAuthority, draw: st.DataObject
) -> None:
    good = (authority.directory / "node-2_csr.pem").read_bytes()
    with contextlib.suppress(CertsError):
        assert Request.parse(draw.draw(damaged(good))) == Request.parse(good)


@settings(suppress_health_check=SHARED, max_examples=100)
@given(
    change=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    field=st.sampled_from([None, "id", "serial", "sans", "hosts", "not_after", "key", "address"]),
    cut=st.none() | st.integers(0, 600),
)
def test_a_damaged_inventory_is_read_as_it_is_or_rebuilt(
    authority: CertificateAuthority, change: object, field: str | None, cut: int | None
) -> None:
    path = authority.directory / "issued.json"
    good = path.read_text()
    content = json.loads(good)
    if field is None:
        content["version"] = change
    else:
        content["certificates"][0][field] = change
    try:
        path.write_text(json.dumps(content)[:cut])
        with contextlib.suppress(InventoryError):
            assert len(list(list_certificates(authority.directory))) >= 2
    finally:
        path.write_text(good)


@given(text=st.text(max_size=80))
def test_a_string_is_a_node_id_or_a_certs_error(text: str) -> None:
    with contextlib.suppress(CertsError):
        assert validate_node_id(text) == text


@settings(suppress_health_check=SHARED, max_examples=80)
@given(data=st.binary(max_size=100) | blocks(), which=st.integers(0, 10))
def test_a_directory_of_garbage_raises_only_certs_errors(
    tmp_path: Path, material: TLSConfig, data: bytes, which: int
) -> None:
    names = [
        *("ca-cert.pem", "ca-key.pem", "node-1-cert.pem", "node-1-key.pem"),
        *("node-1.next.pem", "ca.next.pem", "crl.pem", "issued.json", "audit.jsonl"),
        *("ca_next-cert.pem", "ca_old-cert.pem"),
    ]
    for name in names:
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "ca-cert.pem").write_bytes(material.trust_bundle)
    (tmp_path / "node-1-cert.pem").write_bytes(material.certificate_chain)
    (tmp_path / "node-1-key.pem").write_bytes(material.private_key)
    (tmp_path / names[which]).write_bytes(data)
    actions: list[Callable[[], object]] = [
        lambda: load_or_generate_tls("node-1", tmp_path, key_type=KeyType.P256),
        lambda: load_or_generate_tls("node-2", tmp_path, key_type=KeyType.P256),
        lambda: CertificateAuthority.load(tmp_path).issue("node-1"),
        lambda: list_certificates(tmp_path),
        lambda: CertificateAuthority.load(tmp_path).rotation(),
        lambda: CertificateAuthority.load(tmp_path).revoke("node-1"),
        lambda: IdentitySource.directory("node-1", tmp_path).revocations(),
        lambda: examine(tmp_path),
        lambda: install_certificate(data, tmp_path),
        lambda: load_tls(
            TLSOptions(
                cert_file=tmp_path / "node-1-cert.pem",
                key_file=tmp_path / "node-1-key.pem",
                ca_file=tmp_path / names[which],
            )
        ),
    ]
    for act in actions:
        with contextlib.suppress(CertsError):
            act()
