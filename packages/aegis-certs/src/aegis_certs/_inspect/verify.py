"""The checks of one certificate: which of them fail, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from aegis_certs._inspect.evaluate import Evaluation, Trust, error_of, evaluate, load_chain
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import format_utc, utc_or_now
from aegis_certs._x509.identity import alternative_names, identity_of
from aegis_certs._x509.names import CA_NAME, parse_host
from aegis_certs._x509.pem import KeyPair, is_encrypted, parse_private_key
from aegis_certs._x509.trust import Usage, is_ca
from aegis_certs._x509.validity import CertificateState, common_name
from aegis_certs.errors import (
    CertsError,
    DirectoryError,
    KeyMismatchError,
    MissingHostError,
    NotFoundError,
    RevocationListError,
    UsageError,
)


@dataclass(frozen=True)
class Check:
    """One check of a certificate.

    Attributes:
        name: What was checked: `dates`, `chain`, `usage`, `name`, `key` or `revocation`.
        error: Why it failed; None if it passed or was skipped.
        detail: What was found, or why it was skipped.
        done: It was not skipped.
    """

    name: str
    error: CertsError | None
    detail: str
    done: bool = True

    @property
    def passed(self) -> bool:
        return self.error is None

    @property
    def text(self) -> str:
        return str(self.error or self.detail)


def verify_target(
    target: str, directory: str, usage: Usage | None, host: str | None
) -> tuple[tuple[Check, ...], bool]:
    """Checks the certificate of a file or a node, and tells whether it expires soon.

    If a usage or a host is given, the certificate must be valid for it.

    Raises:
        NotFoundError: There is no such file or node, or no trust bundle.
        CertsError: One of them cannot be read.
    """
    store, now = Store(directory), utc_or_now(None)
    chain, path = load_chain(target, store)
    trust = Trust.load(store, now)
    if trust.bundle_error is not None:
        raise trust.bundle_error
    if trust.bundle is None:
        advice = "name the directory of its CA with --dir"
        raise NotFoundError("trust bundle", store.certificate_path(CA_NAME), advice)
    found = evaluate(chain, now, trust)
    end = format_utc(chain[0].not_valid_after_utc)
    checks = (
        Check("dates", found.date_error, f"{found.dates}, until {end}"),
        *(_ca_checks if is_ca(chain[0]) else _leaf_checks)(found, usage, host),
        _key_check(chain, path, is_pending=files.exists(store.pending_path(target))),
        _revocation_check(found, trust, now),
    )
    return checks, found.dates is CertificateState.EXPIRING


def _leaf_checks(found: Evaluation, usage: Usage | None, host: str | None) -> tuple[Check, ...]:
    leaf, name = found.chain[0], found.info.id
    trusted = f"it leads to a CA of the trust bundle, by {common_name(leaf.issuer)}"
    made_for = f"it is made for a {' and a '.join(found.usages)}" if found.usages else "for neither"
    wrong_usage = None if usage in (None, *found.usages) else UsageError(name, str(usage))
    named = f"it names {name}" + (f", and is valid for {host}" if host else "")
    return (
        Check("chain", found.chain_error, trusted),
        Check("usage", wrong_usage, made_for),
        Check("name", error_of(lambda: _check_host(leaf, host)), named),
    )


def _ca_checks(found: Evaluation, usage: Usage | None, host: str | None) -> tuple[Check, ...]:
    """The checks of a CA, which is for neither servers nor clients and valid for no host."""
    name = found.info.id
    wrong_usage = None if usage is None else UsageError(name, usage)
    wrong_host = None if host is None else MissingHostError(name, host)
    return (
        Check("chain", found.chain_error, "it is in the trust bundle"),
        Check("usage", wrong_usage, "it is a CA's", done=usage is not None),
        Check("name", wrong_host, "it is a CA's", done=host is not None),
    )


def _check_host(leaf: x509.Certificate, host: str | None) -> None:
    node_id = identity_of(leaf).node_id
    if host not in (None, node_id) and not alternative_names(leaf).cover(parse_host(str(host))):
        raise MissingHostError(node_id, str(host))


def _key_check(chain: tuple[x509.Certificate, ...], path: Path, *, is_pending: bool) -> Check:
    """The check of the key beside a certificate; a pending identity has both in one file."""
    key_path = path.with_name(path.name.replace("-cert.pem", "-key.pem"))
    try:
        data = None if is_pending or key_path == path else files.read(key_path)
    except DirectoryError as error:
        if not files.is_denied(error):
            raise
        return Check("key", None, "its key is here, and this user may not read it", done=False)
    if data is None:
        return Check("key", None, "its key is not here", done=False)
    if is_ca(chain[0]) and is_encrypted(data):
        return Check("key", None, "its key has a passphrase", done=False)
    try:
        pair = KeyPair(chain, *parse_private_key(data, source=key_path))
    except CertsError as error:
        return Check("key", error, "")
    name = common_name(chain[0].subject)
    mismatch = None if pair.matches else KeyMismatchError(name, path, key_path)
    return Check("key", mismatch, "it belongs to the certificate")


def _revocation_check(found: Evaluation, trust: Trust, at: datetime) -> Check:
    name, revocations = "revocation", trust.revocations
    if found.revocation_error is not None:
        return Check(name, found.revocation_error, "")
    if trust.revocations_error is not None:
        return Check(name, trust.revocations_error, "")
    if revocations.number is None:
        return Check(name, None, "there is no revocation list", done=False)
    ended = f"it ended at {revocations.next_update:%Y-%m-%d}"
    error = RevocationListError("crl.pem", ended) if revocations.is_stale(at) else None
    return Check(name, error, "it is not revoked")
