"""What is wrong with a certificate directory, or soon will be."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aegis_certs._ca.crl import read_revocations
from aegis_certs._ca.inventory import Inventory
from aegis_certs._ca.rotation_state import RotationPhase, phase_of
from aegis_certs._inspect.listing import CertificateInfo, list_certificates
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.names import CA_NAME
from aegis_certs._x509.pem import is_encrypted
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import CertificateState
from aegis_certs.errors import (
    CertsError,
    DirectoryError,
    ExpiredError,
    NotFoundError,
    NotYetValidError,
    RevokedError,
    VerificationError,
)

_SKEW = timedelta(minutes=5)
_LEFT = ("*.next.pem", files.UNFINISHED)

_Found = Iterator[tuple[str, str, CertsError | None]]  # level, text, error


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What: `permissions`, `clock`, `CA`, `certificates`, `keys`, `installs`,
            `inventory`, `revocations`, `rotation` or `expiry`.
        level: `ok`, `warning` or `problem`.
        text: What was found, and what to do about it.
        error: What it means to whoever uses the directory; None where all is well.
    """

    topic: str
    level: str
    text: str
    error: CertsError | None = None


def examine(directory: str | Path, *, at: datetime | None = None) -> tuple[Finding, ...]:
    """Looks at everything in a certificate directory.

    It changes nothing, but that an install that was cut short is finished, as by any start.

    Args:
        directory: The directory.
        at: The moment that counts as now; now where none is given.

    Raises:
        NotFoundError: There is no such directory.
    """
    now, store = utc_or_now(at), Store(directory)
    entries = list_certificates(directory, at=now)
    found: list[Finding] = []
    looks: dict[str, _Found] = {
        "installs": _installs(store),  # first: reading a key finishes what it finds
        "permissions": _permissions(store),
        "clock": _clock(store, entries, now),
        "CA": _ca(store, entries),
        "certificates": _certificates(entries),
        "keys": _keys(store),
        "inventory": _inventory(store),
        "revocations": _revocations(store, now),
        "rotation": _rotation(store),
        "expiry": _expiry(entries),
    }
    for topic, look in looks.items():
        try:
            found += [Finding(topic, level, text, error) for level, text, error in look]
        except CertsError as error:
            found.append(Finding(topic, "problem", str(error), error))
    return tuple(found)


def _permissions(store: Store) -> _Found:
    wrong = []
    for path, found in _entries(store):
        secret = path == store.directory or _is_secret(path, found.st_mode)
        if secret and stat.S_IMODE(found.st_mode) & 0o077:
            wrong.append(f"others can use {path}; run `chmod go-rwx {path}`")
        if found.st_uid not in (os.getuid(), 0) and os.getuid() != 0:
            wrong.append(f"{path} belongs to somebody else (uid {found.st_uid})")
    for text in wrong:
        yield "problem", text, DirectoryError(store.directory, text)
    if not wrong:
        yield "ok", "keys and directory are private", None


def _entries(store: Store) -> Iterator[tuple[Path, os.stat_result]]:
    """The directory and what is in it; what went away meanwhile, or leads nowhere, is left out."""
    names = files.names(store.directory)
    for path in (store.directory, *(store.directory / name for name in names)):
        if found := files.status(path):
            yield path, found


def _is_secret(path: Path, mode: int) -> bool:
    if path.name.endswith(("-key.pem", ".next.pem")):
        return True
    # A key that somebody copied here has whatever name it had. Those of others cannot be read.
    others_read = stat.S_ISREG(mode) and mode & 0o044
    return bool(others_read) and b"PRIVATE KEY-----" in (files.read(path) or b"")


def _clock(store: Store, entries: tuple[CertificateInfo, ...], at: datetime) -> _Found:
    times = (found.st_mtime for path, found in _entries(store) if path != store.directory)
    newest = max(times, default=0.0)
    written = datetime.fromtimestamp(newest, UTC)
    early = [e for e in entries if e.state is CertificateState.NOT_YET_VALID and e.not_before]
    if written - at > _SKEW:
        text = (
            f"files here are from {written:%Y-%m-%d %H:%M} UTC, which is yet to come; set the clock"
        )
        yield "problem", text, NotYetValidError(str(store.directory), written)
    for entry in early:
        if entry.not_before is not None:
            error = NotYetValidError(entry.id, entry.not_before)
            yield "problem", str(error), error
    if written - at <= _SKEW and not early:
        yield "ok", f"{at:%Y-%m-%d %H:%M} UTC, and nothing here is from later", None


