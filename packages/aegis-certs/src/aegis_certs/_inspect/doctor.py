"""Finds the problems of a certificate directory, and those that it will have soon."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TypeGuard

from aegis_certs._ca.enrolment.tokens import TokenState, state_of
from aegis_certs._ca.inventory import Inventory, names_with_keys
from aegis_certs._ca.rotation_state import RotationPhase, phase_of
from aegis_certs._ca.view import CAView
from aegis_certs._inspect.evaluate import Evaluation, Trust, error_of, evaluate_directory
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.names import CA_NAME
from aegis_certs._x509.pem import is_encrypted
from aegis_certs._x509.validity import BACKDATE, NEW_CA_ADVICE, CertificateState
from aegis_certs.errors import (
    CertsError,
    DirectoryError,
    ExpiredError,
    NotFoundError,
    NotYetValidError,
    RevocationListError,
    UntrustedError,
    VerificationError,
)

_LEFT = ("*.next.pem", files.UNFINISHED)

_RENEW = "run `aegis-certs renew` where the CA's key is"
_CA_ADVICE = {
    RotationPhase.NONE: NEW_CA_ADVICE,
    RotationPhase.PREPARED: "run `aegis-certs rotate-ca activate` where the CA's key is",
    RotationPhase.ACTIVATED: f"{_RENEW}, and then `aegis-certs rotate-ca retire`",
}

_Findings = Iterator[tuple[str, str, CertsError | None]]  # level, text, error


@dataclass(frozen=True)
class Finding:
    """The result of one examination.

    Attributes:
        topic: What was examined: `permissions`, `clock`, `CA`, `certificates`, `keys`, `installs`,
            `inventory`, `revocations`, `rotation` or `expiry`.
        level: `ok`, `warning`, `problem`, or `skipped` if this user may not read what it is about,
            or if the problem of another topic hides it.
        text: What was found, and what to do about it.
        error: What a node that uses the directory would raise; None if there is no problem. One
            that is `skipped` has the error that the other topic reports.
    """

    topic: str
    level: str
    text: str
    error: CertsError | None = None


def examine(directory: str | Path, *, at: datetime | None = None) -> tuple[Finding, ...]:
    """Examines a certificate directory, by default for now.

    It changes nothing, except that it finishes an interrupted install, as each start of a node
    does.

    Raises:
        NotFoundError: There is no such directory.
    """
    now, store = utc_or_now(at), Store(directory)
    trust = Trust.load(store, now)
    found, _ = evaluate_directory(store, now, trust)
    findings: list[Finding] = []
    examinations: dict[str, _Findings] = {
        "installs": _installs(store),  # first: reading a key finishes an interrupted install
        "permissions": _permissions(store),
        "clock": _clock(store, found, now),
        "CA": _ca(store, found, trust),
        "certificates": _certificates(store, found, trust),
        "keys": _keys(store),
        "inventory": _inventory(store, trust, now),
        "revocations": _revocations(store, trust, now),
        "rotation": _rotation(store),
        "expiry": _expiry(store, found),
    }
    for topic, results in examinations.items():
        try:
            findings += [Finding(topic, level, text, error) for level, text, error in results]
        except CertsError as error:
            first = next((one.topic for one in findings if str(one.error) == str(error)), None)
            if first is not None:
                findings.append(Finding(topic, "skipped", f"not examined: see {first}", error))
                continue
            found_one = _problems([(str(error), error)], "")
            findings += [Finding(topic, level, text, cause) for level, text, cause in found_one]
    return tuple(findings)


def _permissions(store: Store) -> _Findings:
    wrong, owners = [], {0}
    for path, status in _paths(store):
        mode = stat.S_IMODE(status.st_mode)
        if path == store.directory:
            owners.add(status.st_uid)
            if mode & 0o022:
                wrong.append(f"others can write to {path}; run `chmod go-w {path}`")
            elif mode & 0o005:
                yield "warning", f"all users can read {path}; run `chmod o-rwx {path}`", None
        elif mode & 0o077 and _is_secret(path, status.st_mode):
            wrong.append(f"others can use {path}; run `chmod go-rwx {path}`")
        if status.st_uid not in owners:
            owner = f"another user (uid {status.st_uid}) than its directory"
            wrong.append(f"{path} belongs to {owner}; run `chown`")
    problems = [(text, DirectoryError(store.directory, text)) for text in wrong]
    yield from _problems(problems, "keys are private, and only their owner can write here")


def _problems(found: Sequence[tuple[str, CertsError]], ok: str) -> _Findings:
    """A finding for each problem, and one for all that this user may not examine."""
    denied = [error.path for _, error in found if _is_denied(error)]
    for text, error in found:
        if not _is_denied(error):
            yield "problem", text, error
    if denied:
        more = f" and {len(denied) - 1} more" if denied[1:] else ""
        yield "skipped", f"not examined: this user may not read {denied[0]}{more}", None
    if not found:
        yield "ok", ok, None


def _is_denied(error: CertsError) -> TypeGuard[DirectoryError]:
    return files.is_denied(error)


def _paths(store: Store) -> Iterator[tuple[Path, os.stat_result]]:
    """The directory and its files, without files removed meanwhile and broken links."""
    names = files.names(store.directory)
    for path in (store.directory, *(store.directory / name for name in names)):
        if status := files.status(path):
            yield path, status


def _is_secret(path: Path, mode: int) -> bool:
    if path.name.endswith(("-key.pem", ".next.pem")):
        return True
    # A key that was copied here may have any name. Only a file that others can read is a risk.
    if not stat.S_ISREG(mode) or not mode & 0o044:
        return False
    try:
        return b"PRIVATE KEY-----" in (files.read(path) or b"")
    except DirectoryError:
        return False  # this user is not among those who can read it


def _clock(store: Store, found: Sequence[Evaluation], at: datetime) -> _Findings:
    times = (status.st_mtime for path, status in _paths(store) if path != store.directory)
    written = datetime.fromtimestamp(max(times, default=0.0), UTC)
    problems = []
    if written - at > BACKDATE:
        text = f"files here were written at {written:%Y-%m-%d %H:%M} UTC, in the future"
        early = NotYetValidError(str(store.directory), written)
        problems.append((f"{text}; set the clock", early))
    future = [
        NotYetValidError(info.id, info.not_before)
        for info in (one.info for one in found)
        if info.state is CertificateState.NOT_YET_VALID and info.not_before
    ]
    if future:  # one line: a clock that is wrong makes all of them so
        last = max(future, key=lambda error: error.not_before)
        more = f"; {len(future) - 1} more are not valid yet" if future[1:] else ""
        problems.append((f"{last}{more}", last))
    yield from _problems(problems, f"{at:%Y-%m-%d %H:%M} UTC, and nothing here is from the future")


def _ca(store: Store, found: Sequence[Evaluation], trust: Trust) -> _Findings:
    if trust.bundle_error is not None:
        raise trust.bundle_error
    ca = next((one.info for one in found if one.info.id == CA_NAME), None)
    path = store.certificate_path(CA_NAME)
    if ca is None:
        raise NotFoundError("CA", path, "make one (`aegis-certs init`), or copy its certificate")
    if ca.state is CertificateState.UNREADABLE:
        raise DirectoryError(path, ca.problem)
    if ca.state is CertificateState.EXPIRED and ca.not_after:
        raise ExpiredError("the CA", ca.not_after, _CA_ADVICE[phase_of(store)])
    key = files.read(store.key_path(CA_NAME))
    if key is None:
        text = "its certificate is here, and its key is not, so nothing can be issued here"
    elif is_encrypted(key):
        text = "its key is here, with a passphrase"
    else:
        store.pair(CA_NAME)
        text = "its key is here, without a passphrase"
    yield "ok", text, None


def _certificates(store: Store, found: Sequence[Evaluation], trust: Trust) -> _Findings:
    if trust.bundle_error is not None:
        raise trust.bundle_error  # without the CAs, each of them looks untrusted
    placed = [one for one in found if one.info.path is not None and one.info.id != CA_NAME]
    inventory = Inventory.load_readable(store)[0]
    problems: list[tuple[str, CertsError]] = []
    error: CertsError
    for one in placed:
        info = one.info
        remove = f"forget it (`aegis-certs remove {info.id}`)"
        if info.state is CertificateState.REVOKED and one.error:
            problems.append((f"{info.problem}, or {remove}", one.error))
        elif info.state is CertificateState.UNTRUSTED and inventory.get(info.serial):
            advice = f"issue a new one (`aegis-certs issue {info.id}`), or {remove}"
            retired = UntrustedError(info.id, f"its CA was retired; {advice}")
            problems.append((str(retired), retired))
        elif info.state in (CertificateState.UNTRUSTED, CertificateState.UNREADABLE):
            error = VerificationError(info.problem)
            if one.error is not None and _is_denied(one.error):
                error = one.error
            problems.append((f"{info.id}: {info.problem}", error))
    ok = f"all {len(placed)} lead to the trust bundle" if placed else "there is none yet"
    yield from _problems(problems, ok)


def _keys(store: Store) -> _Findings:
    names = names_with_keys(store, Inventory.load_readable(store)[0])
    errors = [error for name in names if (error := error_of(partial(store.pair, name)))]
    ok = "every key belongs to the certificate beside it"
    yield from _problems([(str(error), error) for error in errors], ok)


def _installs(store: Store) -> _Findings:
    left = [store.directory / name for kind in _LEFT for name in files.names(store.directory, kind)]
    for path in left:
        text = f"{path} was left by a crash; the next start or issue that may write removes it"
        yield "warning", text, None
    if not left:
        yield "ok", "none was interrupted", None


def _inventory(store: Store, trust: Trust, at: datetime) -> _Findings:
    inventory = Inventory.load(store)
    if store.has_key(CA_NAME) and not files.exists(store.inventory_path):
        text = f"there is no {store.inventory_path.name} yet; the next issue writes it"
        yield "warning", text, None
    else:
        view = CAView(store, at, trust.bundle) if trust.bundle else None
        states = [state_of(view, token) for token in inventory.tokens()] if view else []
        unused = states.count(TokenState.UNUSED)
        waiting = f", and tokens that wait for their machines: {unused}" if unused else ""
        yield "ok", f"certificates on record: {len(list(inventory))}{waiting}", None


def _revocations(store: Store, trust: Trust, at: datetime) -> _Findings:
    for error in (trust.bundle_error, trust.revocations_error):
        if error is not None:
            raise error
    if trust.has_unlisted:
        reason = (
            f"{store.audit_path.name} has revocations that it lacks, so nodes with a copy may "
            f"accept revoked certificates; run `aegis-certs renew` to sign it again, and copy it "
            f"to the nodes"
        )
        raise RevocationListError(store.crl_path, reason)
    end = f"{trust.revocations.next_update:%Y-%m-%d}" if trust.revocations.next_update else ""
    if trust.bundle is None or not files.exists(store.crl_path):
        yield "ok", "there is no revocation list", None
    elif trust.revocations.is_stale(at):
        text = f"the list should have been replaced by {end}"
        yield "warning", f"{text}; run `aegis-certs renew` where the CA's key is", None
    else:
        yield "ok", f"{len(trust.revocations)} revoked; the list is valid until {end}", None


def _rotation(store: Store) -> _Findings:
    phase = phase_of(store)
    if phase is RotationPhase.NONE:
        yield "ok", "none is under way", None
    else:
        step = "activate" if phase is RotationPhase.PREPARED else "retire"
        yield "warning", f"one is {phase}; the next step is `aegis-certs rotate-ca {step}`", None


def _expiry(store: Store, found: Sequence[Evaluation]) -> _Findings:
    placed = [one.info for one in found if one.info.path is not None]
    ca_end = next((info.not_after for info in placed if info.id == CA_NAME), None)
    ca_advice = _CA_ADVICE[phase_of(store)]
    late, rest, expired = [], [], False
    for info in placed:
        end = info.not_after
        if end is None or info.state in (CertificateState.REVOKED, CertificateState.UNTRUSTED):
            continue  # other topics report it, and it is not to be renewed
        is_ca = info.path == store.certificate_path(CA_NAME)
        advice = ca_advice if is_ca or end == ca_end else _RENEW
        if info.state is CertificateState.EXPIRED:
            if not is_ca:
                advice += f", or forget it (`aegis-certs remove {info.id}`)"
            expired, error = True, ExpiredError(info.id, end, advice)
            yield "problem", str(error), error
        elif info.state is CertificateState.EXPIRING:
            late.append((advice, f"{info.id} ({info.days_left} days)"))
        else:
            rest.append((end, info))
    for advice in dict.fromkeys(advice for advice, _ in late):
        names = ", ".join(name for its, name in late if its == advice)
        yield "warning", f"less than a third of the life is left: {names}; {advice}", None
    if rest:
        _, first = min(rest, key=itemgetter(0))
        of_rest = "of the rest, " if expired or late else ""
        yield "ok", f"{of_rest}next is {first.id}, in {first.days_left} days", None
