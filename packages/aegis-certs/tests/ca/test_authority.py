from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    AlreadyExistsError,
    CertificateAuthority,
    CertsError,
    ExpiredError,
    InvalidNodeIdError,
    InvalidPemError,
    InvalidRequestError,
    KeyMismatchError,
    KeyType,
    NotFoundError,
    NotYetValidError,
    TLSConfig,
    request_certificate,
)
from aegis_certs._x509.identity import alternative_names
from cryptography.hazmat.primitives.asymmetric import ec, rsa

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


def test_s2_a_ca_has_rsa_4096_and_365_days_by_default(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path, at=NOW)
    key = ca.certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 4096
    assert ca.certificate.not_valid_after_utc == NOW + 365 * DAY
    assert ca.certificate.not_valid_before_utc == NOW - dt.timedelta(minutes=5)
    assert CertificateAuthority.load(tmp_path).certificate == ca.certificate


def test_s3_a_leaf_has_rsa_2048_and_90_days_by_default(ca: CertificateAuthority) -> None:
    tls = ca.issue("node-1", at=NOW + DAY)
    key = tls.certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    assert tls.not_after == NOW + 91 * DAY
    assert tls.certificate.not_valid_before_utc == NOW + DAY - dt.timedelta(minutes=5)


def test_a_new_leaf_has_only_the_names_of_its_node(ca: CertificateAuthority) -> None:
    names = alternative_names(ca.issue("node-1", key_type=KeyType.P256).certificate)
    assert names.dns == ("node-1",)
    assert names.ips == ()
    assert names.uris == ("spiffe://aegis.internal/node/node-1",)


def test_requested_hosts_are_in_a_leaf(ca: CertificateAuthority) -> None:
    tls = ca.issue_in_memory("node-1", hosts=["10.0.0.7", "api.example", "node-1"])
    names = alternative_names(tls.certificate)
    assert names.dns == ("node-1", "api.example")
    assert [str(ip) for ip in names.ips] == ["10.0.0.7"]


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "db.localhost"])
def test_localhost_is_never_granted(ca: CertificateAuthority, tmp_path: Path, host: str) -> None:
    match = "could impersonate every other one"
    with pytest.raises(InvalidRequestError, match=match):
        ca.issue("node-1", hosts=[host], key_type=KeyType.P256)
    with pytest.raises(InvalidRequestError, match=match):
        ca.issue_in_memory("node-1", hosts=[host])
    with pytest.raises(InvalidRequestError, match=match):
        request_certificate("node-1", tmp_path / "node", hosts=[host], key_type=KeyType.P256)
    asked = request_certificate("node-1", tmp_path / "node", key_type=KeyType.P256).read_bytes()
    with pytest.raises(InvalidRequestError, match=match):
        ca.sign(asked, hosts=[host])


@pytest.mark.parametrize("address", ["orders.acme.example:7000", "0.0.0.0:7000", "localhost:1"])
def test_an_own_address_that_is_not_an_ip_is_not_in_the_leaf(
    ca: CertificateAuthority, address: str
) -> None:
    names = alternative_names(ca.issue_in_memory("node-1", address=address).certificate)
    assert (names.dns, names.ips) == (("node-1",), ())


def test_another_nodes_id_is_refused_as_a_host(ca: CertificateAuthority) -> None:
    ca.issue("node-1", key_type=KeyType.P256)
    with pytest.raises(InvalidRequestError, match="node-2 could impersonate it"):
        ca.issue("node-2", hosts=["NODE-1"], key_type=KeyType.P256)
    with pytest.raises(InvalidRequestError):
        ca.issue_in_memory("node-2", hosts=["node-1"])


def test_a_host_of_another_certificate_is_refused_as_a_node_id(ca: CertificateAuthority) -> None:
    ca.issue("node-1", hosts=["node-2"], key_type=KeyType.P256, days=1)
    with pytest.raises(InvalidRequestError, match="node-1 has it as a host"):
        ca.issue("node-2", key_type=KeyType.P256)
    later = NOW + 2 * DAY  # the certificate of node-1 has then expired
    assert ca.issue("node-2", key_type=KeyType.P256, at=later).node_id == "node-2"


@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.P384, "p256"])
def test_the_key_type_can_be_chosen(ca: CertificateAuthority, key_type: Any) -> None:
    key = ca.issue_in_memory("node-1", key_type=key_type).certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)


@pytest.mark.parametrize("key_type", ["ed25519", "rsa-1024", "", None])
def test_other_key_types_are_refused(ca: CertificateAuthority, key_type: Any) -> None:
    with pytest.raises(InvalidRequestError, match="choose one of rsa-2048"):
        ca.issue("node-1", key_type=key_type)
    with pytest.raises(InvalidRequestError):
        CertificateAuthority.create(ca.directory / "other", key_type=key_type)


