from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    CertificateSource,
    ExpiredError,
    IdentityError,
    InvalidPemError,
    InvalidRequestError,
    KeyMismatchError,
    KeyType,
    MissingHostError,
    NotFoundError,
    NotYetValidError,
    TLSConfig,
    TLSOptions,
    UntrustedError,
    load_tls,
)

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def authority(directory: Path) -> CertificateAuthority:
    return CertificateAuthority.create(directory, key_type=KeyType.P256, at=NOW - 200 * DAY)


def write(path: Path, tls: TLSConfig, **changes: bytes) -> TLSOptions:
    path.mkdir(exist_ok=True)
    parts = {"cert": tls.certificate_chain, "key": tls.private_key, "ca": tls.trust_bundle}
    for name, data in (parts | changes).items():
        (path / name).write_bytes(data)
    return TLSOptions(cert_file=path / "cert", key_file=path / "key", ca_file=str(path / "ca"))


def test_s4_files_from_elsewhere_load(authority: CertificateAuthority, tmp_path: Path) -> None:
    tls = authority.issue_in_memory("node-1")
    assert load_tls(write(tmp_path / "own", tls)) == tls


@pytest.mark.parametrize("line_end", ["\n", "\\n", "\r\n"])
def test_s4_environment_variables_from_elsewhere_load(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch, line_end: str
) -> None:
    tls = authority.issue_in_memory("node-1")
    parts = {"CERT": tls.certificate_chain, "KEY": tls.private_key, "CA": tls.trust_bundle}
    for name, data in parts.items():
        monkeypatch.setenv(f"AEGIS_TLS_{name}", data.decode().replace("\n", line_end))
    loaded = load_tls(TLSOptions(source=CertificateSource.ENV))
    assert loaded.identity == tls.identity
    assert loaded.chain == tls.chain


