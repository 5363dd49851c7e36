"""Bringing certificates of one's own: from files, or from environment variables."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509

from aegis_certs._store import files
from aegis_certs._time import utc_or_now
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.names import parse_host
from aegis_certs._x509.pem import KeyPair, parse_certificates
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.trust import RENEW_ADVICE
from aegis_certs._x509.validity import CertificateState, check_dates, state_by_dates
from aegis_certs.errors import (
    InvalidRequestError,
    KeyMismatchError,
    MissingHostError,
    NotFoundError,
)

logger = logging.getLogger("aegis_certs")


class CertificateSource(StrEnum):
    """Where certificates come from."""

    FILE = "file"
    ENV = "env"


@dataclass(frozen=True, kw_only=True)
class TLSOptions:
    """Where to find an identity that was made elsewhere, and how strictly to check it.

    Attributes:
        source: Files, or environment variables that hold PEM text.
        cert_file: The leaf, then the intermediates.
        key_file: The leaf's key, without a passphrase.
        ca_file: The CAs that peers are checked against.
        cert_env: The variable that holds what `cert_file` would.
        key_env: The variable that holds what `key_file` would.
        ca_env: The variable that holds what `ca_file` would.
        verify_chain: Check that the leaf chains to one of the CAs. Peers check it in any case.
        allow_expired: Load an expired certificate, with a warning. The chain is checked
            nevertheless, as of a moment when all of it was valid.
        required_sans: Hosts that the leaf must have: DNS names and IP addresses.
    """

    source: CertificateSource = CertificateSource.FILE
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    ca_file: str | Path | None = None
    cert_env: str = "AEGIS_TLS_CERT"
    key_env: str = "AEGIS_TLS_KEY"
    ca_env: str = "AEGIS_TLS_CA"
    verify_chain: bool = True
    allow_expired: bool = False
    required_sans: tuple[str, ...] = ()


def load_tls(options: TLSOptions, *, at: datetime | None = None) -> TLSConfig:
    """Loads an identity that was made elsewhere, and checks it.

    Args:
        options: Where it is, and how strictly to check it.
        at: The moment of the check; now where none is given.

    Raises:
        InvalidRequestError: The options name no file.
        NotFoundError: A file or variable is missing.
        DirectoryError: A file cannot be read.
        InvalidPemError: Something in them is no certificate or key.
        VerificationError: Key and certificate do not belong together, the chain leads to no
            CA of the bundle, a date is wrong, a required host is missing, or the certificate
            does not name one node.
    """
    if options.source is CertificateSource.ENV:
        chain, chain_source = _from_environment(options.cert_env)
        key, key_source = _from_environment(options.key_env)
        bundle, bundle_source = _from_environment(options.ca_env)
    else:
        chain, chain_source = _from_file("cert_file", options.cert_file)
        key, key_source = _from_file("key_file", options.key_file)
        bundle, bundle_source = _from_file("ca_file", options.ca_file)
    pair = KeyPair.parse(chain, key, chain_source, key_source)
    tls = make_tls(pair, parse_certificates(bundle, "trust bundle", bundle_source))
    if not pair.matches:
        raise KeyMismatchError(tls.node_id, chain_source, key_source)
    _check(tls, options, utc_or_now(at))
    return tls


def _check(tls: TLSConfig, options: TLSOptions, at: datetime) -> None:
    state = state_by_dates(tls.certificate, at)
    if options.allow_expired:
        at = min(at, _end_of_validity(tls))
    if options.verify_chain:
        tls.bundle.verify(tls.chain, None, at=at)
    else:
        check_dates(tls.certificate, at, tls.node_id, RENEW_ADVICE)
    warn_of_end(tls, state)
    alternatives = alternative_names(tls.certificate)
    for host in options.required_sans:
        if not alternatives.cover(parse_host(host)):
            raise MissingHostError(tls.node_id, host)


def warn_of_end(tls: TLSConfig, state: CertificateState) -> None:
    """Logs where a certificate that is used has expired, or soon will."""
    if state in (CertificateState.EXPIRING, CertificateState.EXPIRED):
        logger.warning(
            "the certificate of %s is %s (its end is %s); %s",
            tls.node_id,
            state,
            f"{tls.not_after:%Y-%m-%d %H:%M:%S} UTC",
            RENEW_ADVICE,
        )


def _end_of_validity(tls: TLSConfig) -> datetime:
    """The last moment at which the leaf and all CAs above it were valid."""
    end = tls.not_after
    below: x509.Certificate | None = tls.certificate
    for _ in range(len(tls.chain)):
        below = below and tls.bundle.issuer_of(below, tls.chain[1:])
        if below is not None:
            end = min(end, below.not_valid_after_utc)
    return end


def _from_file(option: str, path: str | Path | None) -> tuple[bytes, str]:
    if path is None:
        raise InvalidRequestError(option, path, "name a file, or take the environment as source")
    data = files.read(Path(path))
    if data is None:
        raise NotFoundError(f"file for {option}", path, "check the path in the TLS options")
    return data, str(path)


def _from_environment(name: str) -> tuple[bytes, str]:
    text = os.environ.get(name, "")
    if not text.strip():
        raise NotFoundError("value", f"${name}", "set the variable to the PEM text")
    # Files of variables often hold one line per variable, with the line ends written out.
    return text.replace("\\n", "\n").encode(), f"${name}"
