from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    DirectoryError,
    ExpiredError,
    IdentityError,
    InvalidNodeIdError,
    InvalidPemError,
    InvalidRequestError,
    KeyMismatchError,
    KeyType,
    MissingHostError,
    NotFoundError,
    TLSConfig,
    UntrustedError,
    load_or_generate_tls,
)
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.trust import allows

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
P256 = KeyType.P256


def start(directory: Path, node_id: str = "node-1", **options: Any) -> TLSConfig:
    return load_or_generate_tls(node_id, directory, **({"key_type": P256} | options))


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


def without_ca_key(directory: Path) -> Path:
    (directory / "ca-key.pem").unlink()
    return directory


def test_s2_s3_the_first_start_creates_a_ca_and_an_identity(directory: Path) -> None:
    tls = load_or_generate_tls("node-1", directory)
    assert {path.name for path in directory.iterdir()} == {
        ".lock",
        ".reserve",
        "audit.jsonl",
        "ca-cert.pem",
        "ca-key.pem",
        "issued.json",
        "node-1-cert.pem",
        "node-1-key.pem",
    }
    assert tls.bundle.certificates[0].public_key().key_size == 4096  # type: ignore[union-attr]  # RSA by default
    assert tls.certificate.public_key().key_size == 2048  # type: ignore[union-attr]  # RSA by default
    assert tls.bundle.verify(tls.chain, "server") == tls.identity


def test_s3_the_second_start_loads_the_same_files_and_writes_nothing(directory: Path) -> None:
    first = start(directory)
    before = snapshot(directory)
    assert start(directory) == first
    assert snapshot(directory) == before


def test_nodes_of_one_directory_trust_each_other(directory: Path) -> None:
    one, two = start(directory, "node-1"), start(directory, "node-2")
    assert one.trust_bundle == two.trust_bundle
    assert one.bundle.verify(two.chain, "client").node_id == "node-2"


def test_certificates_of_a_go_node_load(
    directory: Path, go_node: Callable[..., Any], make_certificate: Callable[..., Any]
) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    root = make_certificate("Go CA", ca=True)
    leaf = go_node("node-1", root, key=rsa.generate_private_key(65537, 2048))
    directory.mkdir()
    (directory / "ca-cert.pem").write_bytes(root.pem)
    (directory / "node-1-cert.pem").write_bytes(leaf.pem)
    (directory / "node-1-key.pem").write_bytes(leaf.traditional_key_pem)
    tls = start(directory)
    assert tls.private_key.startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert (tls.node_id, tls.trust_domain) == ("node-1", None)


def test_the_renewal_of_a_go_nodes_certificate_drops_localhost(
    directory: Path, go_node: Callable[..., Any], make_certificate: Callable[..., Any]
) -> None:
    root = make_certificate("Go CA", ca=True, end=NOW + 400 * DAY)
    leaf = go_node("node-1", root, end=NOW + dt.timedelta(minutes=1))
    directory.mkdir()
    for name, data in {
        "ca-cert": root.pem,
        "ca-key": root.traditional_key_pem,
        "node-1-cert": leaf.pem,
        "node-1-key": leaf.traditional_key_pem,
    }.items():
        (directory / f"{name}.pem").write_bytes(data)
    names = alternative_names(start(directory).certificate)
    assert (names.dns, names.ips) == (("node-1",), ())


@pytest.mark.parametrize("age", [61, 89, 91, 300])
def test_a_due_or_expired_leaf_is_renewed_if_the_ca_key_is_available(
    directory: Path, age: int
) -> None:
    old = start(directory, at=NOW - age * DAY)
    new = start(directory)
    assert new.not_after > NOW + 60 * DAY
    assert new.private_key != old.private_key
    assert start(directory) == new


def test_a_leaf_with_a_third_of_its_life_left_is_kept(directory: Path) -> None:
    old = start(directory, at=NOW - 59 * DAY)
    assert start(directory) == old


def test_a_renewal_keeps_hosts_usage_key_type_and_life(directory: Path) -> None:
    ca = CertificateAuthority.create(directory, key_type=P256, at=NOW - 10 * DAY)
    old = ca.issue(
        "node-1",
        hosts=["api.example", "www.example"],
        address="10.0.0.1:1",
        days=7,
        key_type=KeyType.P384,
        client_only=True,
        at=NOW - 6 * DAY,
    )
    new = load_or_generate_tls("node-1", directory)
    assert new != old
    assert alternative_names(new.certificate) == alternative_names(old.certificate)
    assert new.certificate.public_key().key_size == 384  # type: ignore[union-attr]  # an EC key was requested
    assert not allows(new.certificate, "server")
    assert NOW + 7 * DAY <= new.not_after <= NOW + 7 * DAY + dt.timedelta(minutes=1)


def test_a_requested_host_is_added_if_the_ca_key_is_available(directory: Path) -> None:
    first = start(directory, hosts=["one.example"])
    second = start(directory, hosts=["two.example"], address="127.0.0.1:7000")
    assert set(alternative_names(second.certificate).dns) == {
        "node-1",
        "one.example",
        "two.example",
    }
    assert alternative_names(second.certificate).ips == (ipaddress.ip_address("127.0.0.1"),)
    assert first != second
    assert start(directory, hosts=["one.example"], address="127.0.0.1:7001") == second


def test_a_host_that_cannot_be_added_is_an_error_but_an_own_ip_is_not(directory: Path) -> None:
    old = start(directory)
    without_ca_key(directory)
    with pytest.raises(MissingHostError) as caught:
        start(directory, hosts=["api.example"])
    assert caught.value.host == "api.example"
    assert start(directory, address="127.0.0.1:7000") == old


