"""The identity that a command connects with."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_certs import (
    CertsError,
    NotFoundError,
    RevocationList,
    TLSConfig,
    TLSOptions,
    load_tls,
    validate_node_id,
)

from aegis_cli.errors import NoIdentityError

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority

NAME = "aegis-cli"
"""The id in a temporary identity, by which nodes recognize such callers."""

_LIFE = timedelta(hours=1)
"""How long a temporary identity is valid; the commands of half that time share one."""

_FILE = ".aegis-cli.pem"


def client_identity(cert_dir: str | Path, name: str | None) -> TLSConfig:
    """Loads the named identity of a directory, or else a temporary one.

    Raises:
        NoIdentityError: The identity does not exist, or there is no CA key to make one.
        aegis_certs.CertsError: A file cannot be used.
    """
    directory = Path(cert_dir)
    if name is not None:
        validate_node_id(name)
        if not (directory / f"{name}-cert.pem").exists():
            problem = f"there is no identity {name} in {directory}"
            raise NoIdentityError(str(directory), problem, _present(directory))
        return load_identity(directory, name)

    def load_ca() -> CertificateAuthority:
        from aegis_certs import CertificateAuthority  # most commands use the identity that is there

        return CertificateAuthority.load(directory)

    try:
        return temporary_identity(directory, load_ca)
    except NotFoundError as error:
        problem = f"there is no {error.what} at {error.place}"
        raise NoIdentityError(str(cert_dir), problem, _present(directory)) from error


def _present(directory: Path) -> list[str]:
    """The identities of a directory."""
    end = "-key.pem"
    names = {path.name.removesuffix(end) for path in directory.glob(f"*{end}")}
    return sorted(name for name in names if (directory / f"{name}-cert.pem").exists())


def temporary_identity(directory: Path, load_ca: Callable[[], CertificateAuthority]) -> TLSConfig:
    """The client-only identity of earlier commands, or a new one if half of its life is over.

    It is kept beside the CA's key, which protects more than it does.
    """
    path = directory / _FILE
    try:
        found = _load(directory, path, path)
        revocations = directory / "crl.pem"
        if revocations.exists():
            RevocationList.from_pem(revocations.read_bytes(), found.bundle).check(
                found.certificate, found.chain[1:], subject=NAME
            )
        if found.node_id == NAME and found.not_after - datetime.now(UTC) > _LIFE / 2:
            return found
    except (CertsError, OSError):
        pass  # a new one is issued, or that fails with a better error
    made = load_ca().issue_in_memory(NAME, days=_LIFE / timedelta(days=1), client_only=True)
    with suppress(OSError):  # then the next command issues another one
        _write(path, made.private_key + made.certificate_chain)
    return made


def _write(path: Path, data: bytes) -> None:
    import tempfile  # loads slowly

    descriptor, temporary = tempfile.mkstemp(prefix=f"{_FILE}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:  # mkstemp has made it private
            file.write(data)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_identity(cert_dir: Path, name: str) -> TLSConfig:
    """Loads an identity of a directory, and creates nothing there."""
    return _load(cert_dir, cert_dir / f"{name}-cert.pem", cert_dir / f"{name}-key.pem")


def _load(cert_dir: Path, certificate: Path, key: Path) -> TLSConfig:
    return load_tls(
        TLSOptions(cert_file=certificate, key_file=key, ca_file=cert_dir / "ca-cert.pem")
    )
