"""What can go wrong with certificates.

CertsError
├── InvalidNodeIdError        the node id cannot be one: no lower-case DNS name, an IP, `localhost`
├── InvalidRequestError       what was asked for cannot be issued: host, days, name, usage
├── InvalidPemError           a certificate, key, request or CRL cannot be read
│   └── PassphraseError           a key is encrypted, and its passphrase missing or wrong
├── VerificationError         a certificate was read and must not be used
│   ├── ExpiredError              past its end; a CA's too
│   ├── NotYetValidError          before its start
│   ├── UntrustedError            no chain to a CA of the trust bundle
│   ├── UsageError                not made for servers, or not for clients
│   ├── KeyMismatchError          key and certificate do not belong together
│   ├── RevokedError              its CA revoked it, or a CA above it
│   ├── MissingHostError          a required host is not in it
│   └── IdentityError             it does not name one node, or not the expected one
├── RevocationListError       a CRL is not to be believed: signature, issuer, dates, older
├── InventoryError            the record of what was issued cannot be used
├── RotationError             the CA is not at the step of a rotation that was asked for
│   └── StillUsedError            nodes still need what the step would take from them
├── NotFoundError             a file, variable or CA is not there
├── AlreadyExistsError        a CA, request or foreign certificate is there and stays
└── DirectoryError            the certificate directory cannot be used as asked
    └── LockTimeoutError          another process holds its lock for too long
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = [
    "AlreadyExistsError",
    "CertsError",
    "DirectoryError",
    "ExpiredError",
    "IdentityError",
    "InvalidNodeIdError",
    "InvalidPemError",
    "InvalidRequestError",
    "InventoryError",
    "KeyMismatchError",
    "LockTimeoutError",
    "MissingHostError",
    "NotFoundError",
    "NotYetValidError",
    "PassphraseError",
    "RevocationListError",
    "RevokedError",
    "RotationError",
    "StillUsedError",
    "UntrustedError",
    "UsageError",
    "VerificationError",
]


class CertsError(Exception):
    """Root of all errors that aegis_certs raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is, not by its arguments: those of most errors are fields, out of which the
        # sentence is made. Pools of processes and task queues send errors from one to another.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # no stub has it


