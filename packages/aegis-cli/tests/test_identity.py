from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, InvalidNodeIdError, KeyType, UsageError
from aegis_cli._identity import NAME, client_identity
from aegis_cli.errors import NoIdentityError


@pytest.fixture
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of one test: the shared one has the temporary identities of other tests."""
    directory = tmp_path_factory.mktemp("certs") / "certs"
    yesterday = datetime.now(UTC) - timedelta(days=1)
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=yesterday)
    ca.issue("ops", key_type=KeyType.P256)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.pem")}


def recorded(directory: Path) -> int:
    return (directory / "audit.jsonl").read_text().count(f'"id":"{NAME}"')


def test_a_temporary_identity_is_client_only_private_and_valid_for_an_hour(certs: Path) -> None:
    before = contents(certs)
    tls = client_identity(str(certs), None)
    kept = contents(certs).keys() - before.keys()
    assert kept == {".aegis-cli.pem"}
    assert (certs / ".aegis-cli.pem").stat().st_mode & 0o777 == 0o600
    assert tls.node_id == NAME
    left = tls.not_after - datetime.now(UTC)
    assert timedelta(minutes=50) < left <= timedelta(hours=1)
    tls.bundle.verify(tls.chain, "client")
    with pytest.raises(UsageError):
        tls.bundle.verify(tls.chain, "server")


def test_the_commands_of_half_an_hour_share_a_temporary_identity(certs: Path) -> None:
    first = client_identity(str(certs), None)
    assert client_identity(str(certs), None) == first
    assert recorded(certs) == 1
    (certs / "ca-key.pem").rename(certs / "away")  # the second one does not need it
    assert client_identity(str(certs), None) == first
    (certs / "away").rename(certs / "ca-key.pem")
    earlier = datetime.now(UTC) - timedelta(minutes=31)
    old = CertificateAuthority.load(certs).issue_in_memory(
        NAME, days=1 / 24, client_only=True, at=earlier
    )
    (certs / ".aegis-cli.pem").write_bytes(old.private_key + old.certificate_chain)
    assert client_identity(str(certs), None).not_after > old.not_after
    assert recorded(certs) == 3


@pytest.mark.parametrize("kept", [b"", b"junk", None], ids=["empty", "junk", "other-ca"])
def test_a_temporary_identity_that_cannot_be_used_is_replaced(
    certs: Path, tmp_path: Path, kept: bytes | None
) -> None:
    if kept is None:
        other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
        tls = other.issue_in_memory(NAME, days=1 / 24, client_only=True)
        kept = tls.private_key + tls.certificate_chain
    (certs / ".aegis-cli.pem").write_bytes(kept)
    found = client_identity(str(certs), None)
    found.bundle.verify(found.chain, "client")
    assert client_identity(str(certs), None) == found


def test_a_temporary_identity_that_was_revoked_is_replaced(certs: Path) -> None:
    first = client_identity(str(certs), None)
    CertificateAuthority.load(certs).revoke(NAME)
    assert client_identity(str(certs), None) != first


def test_a_named_identity_is_loaded_and_none_is_made(certs: Path) -> None:
    before = contents(certs)
    assert client_identity(str(certs), "ops").node_id == "ops"
    assert contents(certs) == before


def test_a_missing_named_identity_is_not_made(certs: Path) -> None:
    with pytest.raises(NoIdentityError, match=r"no identity nobody.*--identity.*--cert-dir"):
        client_identity(str(certs), "nobody")
    assert not (certs / "nobody-cert.pem").exists()


def test_the_error_names_the_identities_that_a_directory_has(certs: Path, tmp_path: Path) -> None:
    for name in ("ca-cert.pem", "ops-cert.pem", "ops-key.pem"):
        (tmp_path / name).write_bytes((certs / name).read_bytes())
    for name in (None, "nobody"):
        with pytest.raises(NoIdentityError, match=r"\(it has ops\) with --identity NAME"):
            client_identity(str(tmp_path), name)


def test_a_name_cannot_be_a_path(certs: Path) -> None:
    with pytest.raises(InvalidNodeIdError):
        client_identity(str(certs), "../certs/ops")


@pytest.mark.parametrize("kept", [("ca-cert.pem",), ()])
def test_without_a_ca_key_the_error_names_both_options(
    certs: Path, tmp_path: Path, kept: tuple[str, ...]
) -> None:
    for name in kept:
        (tmp_path / name).write_bytes((certs / name).read_bytes())
    with pytest.raises(NoIdentityError, match=r"there is no CA.*--identity NAME.*--cert-dir DIR"):
        client_identity(str(tmp_path), None)
    assert len(list(tmp_path.iterdir())) == len(kept)