def test_the_variables_can_have_other_names(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = authority.issue_in_memory("node-1")
    monkeypatch.setenv("A", tls.certificate_chain.decode())
    monkeypatch.setenv("B", tls.private_key.decode())
    options = TLSOptions(source=CertificateSource.ENV, cert_env="A", key_env="B", ca_env="C")
    with pytest.raises(NotFoundError, match=r"\$C"):
        load_tls(options)
    monkeypatch.setenv("C", tls.trust_bundle.decode())
    assert load_tls(options) == tls


def test_go_keys_and_text_around_the_blocks_load(
    tmp_path: Path, go_node: Callable[..., Any], make_certificate: Callable[..., Any]
) -> None:
    root = make_certificate("Root", ca=True)
    leaf = go_node("node-1", root)
    (tmp_path / "cert").write_bytes(b"subject=node-1\n" + leaf.pem + leaf.traditional_key_pem)
    (tmp_path / "ca").write_bytes(b"# our root\n" + root.pem)
    tls = load_tls(
        TLSOptions(cert_file=tmp_path / "cert", key_file=tmp_path / "cert", ca_file=tmp_path / "ca")
    )
    assert tls.certificate_chain == leaf.pem
    assert tls.private_key.startswith(b"-----BEGIN EC PRIVATE KEY-----")
    assert b"subject" not in tls.certificate_chain


def test_a_missing_file_is_named(authority: CertificateAuthority, tmp_path: Path) -> None:
    options = write(tmp_path / "own", authority.issue_in_memory("node-1"))
    (tmp_path / "own/key").unlink()
    with pytest.raises(NotFoundError, match="key_file") as caught:
        load_tls(options)
    assert caught.value.place == tmp_path / "own/key"
    with pytest.raises(InvalidRequestError, match="cert_file"):
        load_tls(TLSOptions())


def test_a_key_of_another_certificate_is_refused(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    other = authority.issue_in_memory("node-2")
    options = write(tmp_path / "own", authority.issue_in_memory("node-1"), key=other.private_key)
    with pytest.raises(KeyMismatchError):
        load_tls(options)


def test_a_chain_that_leads_to_no_ca_is_refused_unless_the_check_is_off(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    tls = authority.issue_in_memory("node-1")
    options = write(tmp_path / "own", tls, ca=other.bundle.pem)
    with pytest.raises(UntrustedError):
        load_tls(options)
    unchecked = TLSOptions(
        cert_file=options.cert_file,
        key_file=options.key_file,
        ca_file=options.ca_file,
        verify_chain=False,
    )
    assert load_tls(unchecked).node_id == "node-1"


def changed(options: TLSOptions, **changes: Any) -> TLSOptions:
    return TLSOptions(**(vars(options) | changes))


@pytest.mark.parametrize("verify_chain", [True, False])
def test_an_expired_certificate_never_loads_silently(
    authority: CertificateAuthority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    verify_chain: bool,
) -> None:
    tls = authority.issue_in_memory("node-1", at=NOW - 100 * DAY)
    options = changed(write(tmp_path / "own", tls), verify_chain=verify_chain)
    with pytest.raises(ExpiredError) as caught:
        load_tls(options)
    assert caught.value.not_after == tls.not_after
    with caplog.at_level(logging.WARNING, "aegis_certs"):
        assert load_tls(changed(options, allow_expired=True)) == tls
    assert "node-1 is expired" in caplog.text


def test_allowing_expiry_does_not_skip_the_chain_check(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    other = CertificateAuthority.create(
        tmp_path / "other", key_type=KeyType.P256, at=NOW - 200 * DAY
    )
    tls = authority.issue_in_memory("node-1", at=NOW - 100 * DAY)
    options = changed(write(tmp_path / "own", tls, ca=other.bundle.pem), allow_expired=True)
    with pytest.raises(UntrustedError):
        load_tls(options)


def test_allowing_expiry_covers_a_ca_that_expired_first(
    tmp_path: Path, go_node: Callable[..., Any], make_certificate: Callable[..., Any]
) -> None:
    root = make_certificate("Root", ca=True, start=NOW - 9 * DAY, end=NOW - 2 * DAY)
    leaf = go_node("node-1", root, start=NOW - 8 * DAY, end=NOW - DAY)
    tls = TLSConfig("node-1", leaf.pem, leaf.key_pem, root.pem)
    options = write(tmp_path / "own", tls)
    with pytest.raises(ExpiredError):
        load_tls(options)
    assert load_tls(changed(options, allow_expired=True)).node_id == "node-1"


def test_allowing_expiry_does_not_allow_what_is_not_valid_yet(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    tls = authority.issue_in_memory("node-1", at=NOW + DAY)
    for verify_chain in (True, False):
        options = changed(
            write(tmp_path / "own", tls), allow_expired=True, verify_chain=verify_chain
        )
        with pytest.raises(NotYetValidError):
            load_tls(options)


def test_a_certificate_near_its_end_loads_with_a_warning(
    authority: CertificateAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = authority.issue_in_memory("node-1", at=NOW - 80 * DAY)
    with caplog.at_level(logging.WARNING, "aegis_certs"):
        assert load_tls(write(tmp_path / "own", tls)) == tls
    assert "node-1 is expiring" in caplog.text


def test_required_hosts_must_be_in_the_certificate(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    tls = authority.issue_in_memory("node-1", hosts=["api.example", "10.0.0.1"])
    options = write(tmp_path / "own", tls)
    assert load_tls(changed(options, required_sans=("node-1", "API.example", "10.0.0.1")))
    for host in ("other.example", "10.0.0.2", "localhost"):
        with pytest.raises(MissingHostError) as caught:
            load_tls(changed(options, required_sans=(host,)))
        assert caught.value.host == host


def test_a_certificate_that_names_no_node_is_refused(
    tmp_path: Path, make_certificate: Callable[..., Any]
) -> None:
    root = make_certificate("Root", ca=True)
    leaf = make_certificate("Acme Web Server", issuer=root)
    tls = TLSConfig("?", leaf.pem, leaf.key_pem, root.pem)
    with pytest.raises(IdentityError, match="names no node"):
        load_tls(write(tmp_path / "own", tls))


def test_a_chain_with_an_intermediate_loads(
    tmp_path: Path, go_node: Callable[..., Any], make_certificate: Callable[..., Any]
) -> None:
    root = make_certificate("Root", ca=True)
    middle = make_certificate("Middle", ca=True, issuer=root)
    leaf = go_node("node-1", middle)
    tls = TLSConfig("node-1", leaf.pem + middle.pem, leaf.key_pem, root.pem)
    assert load_tls(write(tmp_path / "own", tls)) == tls
    with pytest.raises(UntrustedError, match="Middle"):
        load_tls(write(tmp_path / "own", tls, cert=leaf.pem))


@pytest.mark.parametrize("part", ["cert", "key", "ca"])
def test_a_broken_file_is_named(authority: CertificateAuthority, tmp_path: Path, part: str) -> None:
    options = write(tmp_path / "own", authority.issue_in_memory("node-1"), **{part: b"junk"})
    with pytest.raises(InvalidPemError, match=f"own/{part}"):
        load_tls(options)