def test_a_leaf_never_outlives_its_ca(directory: Path) -> None:
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, days=30)
    assert ca.issue_in_memory("node-1").not_after == ca.certificate.not_valid_after_utc


def test_an_expired_ca_issues_nothing(directory: Path) -> None:
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, days=1, at=NOW - 3 * DAY)
    with pytest.raises(ExpiredError, match="rotate-ca prepare"):
        ca.issue("node-1", key_type=KeyType.P256)
    with pytest.raises(NotYetValidError):
        ca.issue("node-1", key_type=KeyType.P256, at=NOW - 10 * DAY)


def test_serial_numbers_are_random_and_keys_are_new_each_time(ca: CertificateAuthority) -> None:
    made = [ca.issue("node-1", key_type=KeyType.P256) for _ in range(5)]
    assert len({tls.certificate.serial_number for tls in made}) == 5
    assert len({tls.private_key for tls in made}) == 5
    assert all(tls.certificate.serial_number.bit_length() > 64 for tls in made)


def test_issuing_in_memory_writes_only_the_records(ca: CertificateAuthority) -> None:
    before = {path.name for path in ca.directory.iterdir()}
    tls = ca.issue_in_memory("status", client_only=True, days=1 / 24, at=NOW)
    assert tls.not_after == NOW + dt.timedelta(hours=1)
    assert {path.name for path in ca.directory.iterdir()} == before | {"issued.json"}
    assert f"{tls.certificate.serial_number:x}" in (ca.directory / "audit.jsonl").read_text()


@pytest.mark.parametrize("days", [0, -1, 40_000, float("nan"), float("inf")])
def test_invalid_days_are_refused(ca: CertificateAuthority, days: float) -> None:
    with pytest.raises(InvalidRequestError):
        ca.issue("node-1", key_type=KeyType.P256, days=days)
    with pytest.raises(InvalidRequestError):
        CertificateAuthority.create(ca.directory / "other", key_type=KeyType.P256, days=days)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "a\x00"])
def test_an_invalid_ca_name_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        CertificateAuthority.create(directory, key_type=KeyType.P256, name=name)
    assert not (directory / "ca-cert.pem").exists()


def test_a_ca_never_has_the_subject_of_a_leaf(directory: Path) -> None:
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, name="node-1")
    tls = ca.issue_in_memory("node-1")
    assert tls.certificate.subject != tls.certificate.issuer
    assert tls.bundle.verify(tls.chain, "server").node_id == "node-1"


def test_two_cas_have_different_names_by_default(tmp_path: Path) -> None:
    names = {
        CertificateAuthority.create(tmp_path / n, key_type=KeyType.P256).name for n in ("a", "b")
    }
    assert len(names) == 2


def test_a_ca_is_never_overwritten(ca: CertificateAuthority) -> None:
    before = {path.name: path.read_bytes() for path in ca.directory.iterdir()}
    with pytest.raises(AlreadyExistsError) as caught:
        CertificateAuthority.create(ca.directory, key_type=KeyType.P256)
    assert caught.value.path == ca.directory / "ca-cert.pem"
    assert {path.name: path.read_bytes() for path in ca.directory.iterdir()} == before


@pytest.mark.parametrize("left", ["ca-cert.pem", "ca-key.pem"])
def test_half_a_ca_is_neither_loaded_nor_overwritten(ca: CertificateAuthority, left: str) -> None:
    for path in ca.directory.glob("ca-*.pem"):
        if path.name != left:
            path.unlink()
    with pytest.raises(NotFoundError):
        CertificateAuthority.load(ca.directory)
    with pytest.raises(AlreadyExistsError):
        CertificateAuthority.create(ca.directory, key_type=KeyType.P256)


def test_the_error_for_a_missing_ca_says_how_to_create_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="aegis-certs init") as caught:
        CertificateAuthority.load(tmp_path)
    assert caught.value.place == tmp_path / "ca-cert.pem"


def test_the_key_of_another_ca_is_refused(ca: CertificateAuthority, tmp_path: Path) -> None:
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    (ca.directory / "ca-key.pem").write_bytes((other.directory / "ca-key.pem").read_bytes())
    with pytest.raises(KeyMismatchError) as caught:
        CertificateAuthority.load(ca.directory)
    assert caught.value.key == ca.directory / "ca-key.pem"


def test_a_leaf_is_not_loaded_as_a_ca(ca: CertificateAuthority) -> None:
    ca.issue("node-1", key_type=KeyType.P256)
    for kind in ("cert", "key"):
        path = ca.directory / f"node-1-{kind}.pem"
        path.replace(ca.directory / f"ca-{kind}.pem")
    with pytest.raises(InvalidPemError, match="not a CA's"):
        CertificateAuthority.load(ca.directory)


