"""The checks of one certificate, each for itself: which of them fail, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from aegis_certs._time import utc_or_now
from aegis_certs._x509.identity import alternative_names, identity_of
from aegis_certs._x509.names import parse_host
from aegis_certs._x509.pem import KeyPair
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.trust import RENEW_ADVICE, TrustBundle, Usage, allows, is_ca
from aegis_certs._x509.validity import CertificateState, check_dates, common_name, state_by_dates
from aegis_certs.errors import (
    CertsError,
    ExpiredError,
    KeyMismatchError,
    MissingHostError,
    NotYetValidError,
    RevocationListError,
    UntrustedError,
    UsageError,
)


@dataclass(frozen=True)
class Check:
    """One check of a certificate.

    Attributes:
        name: What was checked: `dates`, `chain`, `usage`, `name`, `key` or `revocation`.
        error: Why it failed; None where it did not, or was left out.
        detail: What was found, or why it was left out.
        done: It was not left out.
    """

    name: str
    error: CertsError | None
    detail: str
    done: bool = True

    @property
    def passed(self) -> bool:
        """Tells whether nothing speaks against the certificate here."""
        return self.error is None


def check_certificate(
    chain: Sequence[x509.Certificate],
    bundle: TrustBundle,
    *,
    usage: Usage | None = None,
    host: str | None = None,
    key: Check | None = None,
    revocations: RevocationList | CertsError | None = None,
    at: datetime | None = None,
) -> tuple[Check, ...]:
    """Checks a certificate in every way, and goes on after a check that fails.

    Args:
        chain: The leaf, then the intermediates.
        bundle: The CAs that are trusted.
        usage: What it is to be used for; None takes any.
        host: A name that it must be valid for.
        key: The check of its key, where that is here; see `check_key`.
        revocations: What is revoked, or why that is not known.
        at: The moment of the check; now where none is given.
    """
    now = utc_or_now(at)
    leaf = chain[0]
    who = common_name(leaf.subject)
    state = state_by_dates(leaf, now)
    end = f"{leaf.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
    try:
        bundle.verify(chain, None, at=now)
        dates: CertsError | None = None
    except (ExpiredError, NotYetValidError) as error:
        dates = error
    except CertsError:
        dates = _error_of(lambda: check_dates(leaf, now, who, RENEW_ADVICE))
    of_chain = _ca_checks if is_ca(leaf) else _leaf_checks
    return (
        Check("dates", dates, f"{state}, until {end}"),
        *of_chain(chain, bundle, usage, host, now),
        key or Check("key", None, "its key is not here", done=False),
        _revocation_check(chain, who, revocations, now),
    )


def check_key(pair: KeyPair, certificate: Path, key: Path) -> Check:
    """The check of a key that is here; the paths are for the message."""
    who = common_name(pair.chain[0].subject)
    error = None if pair.matches else KeyMismatchError(who, certificate, key)
    return Check("key", error, "it belongs to the certificate")


def is_expiring(chain: Sequence[x509.Certificate], at: datetime | None = None) -> bool:
    """Tells whether less than a third of the leaf's life is left."""
    return state_by_dates(chain[0], utc_or_now(at)) is CertificateState.EXPIRING


def _leaf_checks(
    chain: Sequence[x509.Certificate],
    bundle: TrustBundle,
    usage: Usage | None,
    host: str | None,
    at: datetime,
) -> tuple[Check, ...]:
    leaf, who = chain[0], common_name(chain[0].subject)
    return (
        Check("chain", *_chain_check(chain, bundle, at)),
        Check("usage", *_usage_check(leaf, who, usage)),
        Check("name", *_name_check(leaf, who, host)),
    )


def _ca_checks(
    chain: Sequence[x509.Certificate],
    bundle: TrustBundle,
    usage: Usage | None,
    host: str | None,
    at: datetime,
) -> tuple[Check, ...]:
    """A CA is trusted where the bundle has it; it neither serves nor calls, and names nobody."""
    ca, who = chain[0], common_name(chain[0].subject)
    trusted = ca in bundle.certificates
    error = None if trusted else UntrustedError(who, "this CA is not in the trust bundle")
    wrong_usage = None if usage is None else UsageError(who, usage)
    wrong_name = None if host is None else MissingHostError(who, host)
    return (
        Check("chain", error, "it is in the trust bundle"),
        Check("usage", wrong_usage, "it is a CA's", done=usage is not None),
        Check("name", wrong_name, "it is a CA's", done=host is not None),
    )


def _error_of(check: Callable[[], object]) -> CertsError | None:
    try:
        check()
    except CertsError as error:
        return error
    return None


def _moment_of_validity(
    chain: Sequence[x509.Certificate], bundle: TrustBundle, at: datetime
) -> datetime:
    """The moment next to the given one at which all certificates were valid, where there is one."""
    below: x509.Certificate | None = chain[0]
    starts, ends = [], []
    for _ in range(len(chain) + len(bundle.certificates)):
        if below is None:
            break
        starts.append(below.not_valid_before_utc)
        ends.append(below.not_valid_after_utc)
        below = None if below.subject == below.issuer else bundle.issuer_of(below, chain[1:])
    return max(min(at, *ends), *starts)


def _chain_check(
    chain: Sequence[x509.Certificate], bundle: TrustBundle, at: datetime
) -> tuple[CertsError | None, str]:
    then = _moment_of_validity(chain, bundle, at)
    error = _error_of(lambda: bundle.verify(chain, None, at=then))
    issuer = common_name(chain[0].issuer)
    return error, f"it leads to a CA of the trust bundle, by {issuer}"


def _usage_check(
    leaf: x509.Certificate, who: str, usage: Usage | None
) -> tuple[CertsError | None, str]:
    usages: tuple[Usage, ...] = ("server", "client")
    granted = [one for one in usages if allows(leaf, one)]
    error = None if usage is None or usage in granted else UsageError(who, usage)
    return error, f"it is made for a {' and a '.join(granted)}" if granted else "for neither"


def _name_check(
    leaf: x509.Certificate, who: str, host: str | None
) -> tuple[CertsError | None, str]:
    def check() -> None:
        node_id = identity_of(leaf).node_id
        if host is None or host == node_id:
            return
        if not alternative_names(leaf).cover(parse_host(host)):
            raise MissingHostError(node_id, host)

    return _error_of(check), f"it names {who}" + (f", and is valid for {host}" if host else "")


def _revocation_check(
    chain: Sequence[x509.Certificate],
    who: str,
    revocations: RevocationList | CertsError | None,
    at: datetime,
) -> Check:
    name = "revocation"
    if isinstance(revocations, CertsError):
        return Check(name, revocations, "")
    if revocations is None or revocations.number is None:
        return Check(name, None, "there is no revocation list", done=False)
    error = _error_of(lambda: revocations.check(chain[0], chain[1:], subject=who))
    if error is None and revocations.is_stale(at):
        error = RevocationListError("crl.pem", f"it ended at {revocations.next_update:%Y-%m-%d}")
    return Check(name, error, "it is not revoked")
