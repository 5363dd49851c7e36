from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aegis_certs import InvalidNodeIdError, UsageError
from aegis_cli._identity import NAME, client_identity
from aegis_cli.errors import NoIdentityError


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.pem")}


def test_a_temporary_identity_is_client_only_valid_for_an_hour_and_in_memory(certs: Path) -> None:
    before = contents(certs)
    tls = client_identity(str(certs), None)
    assert contents(certs) == before
    assert all(tls.private_key not in file.read_bytes() for file in certs.iterdir())
    assert tls.node_id == NAME
    left = tls.not_after - datetime.now(UTC)
    assert timedelta(minutes=50) < left <= timedelta(hours=1)
    tls.bundle.verify(tls.chain, "client")
    with pytest.raises(UsageError):
        tls.bundle.verify(tls.chain, "server")


def test_a_named_identity_is_loaded_and_none_is_made(certs: Path) -> None:
    before = contents(certs)
    assert client_identity(str(certs), "ops").node_id == "ops"
    assert contents(certs) == before


def test_a_missing_named_identity_is_not_made(certs: Path) -> None:
    with pytest.raises(NoIdentityError, match=r"no identity nobody.*--identity.*--cert-dir"):
        client_identity(str(certs), "nobody")
    assert not (certs / "nobody-cert.pem").exists()


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