def test_an_identity_of_another_ca_is_not_replaced(
    ca: CertificateAuthority, go_node: Callable[..., Any], make_certificate: Callable[..., Any]
) -> None:
    path = ca.directory / "node-1-cert.pem"
    path.write_bytes(go_node("node-1", make_certificate("Root", ca=True)).pem)
    before = path.read_bytes()
    with pytest.raises(AlreadyExistsError, match="this CA did not issue it"):
        ca.issue("node-1", key_type=KeyType.P256)
    assert path.read_bytes() == before


def test_an_identity_of_this_ca_is_replaced(ca: CertificateAuthority) -> None:
    first = ca.issue("node-1", key_type=KeyType.P256)
    second = ca.issue("node-1", key_type=KeyType.P256)
    assert (ca.directory / "node-1-cert.pem").read_bytes() == second.certificate_chain
    assert second != first


@pytest.mark.parametrize("node_id", ["../x", "/tmp/x", "a/b", "localhost", "ca", "A"])
def test_an_invalid_node_id_creates_no_file(
    ca: CertificateAuthority, tmp_path: Path, node_id: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidNodeIdError):
        ca.issue(node_id)
    assert sorted(tmp_path.rglob("*")) == before


def test_conflicting_arguments_are_refused(ca: CertificateAuthority) -> None:
    with pytest.raises(InvalidRequestError, match="excludes"):
        ca.issue("node-1", client_only=True, server_only=True)
    with pytest.raises(InvalidRequestError, match="a list of hosts"):
        ca.issue("node-1", hosts="api.example")


def test_a_ca_of_a_go_node_can_be_used(
    directory: Path, make_certificate: Callable[..., Any]
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = make_certificate("Go CA", ca=True, key=key)
    directory.mkdir()
    (directory / "ca-cert.pem").write_bytes(root.pem)
    (directory / "ca-key.pem").write_bytes(root.traditional_key_pem)
    ca = CertificateAuthority.load(directory)
    assert ca.trust_domain == "aegis.internal"
    tls = ca.issue("node-1", key_type=KeyType.P256)
    assert tls.bundle.verify(tls.chain, "server").trust_domain == "aegis.internal"


def test_a_go_node_can_read_the_rsa_keys_of_a_ca(tmp_path: Path) -> None:
    root, issuing = tmp_path / "root", tmp_path / "certs"
    CertificateAuthority.create(issuing, key_type=KeyType.RSA_2048, root_directory=root)
    for directory in (root, issuing):
        pem = (directory / "ca-key.pem").read_bytes()
        assert pem.startswith(b"-----BEGIN RSA PRIVATE KEY-----\n"), "PKCS#1"
        assert (directory / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    assert CertificateAuthority.load(issuing).issue("node-1", key_type=KeyType.P256)


def test_a_prepared_and_activated_rsa_ca_key_can_be_read_by_a_go_node(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.RSA_2048)
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    for path in ca.directory.glob("ca*-key.pem"):
        assert path.read_bytes().startswith(b"-----BEGIN RSA PRIVATE KEY-----\n")


def test_an_rsa_ca_key_with_a_passphrase_is_encrypted_as_pkcs_8(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(
        tmp_path / "certs", key_type=KeyType.RSA_2048, passphrase="secret"
    )
    pem = (ca.directory / "ca-key.pem").read_bytes()
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert CertificateAuthority.load(ca.directory, passphrase="secret").name == ca.name


def test_an_encrypted_ca_key_raises_a_clear_error(ca: CertificateAuthority) -> None:
    path = ca.directory / "ca-key.pem"
    path.write_text(path.read_text().replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"))
    with pytest.raises(InvalidPemError, match="encrypted"):
        CertificateAuthority.load(ca.directory)


def test_reprs_show_the_name_and_never_the_key(ca: CertificateAuthority) -> None:
    tls = ca.issue("node-1", key_type=KeyType.P256)
    assert repr(ca) == f"CertificateAuthority('Test CA', directory={str(ca.directory)!r})"
    assert repr(tls) == f"TLSConfig(node_id='node-1', not_after={tls.not_after:%Y-%m-%dT%H:%M:%SZ})"
    assert repr(TLSConfig("x", b"junk", b"secret", b"")) == (
        "TLSConfig(node_id='x', not_after=unreadable)"
    )


def test_a_tls_config_has_the_parsed_values(ca: CertificateAuthority) -> None:
    tls = ca.issue("node-1", key_type=KeyType.P256)
    assert tls.certificate is tls.chain[0]
    assert tls.trust_domain == ca.trust_domain
    assert len(tls.fingerprint) == 32
    assert tls.bundle.certificates == ca.bundle.certificates
    assert tls.private_key.startswith(b"-----BEGIN PRIVATE KEY-----")
    with pytest.raises(CertsError):
        _ = TLSConfig("x", b"junk", b"", b"").chain
