"""The facts of a certificate and the findings about it; list, show, verify and doctor are views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Self

from cryptography import x509

from aegis_certs._ca.inventory import Inventory
from aegis_certs._ca.issued import Enrolment, IssuedCertificate
from aegis_certs._ca.known_revocations import known_revocations
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.keys import describe_key, key_id
from aegis_certs._x509.names import CA_NAME, NEXT_CA_NAME, OLD_CA_NAME, validate_node_id
from aegis_certs._x509.pem import KeyPair, parse_certificates
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.trust import RENEW_ADVICE, USAGES, TrustBundle, Usage, allows, is_ca
from aegis_certs._x509.validity import (
    CertificateState,
    check_dates,
    common_name,
    days_until,
    state_between,
    state_by_dates,
)
from aegis_certs.errors import (
    CertsError,
    DirectoryError,
    ExpiredError,
    IdentityError,
    InvalidNodeIdError,
    NotFoundError,
    NotYetValidError,
    UntrustedError,
)

_USABLE = (CertificateState.VALID, CertificateState.EXPIRING)


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """One certificate.

    Attributes:
        id: The node id; `ca`, `ca_next` or `ca_old`; the common name of a further CA.
        path: Its file; None if it is not in the directory.
        state: Its state.
        problem: Why it is untrusted, revoked or unreadable; empty otherwise.
        serial: Its serial number in hexadecimal. This field and the following ones are empty or
            None if the file cannot be read.
        key: The kind of its key, as in `KeyType`.
        sans: Its subject alternative names: DNS names, IP addresses, URIs.
        not_before: Its start (UTC).
        not_after: Its end (UTC).
        days_left: Whole days until its end, or since its end as a negative number.
        through: The node id of the issuer that gave it; empty if a command issued or signed it.
        enrolled: How its node enrolled; None if it did not.
    """

    id: str
    path: Path | None
    state: CertificateState
    problem: str = ""
    serial: str = ""
    key: str = ""
    sans: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    days_left: int | None = None
    through: str = ""
    enrolled: Enrolment | None = None


@dataclass(frozen=True)
class Trust:
    """What a certificate directory trusts.

    Attributes:
        bundle: The trust bundle; None if there is none, or it cannot be read.
        bundle_error: Why the trust bundle cannot be read.
        revocations: What `crl.pem` and the audit log revoke.
        revocations_error: Why `crl.pem` cannot be used.
        has_unlisted: The audit log has revocations that `crl.pem` lacks.
    """

    bundle: TrustBundle | None = None
    bundle_error: CertsError | None = None
    revocations: RevocationList = field(default_factory=RevocationList.empty)
    revocations_error: CertsError | None = None
    has_unlisted: bool = False

    @classmethod
    def load(cls, store: Store, at: datetime) -> Self:
        try:
            chain = store.chain(CA_NAME)
        except CertsError as error:
            return cls(bundle_error=error)
        if chain is None:
            return cls()
        bundle = TrustBundle(chain)
        known = known_revocations(store, bundle, at)
        return cls(
            bundle,
            revocations=known.all,
            revocations_error=known.error,
            has_unlisted=bool(known.unlisted),
        )

    @cached_property
    def issuer_ids(self) -> set[str]:
        """The key ids of its CAs, as the inventory has them."""
        return {key_id(ca).hex() for ca in self.bundle.certificates} if self.bundle else set()


@dataclass(frozen=True)
class Evaluation:
    """What is known about one certificate at one moment.

    Attributes:
        info: Its facts and its state.
        chain: The certificate, then its intermediates; empty if its file is missing or unreadable.
        dates: Its state by its dates alone.
        usages: What it may be used for; nothing if it is a CA.
        error: Why a node would refuse it; None if it would not, or nothing but dates was checked.
        date_error: It, or a CA above it, is not valid at this moment.
        chain_error: It does not lead to a CA of the trust bundle, at any moment.
        revocation_error: It, or a CA above it, is revoked.
    """

    info: CertificateInfo
    chain: tuple[x509.Certificate, ...] = ()
    dates: CertificateState | None = None
    usages: tuple[Usage, ...] = ()
    error: CertsError | None = None
    date_error: CertsError | None = None
    chain_error: CertsError | None = None
    revocation_error: CertsError | None = None


def evaluate(
    chain: tuple[x509.Certificate, ...],
    at: datetime,
    trust: Trust | None = None,
    *,
    node_id: str | None = None,
    path: Path | None = None,
) -> Evaluation:
    """Evaluates a certificate, which is followed by its intermediates.

    Without `trust` only its dates are checked. With `node_id` it must identify this node.
    """
    certificate, name = chain[0], node_id or common_name(chain[0].subject)
    may_sign = is_ca(certificate)
    state = dates = state_by_dates(certificate, at)
    revoked = untrusted = chain_error = None
    date_error: CertsError | None = None
    if trust is not None:
        untrusted = error_of(lambda: _check_identity(chain, at, trust, node_id))
        revoked = error_of(lambda: trust.revocations.check(certificate, chain[1:], subject=name))
        if untrusted is not None or may_sign:
            chain_error = error_of(lambda: _check_chain(chain, at, trust))
    if isinstance(untrusted, ExpiredError | NotYetValidError):
        date_error = untrusted
    elif untrusted is not None:
        date_error = error_of(lambda: check_dates(certificate, at, name, RENEW_ADVICE))
    if revoked:
        state = CertificateState.REVOKED
    elif untrusted and state in _USABLE:
        state = CertificateState.UNTRUSTED
    error = revoked or untrusted
    names = alternative_names(certificate)
    info = CertificateInfo(
        id=name,
        path=path,
        state=state,
        problem=str(error or ""),
        serial=f"{certificate.serial_number:x}",
        key=describe_key(certificate.public_key()),
        sans=(*names.dns, *map(str, names.ips), *names.uris),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        days_left=days_until(certificate.not_valid_after_utc, at),
    )
    usages = () if may_sign else tuple(u for u in USAGES if allows(certificate, u))
    return Evaluation(info, chain, dates, usages, error, date_error, chain_error, revoked)


def evaluate_directory(
    store: Store, at: datetime, trust: Trust | None = None
) -> tuple[tuple[Evaluation, ...], DirectoryError | None]:
    """Evaluates each certificate that was issued or is in a directory, without reading keys.

    The order is that of `list_certificates`. If this user may not read the inventory, the
    certificates in the directory are evaluated, and the error is returned.

    Raises:
        NotFoundError: There is no such directory.
        InventoryError: A newer version of this package wrote the inventory.
    """
    if not files.is_directory(store.directory):
        advice = "make a CA with `aegis-certs init`, or name the directory that has one"
        raise NotFoundError("certificate directory", store.directory, advice)
    inventory, error = Inventory.load_readable(store)
    return tuple(_evaluations(store, inventory, trust or Trust.load(store, at), at)), error


def load_chain(target: str, store: Store) -> tuple[tuple[x509.Certificate, ...], Path]:
    """The certificates of a file or of a node in the directory, and where they are.

    Raises:
        NotFoundError: There is no such file or node.
        InvalidPemError: The file cannot be read.
    """
    if files.is_file(path := Path(target)):
        return parse_certificates(read_file(path), source=path), path
    path = store.certificate_path(target)
    advice = "name a file, a node id of the directory, or a server as HOST:PORT"
    if target != CA_NAME:
        try:
            validate_node_id(target)
        except InvalidNodeIdError as error:
            raise NotFoundError("file or node", target, advice) from error
    chain = store.chain(target)
    if chain is None:
        raise NotFoundError(f"certificate of {target}", path, advice)
    return chain, path


def read_file(path: Path) -> bytes:
    if (data := files.read(path)) is None:
        raise NotFoundError("file", path, "it was removed meanwhile")
    return data


def load_identity(store: Store, node_id: str) -> KeyPair:
    """The key and the chain of a node in the directory.

    Raises:
        NotFoundError: The directory has no such identity.
        CertsError: A file cannot be used.
    """
    if (pair := store.pair(validate_node_id(node_id))) is None:
        advice = f"issue one with `aegis-certs issue {node_id}`"
        raise NotFoundError(f"identity of {node_id}", store.certificate_path(node_id), advice)
    return pair


def error_of(check: Callable[[], object]) -> CertsError | None:
    """The error that a check raises."""
    try:
        check()
    except CertsError as error:
        return error
    return None


def _check_identity(
    chain: Sequence[x509.Certificate], at: datetime, trust: Trust, node_id: str | None
) -> None:
    """Raises if a node would refuse the chain for this node id."""
    if trust.bundle is None:
        subject = node_id or common_name(chain[0].subject)
        raise UntrustedError(subject, "the directory has no CA certificate that can be read")
    proved = trust.bundle.verify(chain, None, at=at).node_id
    if node_id not in (None, proved):
        raise IdentityError(f"it is the certificate of {proved}", proved)


def _check_chain(chain: Sequence[x509.Certificate], at: datetime, trust: Trust) -> None:
    """Raises if the chain does not lead to a CA of the bundle at any moment.

    A CA leads to itself: it neither serves nor calls, and identifies no node.
    """
    certificate = chain[0]
    if trust.bundle is None:
        _check_identity(chain, at, trust, None)
    elif not is_ca(certificate):
        trust.bundle.verify(chain, None, at=_closest_validity(chain, trust.bundle, at))
    elif certificate not in trust.bundle.certificates:
        reason = "this CA is not in the trust bundle"
        raise UntrustedError(common_name(certificate.subject), reason)


def _closest_validity(
    chain: Sequence[x509.Certificate], bundle: TrustBundle, at: datetime
) -> datetime:
    """The moment closest to the given one at which all certificates are valid, if there is one."""
    below: x509.Certificate | None = chain[0]
    starts, ends = [], []
    for _ in range(len(chain) + len(bundle.certificates)):
        if below is None:
            break
        starts.append(below.not_valid_before_utc)
        ends.append(below.not_valid_after_utc)
        below = None if below.subject == below.issuer else bundle.issuer_of(below, chain[1:])
    return max(min(at, *ends), *starts)


def _evaluations(
    store: Store, inventory: Inventory, trust: Trust, at: datetime
) -> Iterator[Evaluation]:
    yield from _cas(store, trust, at)
    recorded: dict[str, list[IssuedCertificate]] = {}
    for entry in inventory:
        recorded.setdefault(entry.id, []).append(entry)
    in_place = set(store.names())
    for name in sorted(in_place | recorded.keys()):
        entries, shown = recorded.get(name, []), ""
        if name in in_place:
            evaluation = _in_place(store, name, trust, at)
            shown = evaluation.info.serial
            yield _with_origin(evaluation, inventory.get(shown))
        for entry in reversed(entries):
            if entry.serial != shown:
                is_latest = entry is entries[-1]
                yield _with_origin(_recorded(entry, trust, at, is_latest=is_latest), entry)


def _with_origin(evaluation: Evaluation, entry: IssuedCertificate | None) -> Evaluation:
    """The evaluation with what only the inventory knows."""
    if entry is None or not (entry.through or entry.enrolled):
        return evaluation
    info = replace(evaluation.info, through=entry.through, enrolled=entry.enrolled)
    return replace(evaluation, info=info)


def _cas(store: Store, trust: Trust, at: datetime) -> Iterator[Evaluation]:
    path = store.certificate_path(CA_NAME)
    if trust.bundle_error:
        yield _unreadable(CA_NAME, path, trust.bundle_error)
    rotating = {
        chain[0]: name for name in (NEXT_CA_NAME, OLD_CA_NAME) if (chain := _chain(store, name))
    }
    for index, ca in enumerate(trust.bundle.certificates if trust.bundle else ()):
        found = evaluate((ca,), at, path=path)
        name = rotating.get(ca, found.info.id) if index else CA_NAME
        error = None if index else trust.revocations_error
        info = replace(found.info, id=name, problem=str(error or ""))
        yield replace(found, info=info, error=error)


def _chain(store: Store, name: str) -> tuple[x509.Certificate, ...] | None:
    try:
        return store.chain(name)
    except CertsError:
        return None


def _in_place(store: Store, name: str, trust: Trust, at: datetime) -> Evaluation:
    path = store.certificate_path(name)
    try:
        chain = store.chain(name)
        if chain is None:
            raise NotFoundError("certificate", path, "it was removed meanwhile")
    except CertsError as error:
        return _unreadable(name, path, error)
    return evaluate(chain, at, trust, node_id=name, path=path)


def _unreadable(name: str, path: Path, error: CertsError) -> Evaluation:
    info = CertificateInfo(name, path, CertificateState.UNREADABLE, str(error))
    return Evaluation(info, error=error)


def _recorded(
    entry: IssuedCertificate, trust: Trust, at: datetime, *, is_latest: bool
) -> Evaluation:
    """Evaluates a certificate that only the inventory has."""
    state = dates = state_between(entry.not_before, entry.not_after, at)
    if trust.revocations.has_serial(entry.serial):
        state = CertificateState.REVOKED
    elif state in _USABLE and entry.issuer not in trust.issuer_ids:
        state = CertificateState.UNTRUSTED  # its CA was retired
    elif state in _USABLE and not is_latest:
        state = CertificateState.REPLACED
    info = CertificateInfo(
        id=entry.id,
        path=None,
        state=state,
        serial=entry.serial,
        key=entry.key,
        sans=entry.sans,
        not_before=entry.not_before,
        not_after=entry.not_after,
        days_left=days_until(entry.not_after, at),
    )
    return Evaluation(info, dates=dates)
