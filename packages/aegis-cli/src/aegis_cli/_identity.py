"""The identity that a command connects with."""

from __future__ import annotations

from pathlib import Path

from aegis_certs import (
    CertificateAuthority,
    NotFoundError,
    TLSConfig,
    TLSOptions,
    load_tls,
    validate_node_id,
)

from aegis_cli.errors import NoIdentityError

NAME = "aegis-cli"
"""The id in a temporary identity, by which nodes recognize such callers."""

_LIFE = 1 / 24
"""Days that a temporary identity is valid: it is only for one command."""


def client_identity(cert_dir: str | Path, name: str | None) -> TLSConfig:
    """Loads the named identity of a directory, or else makes a temporary one.

    Raises:
        NoIdentityError: The identity does not exist, or there is no CA key to make one.
        aegis_certs.CertsError: A file cannot be used.
    """
    directory = Path(cert_dir)
    if name is not None:
        validate_node_id(name)
        if not (directory / f"{name}-cert.pem").exists():
            raise NoIdentityError(str(directory), f"there is no identity {name} in {directory}")
        return load_identity(directory, name)
    try:
        return temporary_identity(CertificateAuthority.load(cert_dir))
    except NotFoundError as error:
        problem = f"there is no {error.what} at {error.place}"
        raise NoIdentityError(str(cert_dir), problem) from error


def temporary_identity(ca: CertificateAuthority) -> TLSConfig:
    """Makes a client-only identity in memory; the CA only records that it issued it."""
    return ca.issue_in_memory(NAME, days=_LIFE, client_only=True)


def load_identity(cert_dir: Path, name: str) -> TLSConfig:
    """Loads an identity of a directory, and creates nothing there."""
    certificate, key = cert_dir / f"{name}-cert.pem", cert_dir / f"{name}-key.pem"
    return load_tls(
        TLSOptions(cert_file=certificate, key_file=key, ca_file=cert_dir / "ca-cert.pem")
    )
