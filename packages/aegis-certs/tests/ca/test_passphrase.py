"""The passphrase of a CA's key has several sources, in one order."""

from __future__ import annotations

import codecs
import logging
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    CertsError,
    KeyType,
    NotFoundError,
    PassphraseError,
    load_or_generate_tls,
)
from aegis_certs._ca.passphrase import passphrase_or_default

P256 = KeyType.P256
COMMAND = Path(sysconfig.get_path("scripts")) / "aegis-certs"
SOURCES = ("file", "variable", "credential")


def secret_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def provide(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the passphrase `SOURCE` by a source."""
    value = source.upper().encode()
    if source == "file":
        monkeypatch.setenv("AEGIS_CA_PASSPHRASE_FILE", str(secret_file(tmp_path / "f", value)))
    elif source == "variable":
        monkeypatch.setenv("AEGIS_CA_PASSPHRASE", value.decode())
    else:
        secret_file(tmp_path / "aegis-ca-passphrase", value + b"\nmore\n")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))


@pytest.mark.parametrize("first", range(len(SOURCES)))
def test_the_first_source_in_the_order_counts(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert passphrase_or_default(None) is None
    for source in SOURCES[first:]:
        provide(source, tmp_path, monkeypatch)
    assert passphrase_or_default(None) == SOURCES[first].upper().encode()
    assert passphrase_or_default("given") == b"given"
    assert passphrase_or_default("") is None


@pytest.mark.parametrize("source", SOURCES)
def test_a_ca_is_made_and_used_with_the_passphrase_of_each_source(
    source: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        provide(source, tmp_path, patched)
        ca = CertificateAuthority.create(directory, key_type=P256)
        assert b"ENCRYPTED" in (directory / "ca-key.pem").read_bytes()
        assert load_or_generate_tls("node-1", directory, key_type=P256)
        assert CertificateAuthority.load(directory).name == ca.name
    with pytest.raises(PassphraseError, match="AEGIS_CA_PASSPHRASE_FILE"):
        CertificateAuthority.load(directory)
    assert CertificateAuthority.load(directory, passphrase=source.upper()).name == ca.name


def test_a_credentials_directory_without_ours_gives_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert passphrase_or_default(None) is None


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (None, NotFoundError, "check its name"),
        (b"", PassphraseError, "empty"),
        (b"\nsecret\n", PassphraseError, "empty"),
        (codecs.BOM_UTF8, PassphraseError, "empty"),
        ("secret".encode("utf-16"), PassphraseError, "UTF-8"),
        (b"x" * 1024, PassphraseError, "at most 1023"),
        (b"x\n" * (1 << 20), PassphraseError, "more than"),
    ],
)
def test_a_file_without_a_usable_passphrase_is_an_error_that_does_not_show_it(
    content: bytes | None,
    error: type[CertsError],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        secret_file(path, content)
    monkeypatch.setenv("AEGIS_CA_PASSPHRASE_FILE", str(path))
    monkeypatch.setenv("AEGIS_CA_PASSPHRASE", "another source does not hide it")
    with pytest.raises(error, match=reason) as caught:
        passphrase_or_default(None)
    assert "xxx" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o640, 0), (0o644, 1)])
def test_a_file_that_all_users_can_read_is_a_warning(
    mode: int,
    warned: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = secret_file(tmp_path / "secret", b"geheim\n", mode)
    monkeypatch.setenv("AEGIS_CA_PASSPHRASE_FILE", str(path))
    with caplog.at_level(logging.WARNING, "aegis_certs"):
        assert passphrase_or_default(None) == b"geheim"
    assert len(caplog.records) == warned
    assert "geheim" not in caplog.text


def test_a_command_warns_of_such_a_file_in_one_sentence(directory: Path, tmp_path: Path) -> None:
    path = secret_file(tmp_path / "secret", b"geheim\n", 0o644)
    settings = {**os.environ, "AEGIS_CERT_DIR": str(directory), "AEGIS_CA_PASSPHRASE_FILE": path}
    for arguments in (("init",), ("issue", "node-1")):
        command = [COMMAND, *arguments, "--key-type", "p256"]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
        assert done.stderr.startswith("Warning: all users can read the passphrase")
        assert done.stderr.count("\n") == 1
        assert "geheim" not in done.stderr + done.stdout