def test_without_the_ca_key_a_missing_identity_says_how_to_get_it(directory: Path) -> None:
    start(directory)
    before = snapshot(without_ca_key(directory))
    with pytest.raises(NotFoundError, match="aegis-certs issue node-2"):
        start(directory, "node-2")
    assert snapshot(directory) == before


def test_without_the_ca_key_an_expired_leaf_is_an_error(directory: Path) -> None:
    old = start(directory, at=NOW - 100 * DAY)
    with pytest.raises(ExpiredError) as caught:
        start(without_ca_key(directory))
    assert caught.value.subject == "node-1"
    assert caught.value.not_after == old.not_after


def test_without_the_ca_key_a_leaf_near_its_end_is_a_warning(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = start(directory, at=NOW - 80 * DAY)
    with caplog.at_level(logging.WARNING, "aegis_certs"):
        assert start(without_ca_key(directory)) == old
    assert "node-1" in caplog.text
    assert f"{old.not_after:%Y-%m-%d}" in caplog.text


def test_an_expired_ca_is_an_error_that_names_it(directory: Path) -> None:
    start(directory, at=NOW - 366 * DAY)
    with pytest.raises(ExpiredError, match="the CA Aegis CA"):
        start(directory, "node-2")
    with pytest.raises(ExpiredError, match=r"could not be renewed: .*the CA Aegis CA"):
        start(directory, "node-1")


def test_a_leaf_that_ends_with_its_ca_is_not_renewed(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = CertificateAuthority.create(directory, key_type=P256, days=30, at=NOW - 25 * DAY)
    old = ca.issue("node-1", key_type=P256, at=NOW - 25 * DAY)
    assert old.not_after == ca.certificate.not_valid_after_utc
    with caplog.at_level(logging.WARNING, "aegis_certs"):
        assert start(directory) == old
    assert "expiring" in caplog.text
    assert "rotate-ca prepare" in caplog.text
    with pytest.raises(ExpiredError, match="rotate-ca prepare"):
        load_or_generate_tls("node-1", directory, at=NOW + 6 * DAY)


def test_the_files_of_another_node_are_refused(directory: Path) -> None:
    start(directory, "node-2")
    for kind in ("cert", "key"):
        shutil.copy(directory / f"node-2-{kind}.pem", directory / f"node-1-{kind}.pem")
    with pytest.raises(IdentityError, match="certificate of node-2, not of node-1"):
        start(directory)


def test_a_leaf_of_another_ca_is_refused_and_not_replaced(directory: Path, tmp_path: Path) -> None:
    start(directory, "node-2")
    start(tmp_path / "other")
    for kind in ("cert", "key"):
        shutil.copy(tmp_path / f"other/node-1-{kind}.pem", directory)
    before = snapshot(directory)
    with pytest.raises(UntrustedError):
        start(directory)
    assert snapshot(directory) == before


def test_a_key_of_another_certificate_is_refused(directory: Path) -> None:
    start(directory, "node-1")
    start(directory, "node-2")
    shutil.copy(directory / "node-2-key.pem", directory / "node-1-key.pem")
    with pytest.raises(KeyMismatchError) as caught:
        start(directory)
    assert caught.value.certificate == directory / "node-1-cert.pem"


@pytest.mark.parametrize("kind", ["cert", "key"])
def test_half_an_identity_is_an_error(directory: Path, kind: str) -> None:
    start(directory)
    (directory / f"node-1-{kind}.pem").unlink()
    with pytest.raises(NotFoundError) as caught:
        start(directory)
    assert caught.value.place == directory / f"node-1-{kind}.pem"


def test_an_identity_without_a_ca_certificate_is_an_error(directory: Path) -> None:
    start(directory)
    (directory / "ca-cert.pem").unlink()
    with pytest.raises(NotFoundError, match="CA certificate"):
        start(without_ca_key(directory))


@pytest.mark.parametrize("name", ["ca-cert", "node-1-cert", "node-1-key"])
def test_a_broken_file_is_an_error_that_names_it(directory: Path, name: str) -> None:
    start(directory)
    path = directory / f"{name}.pem"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidPemError) as caught:
        start(directory)
    assert caught.value.source == path


def test_a_trust_domain_is_used_for_a_new_ca_and_then_checked(directory: Path) -> None:
    tls = start(directory, trust_domain="acme.example")
    assert tls.identity.spiffe_id == "spiffe://acme.example/node/node-1"
    assert start(directory) == tls
    assert start(directory, trust_domain="acme.example") == tls
    for node_id in ("node-1", "node-2"):
        with pytest.raises(IdentityError, match=r"acme\.example, not other"):
            start(directory, node_id, trust_domain="other")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"node_id": "../x"}, InvalidNodeIdError),
        ({"node_id": "localhost"}, InvalidNodeIdError),
        ({"hosts": ["*.example"]}, InvalidRequestError),
        ({"trust_domain": "Acme/x"}, InvalidRequestError),
        ({"trust_domain": ""}, InvalidRequestError),
        ({"key_type": "ed25519"}, InvalidRequestError),
    ],
)
def test_invalid_arguments_are_refused_before_any_file_is_created(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        start(tmp_path / "certs", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "certs").write_text("")
    with pytest.raises(DirectoryError):
        start(tmp_path / "certs")


def test_a_node_whose_host_is_another_node_is_refused(directory: Path) -> None:
    start(directory, "node-2")
    with pytest.raises(InvalidRequestError, match="id of another node"):
        start(directory, "node-1", hosts=["node-2"])