def _ca(store: Store, entries: tuple[CertificateInfo, ...]) -> _Found:
    ca = next((entry for entry in entries if entry.id == CA_NAME), None)
    path = store.certificate_path(CA_NAME)
    if ca is None:
        error = NotFoundError("CA", path, "make one (`aegis-certs init`), or copy its certificate")
        yield "problem", str(error), error
        return
    if ca.state is CertificateState.UNREADABLE:
        raise DirectoryError(path, ca.problem)
    if ca.state is CertificateState.EXPIRED and ca.not_after:
        raise ExpiredError("the CA", ca.not_after, "make a new one")
    key = files.read(store.key_path(CA_NAME))
    if key is None:
        yield "ok", "its certificate is here; its key is elsewhere, so nothing is issued here", None
    elif is_encrypted(key):
        yield "ok", "its key is here, and has a passphrase", None
    else:
        store.pair(CA_NAME)
        yield "ok", "its key is here, without a passphrase", None


def _certificates(entries: tuple[CertificateInfo, ...]) -> _Found:
    placed = [entry for entry in entries if entry.path is not None and entry.id != CA_NAME]
    bad = 0
    for entry in placed:
        if entry.state is CertificateState.REVOKED:
            bad += 1
            text = f"{entry.problem or f'{entry.id} is revoked'}, or remove its files"
            yield "problem", text, RevokedError(entry.id, "see the list", datetime.now(UTC))
        elif entry.state in (CertificateState.UNTRUSTED, CertificateState.UNREADABLE):
            bad += 1
            yield "problem", f"{entry.id}: {entry.problem}", VerificationError(entry.problem)
    if not bad:
        text = f"all {len(placed)} lead to the trust bundle" if placed else "there is none yet"
        yield "ok", text, None


def _keys(store: Store) -> _Found:
    bad = 0
    for name in store.names():
        if not store.has_key(name):
            continue  # signed for a key that is elsewhere
        try:
            store.pair(name)
        except CertsError as error:
            bad += 1
            yield "problem", str(error), error
    if not bad:
        yield "ok", "every key belongs to the certificate beside it", None


def _installs(store: Store) -> _Found:
    left = [store.directory / name for kind in _LEFT for name in files.names(store.directory, kind)]
    for path in left:
        text = f"{path} was left by a crash; the next start or issue that may write tidies it up"
        yield "warning", text, None
    if not left:
        yield "ok", "none was cut short", None


def _inventory(store: Store) -> _Found:
    inventory = Inventory.load(store)
    if store.has_key(CA_NAME) and not files.exists(store.inventory_path):
        yield (
            "warning",
            f"there is no {store.inventory_path.name} yet; the next issue writes it",
            None,
        )
    else:
        yield "ok", f"certificates on record: {len(list(inventory))}", None


def _revocations(store: Store, at: datetime) -> _Found:
    chain = store.chain(CA_NAME)
    if chain is None or not files.exists(store.crl_path):
        yield "ok", "there is no revocation list", None
        return
    revocations = read_revocations(store, TrustBundle(chain), at)
    if revocations.is_stale(at):
        text = f"the list should have been replaced by {revocations.next_update:%Y-%m-%d}; "
        yield "warning", text + "run `aegis-certs renew` where the CA's key is", None
    else:
        end = f"{revocations.next_update:%Y-%m-%d}"
        yield "ok", f"{len(revocations)} revoked; the list is good until {end}", None


def _rotation(store: Store) -> _Found:
    phase = phase_of(store)
    if phase is RotationPhase.NONE:
        yield "ok", "none is under way", None
    else:
        step = "activate" if phase is RotationPhase.PREPARED else "retire"
        yield "warning", f"one is {phase}; the next step is `aegis-certs rotate-ca {step}`", None


def _expiry(entries: tuple[CertificateInfo, ...]) -> _Found:
    placed = [entry for entry in entries if entry.path is not None and entry.not_after]
    ended = [entry for entry in placed if entry.state is CertificateState.EXPIRED]
    for entry in ended:
        if entry.not_after is not None:
            error = ExpiredError(entry.id, entry.not_after, "renew or remove it")
            yield "problem", str(error), error
    late = [entry for entry in placed if entry.state is CertificateState.EXPIRING]
    if late:
        names = ", ".join(f"{entry.id} ({entry.days_left} days)" for entry in late)
        yield "warning", f"less than a third of their life is left: {names}; renew them", None
    rest = [entry for entry in placed if entry not in (*ended, *late)]
    if rest:
        first = min(rest, key=lambda entry: entry.not_after or datetime.max.replace(tzinfo=UTC))
        of_rest = "of the rest, " if ended or late else ""
        yield "ok", f"{of_rest}next is {first.id}, in {first.days_left} days", None
