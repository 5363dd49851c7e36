"""The identity that a node starts with, and the CA of a node that issues to its mesh."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from aegis_certs import (
    IdentitySource,
    NotFoundError,
    PassphraseError,
    TLSConfig,
    owner_of,
)

from aegis_core._node.options import NodeOptions
from aegis_core.errors import ConfigError, NoTLSConfigError

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority


async def load_identity(options: NodeOptions) -> tuple[IdentitySource, TLSConfig]:
    """Loads the identity of a node, or gets it for a token; returns also what keeps it fresh.

    Raises:
        NoTLSConfigError: The options name no identity.
        aegis_discovery.TokenError: The token cannot be used.
        aegis_discovery.EnrolmentError: No issuer gave a certificate.
        aegis_certs.CertsError: The identity cannot be loaded.
    """
    if options.token is None:
        source = _source_of(options)
        return source, await asyncio.to_thread(source.load)
    from aegis_discovery.enrolment import load_or_enroll  # most nodes have an identity

    identity, cancelled = owner_of(options.id), threading.Event()
    in_directory = None if options.cert_dir is None else _source_of(options)
    try:
        return await asyncio.to_thread(
            load_or_enroll,
            in_directory,
            identity,
            options.token,
            options.cert_dir,
            mesh=options.mesh,
            cancelled=cancelled,
        )
    finally:
        cancelled.set()  # its thread would go on asking after a stop


def load_authority(options: NodeOptions) -> CertificateAuthority | None:
    """Loads the CA of an issuer; None for any other node. It blocks.

    Raises:
        ConfigError: The CA's key is not there, or its passphrase is missing.
        aegis_certs.CertsError: The files cannot be used.
    """
    if not options.issuer:
        return None
    from aegis_certs import CertificateAuthority  # few nodes issue, and it is a large part

    directory = options.cert_dir
    assert directory is not None  # noqa: S101 - the options have checked it
    try:
        return CertificateAuthority.load(directory)
    except NotFoundError as error:
        raise ConfigError("issuer", f"an issuer needs the CA's key: {error}") from error
    except PassphraseError as error:
        raise ConfigError("issuer", f"the CA's key cannot be used: {error}") from error


def _source_of(options: NodeOptions) -> IdentitySource:
    if options.tls is not None:
        return IdentitySource.fixed(options.tls)
    if options.tls_options is not None:
        return IdentitySource.of(options.tls_options)
    if options.cert_dir is None:
        raise NoTLSConfigError
    address = options.advertise or options.address
    # A mistyped directory must not begin a second mesh, with a CA of its own.
    create_ca = not options.joins
    return IdentitySource.directory(
        owner_of(options.id), options.cert_dir, address=address, create_ca=create_ca
    )