class InvalidNodeIdError(CertsError):
    """A node id that no certificate and no path may carry."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        self.reason = reason
        super().__init__(
            f"{node_id!r} cannot be a node id: {reason}; "
            f"use lower-case letters, digits, hyphens and dots, such as 'orders-1'"
        )


class InvalidRequestError(CertsError):
    """What was asked for cannot be issued."""

    def __init__(self, option: str, value: object, reason: str) -> None:
        self.option = option
        self.value = value
        super().__init__(f"{option} {value!r} cannot be used: {reason}")


class InvalidPemError(CertsError):
    """A certificate or private key cannot be read."""

    def __init__(self, what: str, reason: str, source: str | Path | None = None) -> None:
        self.what = what
        self.source = source
        place = f" in {source}" if source else ""
        super().__init__(f"the {what}{place} cannot be used: {reason}")


class PassphraseError(InvalidPemError):
    """A private key is encrypted, and its passphrase is missing or wrong."""


class VerificationError(CertsError):
    """A certificate was read, but must not be used; subclasses say which check failed."""


class ExpiredError(VerificationError):
    """A certificate is past its end.

    Attributes:
        subject: Whose certificate: a node id, or a CA's name.
        not_after: Its end (UTC).
    """

    def __init__(self, subject: str, not_after: datetime, advice: str) -> None:
        self.subject = subject
        self.not_after = not_after
        super().__init__(
            f"the certificate of {subject} expired at {not_after:%Y-%m-%d %H:%M:%S} UTC; {advice}"
        )


class NotYetValidError(VerificationError):
    """A certificate is not valid yet; mostly a clock that is wrong."""

    def __init__(self, subject: str, not_before: datetime) -> None:
        self.subject = subject
        self.not_before = not_before
        super().__init__(
            f"the certificate of {subject} is not valid before "
            f"{not_before:%Y-%m-%d %H:%M:%S} UTC; check this machine's clock"
        )


class UntrustedError(VerificationError):
    """No chain leads from the certificate to a CA of the trust bundle."""

    def __init__(self, subject: str, reason: str) -> None:
        self.subject = subject
        self.reason = reason
        super().__init__(f"the certificate of {subject} is not trusted: {reason}")


class UsageError(VerificationError):
    """A certificate is used for what it was not made for."""

    def __init__(self, subject: str, usage: str) -> None:
        self.subject = subject
        self.usage = usage
        super().__init__(
            f"the certificate of {subject} is not made for a {usage}; "
            f"issue one whose extended key usage covers it"
        )


class KeyMismatchError(VerificationError):
    """A private key does not belong to the certificate beside it."""

    def __init__(self, subject: str, certificate: str | Path, key: str | Path) -> None:
        self.subject = subject
        self.certificate = certificate
        self.key = key
        super().__init__(
            f"the key in {key} does not belong to the certificate of {subject} in {certificate}; "
            f"put files of one issue side by side"
        )


class MissingHostError(VerificationError):
    """A certificate lacks a host that it was required to have."""

    def __init__(self, subject: str, host: str) -> None:
        self.subject = subject
        self.host = host
        super().__init__(
            f"the certificate of {subject} is not valid for {host}; issue one for this host"
        )


class IdentityError(VerificationError):
    """A certificate does not name one node, or not the one expected."""

    def __init__(self, message: str, node_id: str | None = None) -> None:
        self.node_id = node_id
        super().__init__(message)


class RevokedError(VerificationError):
    """A certificate, or a CA above it, was revoked.

    Attributes:
        subject: Whose certificate.
        reason: Why, in the words of `RevocationReason`.
        date: Since when (UTC).
    """

    def __init__(self, subject: str, reason: str, date: datetime) -> None:
        self.subject = subject
        self.reason = reason
        self.date = date
        super().__init__(
            f"the certificate of {subject} was revoked at {date:%Y-%m-%d %H:%M:%S} UTC "
            f"({reason}); issue a new one if the node is to go on"
        )


class RevocationListError(CertsError):
    """A certificate revocation list is not to be believed.

    Attributes:
        not_before: When it begins to be valid (UTC), where it is only too early for it.
    """

    def __init__(
        self, source: str | Path, reason: str, *, not_before: datetime | None = None
    ) -> None:
        self.source = source
        self.reason = reason
        self.not_before = not_before
        super().__init__(f"the revocation list in {source} cannot be used: {reason}")


class InventoryError(CertsError):
    """The record of what was issued cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"the inventory {path} cannot be used: {reason}")


class RotationError(CertsError):
    """The CA is not at the step of a rotation that was asked for."""

    def __init__(self, directory: Path, reason: str) -> None:
        self.directory = directory
        super().__init__(f"the CA in {directory} cannot be rotated so: {reason}")


class StillUsedError(RotationError):
    """Nodes still need what the step of a rotation would take from them.

    Attributes:
        node_ids: These nodes.
    """

    def __init__(self, directory: Path, node_ids: Sequence[str], what: str, advice: str) -> None:
        self.node_ids = tuple(node_ids)
        super().__init__(directory, f"{what} ({', '.join(node_ids)}); {advice}")


class NotFoundError(CertsError):
    """Something that is needed is not there."""

    def __init__(self, what: str, place: str | Path, advice: str) -> None:
        self.what = what
        self.place = place
        super().__init__(f"there is no {what} at {place}; {advice}")


class AlreadyExistsError(CertsError):
    """Something is there already and is not overwritten."""

    def __init__(self, what: str, path: Path, advice: str) -> None:
        self.what = what
        self.path = path
        super().__init__(f"there is already {what} at {path}; {advice}")


class DirectoryError(CertsError):
    """The certificate directory cannot be used as asked."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} cannot be used: {reason}")


class LockTimeoutError(DirectoryError):
    """Another process holds the lock of the directory for too long."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            path,
            f"another process has held its lock for {seconds:g} s; "
            f"see who has it open, and try again when it is done",
        )
