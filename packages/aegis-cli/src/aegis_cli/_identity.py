"""With which identity a command asks a mesh."""

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
"""Whom an identity made on demand names, so that nodes can tell such callers."""

LIFE = 1 / 24
"""Days that an identity made on demand is valid: it is only for this command."""


def asking_identity(cert_dir: str, name: str | None) -> TLSConfig:
    """The identity to ask with: the one named, or else a client-only one made in memory.

    The directory gets no new files by it; the CA only keeps account of what it issued.

    Args:
        cert_dir: The certificate directory.
        name: Of an identity in it.

    Raises:
        NoIdentityError: If there is no such identity, or no CA key to make one.
        aegis_certs.CertsError: If what is there cannot be used.
    """
    if name is not None:
        return _named(Path(cert_dir), name)
    try:
        authority = CertificateAuthority.load(cert_dir)
    except NotFoundError as error:
        problem = f"there is no {error.what} at {error.place}"
        raise NoIdentityError(cert_dir, problem) from error
    return authority.issue_in_memory(NAME, days=LIFE, client_only=True)


def _named(cert_dir: Path, name: str) -> TLSConfig:
    validate_node_id(name)
    certificate, key = cert_dir / f"{name}-cert.pem", cert_dir / f"{name}-key.pem"
    if not certificate.exists():
        raise NoIdentityError(str(cert_dir), f"there is no identity {name} in {cert_dir}")
    return load_tls(
        TLSOptions(cert_file=certificate, key_file=key, ca_file=cert_dir / "ca-cert.pem")
    )
