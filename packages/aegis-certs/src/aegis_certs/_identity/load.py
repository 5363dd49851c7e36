"""Loading an identity from elsewhere: from files, or from environment variables."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509

from aegis_certs._identity.origin import Origin, StatKeys
from aegis_certs._store import files
from aegis_certs._store.directory import CRL_FILE
from aegis_certs._time import format_utc, utc_or_now
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
    """Where the PEM texts of an identity are."""

    FILE = "file"
    ENV = "env"


@dataclass(frozen=True, kw_only=True)
class TLSOptions:
    """Where an identity from elsewhere is, and how strictly to check it.

    Attributes:
        source: Files, or environment variables that contain PEM text.
        cert_file: The leaf, then the intermediates.
        key_file: The leaf's key, without a passphrase.
        ca_file: The CAs that peers are checked against.
        cert_env: The variable with the content of `cert_file`.
        key_env: The variable with the content of `key_file`.
        ca_env: The variable with the content of `ca_file`.
        verify_chain: Check that the leaf chains to one of the CAs. Peers always check it.
        allow_expired: Load an expired certificate, with a warning. The chain is still checked,
            as of a time when all its certificates were valid.
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


class ExternalOrigin(Origin):
    """Files that another program replaces, or environment variables."""

    def __init__(self, options: TLSOptions) -> None:
        self._options = options
        in_files = options.source is CertificateSource.FILE
        paths = (options.cert_file, options.key_file, options.ca_file)
        self._files = [Path(path) for path in paths if path is not None and in_files]
        if options.ca_file is not None and in_files:
            self.crl_path = Path(options.ca_file).parent / CRL_FILE

    def __repr__(self) -> str:
        return ", ".join(map(str, self._files)) or "environment"

    def stat_keys(self) -> StatKeys:
        return tuple(files.stat_key(file) for file in self._files)

    def load(self, at: datetime) -> TLSConfig:
        return load_tls(self._options, at=at)


def load_tls(options: TLSOptions, *, at: datetime | None = None) -> TLSConfig:
    """Loads an identity from elsewhere, and checks it.

    Args:
        options: Where it is, and how strictly to check it.
        at: The time of the check; now by default.

    Raises:
        InvalidRequestError: The options name no file.
        NotFoundError: A file or variable is missing.
        DirectoryError: A file cannot be read.
        InvalidPemError: The content is not a certificate or key.
        VerificationError: The key does not belong to the certificate, the chain leads to no CA of
            the bundle, the certificate is expired or not yet valid, a required host is missing,
            or the certificate does not name one node.
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
    _warn_if_expiring(tls, state)
    alternatives = alternative_names(tls.certificate)
    for host in options.required_sans:
        if not alternatives.cover(parse_host(host)):
            raise MissingHostError(tls.node_id, host)


def _warn_if_expiring(tls: TLSConfig, state: CertificateState) -> None:
    """Logs a warning if a certificate that is used has expired, or expires soon."""
    if state in (CertificateState.EXPIRING, CertificateState.EXPIRED):
        logger.warning(
            "the certificate of %s is %s (its end is %s); %s",
            tls.node_id,
            state,
            format_utc(tls.not_after),
            RENEW_ADVICE,
        )


def _end_of_validity(tls: TLSConfig) -> datetime:
    """The last time at which the leaf and all CAs above it were valid."""
    end = tls.not_after
    below: x509.Certificate | None = tls.certificate
    for _ in range(len(tls.chain)):
        below = below and tls.bundle.issuer_of(below, tls.chain[1:])
        if below is not None:
            end = min(end, below.not_valid_after_utc)
    return end


def _from_file(option: str, path: str | Path | None) -> tuple[bytes, str]:
    if path is None:
        raise InvalidRequestError(option, path, "name a file, or use the environment as the source")
    data = files.read(Path(path))
    if data is None:
        raise NotFoundError(f"file for {option}", path, "check the path in the TLS options")
    return data, str(path)


def _from_environment(name: str) -> tuple[bytes, str]:
    text = os.environ.get(name, "")
    if not text.strip():
        raise NotFoundError("value", f"${name}", "set the variable to the PEM text")
    # Environment files often have one line per variable, with line breaks written as \n.
    return text.replace("\\n", "\n").encode(), f"${name}"
