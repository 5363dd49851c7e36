"""What can go wrong with certificates.

CertsError
├── InvalidNodeIdError        a node id is not a lower-case DNS name, or is an IP or `localhost`
├── InvalidRequestError       an argument is invalid: host, days, name, usage
├── InvalidTokenError         a text is not a token, or one of a later format
├── EnrolmentRefusedError     an issuer refuses a request; only its log says why
├── InvalidPemError           a certificate, key, request or CRL cannot be read
│   └── PassphraseError           the passphrase of a key is missing, wrong or too long
├── VerificationError         a certificate was read, but must not be used
│   ├── ExpiredError              it, or a CA above it, has expired
│   ├── NotYetValidError          it, or a CA above it, is not valid yet
│   ├── UntrustedError            no chain leads to a CA of the trust bundle
│   ├── UsageError                it must not be used as a server, or as a client
│   ├── KeyMismatchError          the key does not belong to it
│   ├── RevokedError              it, or a CA above it, was revoked
│   ├── MissingHostError          it does not have a required host
│   └── IdentityError             it does not name one node, or not the expected one
├── CAEndsError               a new certificate would not live longer: its CA ends
├── StillValidError           a certificate that is to be forgotten can still be used
├── RevocationListError       a CRL cannot be trusted: signature, issuer, dates, older
├── InventoryError            the inventory of issued certificates cannot be used
├── RotationError             this step of a rotation cannot be done now
│   └── StillUsedError            nodes still use the CA that the step would replace or remove
├── TrustStoreError           a trust store of this machine cannot be read or changed
├── NotFoundError             a file, variable or CA does not exist
├── AlreadyExistsError        a CA, request or foreign certificate exists and is not overwritten
└── DirectoryError            the certificate directory cannot be used
    └── LockTimeoutError          another process holds its lock for too long
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from aegis_certs._time import format_utc

__all__ = [
    "AlreadyExistsError",
    "CAEndsError",
    "CertsError",
    "DirectoryError",
    "EnrolmentRefusedError",
    "ExpiredError",
    "IdentityError",
    "InvalidNodeIdError",
    "InvalidPemError",
    "InvalidRequestError",
    "InvalidTokenError",
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
    "StillValidError",
    "TrustStoreError",
    "UntrustedError",
    "UsageError",
    "VerificationError",
]


class CertsError(Exception):
    """Root of all errors that aegis_certs raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the constructor with the message, but most constructors take
        # fields. Process pools and task queues pickle errors.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # no stub has it


class InvalidNodeIdError(CertsError):
    """A node id is invalid."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        self.reason = reason
        super().__init__(
            f"{node_id!r} cannot be a node id: {reason}; "
            f"use lower-case letters, digits, hyphens and dots, such as 'orders-1'"
        )


class InvalidRequestError(CertsError):
    """An argument is invalid."""

    def __init__(self, option: str, value: object, reason: str) -> None:
        self.option = option
        self.value = value
        super().__init__(f"{option} {value!r} cannot be used: {reason}")


class InvalidTokenError(CertsError):
    """A text is not a token that this program can use. Nothing of the text is in the message."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the token cannot be used: {reason}; make a new one where the CA's key is "
            f"(`aegis-certs token ID`)"
        )


class EnrolmentRefusedError(CertsError):
    """An issuer refuses to enrol a node, or to renew its certificate.

    The message is for the log of the issuer. All refusals must look the same to the caller.

    Attributes:
        node_id: The node; None if it is not known.
        is_theft: Somebody else has used the token or certificate before: one of them may be a
            thief.
    """

    def __init__(self, node_id: str | None, reason: str, *, is_theft: bool = False) -> None:
        self.node_id = node_id
        self.reason = reason
        self.is_theft = is_theft
        super().__init__(f"no certificate for {node_id or 'an unknown node'}: {reason}")


class InvalidPemError(CertsError):
    """A certificate, key, request or CRL cannot be read."""

    def __init__(self, what: str, reason: str, source: str | Path | None = None) -> None:
        self.what = what
        self.reason = reason
        self.source = source
        place = f" in {source}" if source else ""
        super().__init__(f"the {what}{place} cannot be used: {reason}")


class PassphraseError(InvalidPemError):
    """The passphrase of an encrypted private key is missing, wrong or too long."""


class VerificationError(CertsError):
    """A certificate was read, but must not be used; subclasses say which check failed."""


class ExpiredError(VerificationError):
    """A certificate has expired.

    Attributes:
        subject: The holder of the certificate: a node id, or the name of a CA.
        not_after: Its end (UTC).
    """

    def __init__(self, subject: str, not_after: datetime, advice: str) -> None:
        self.subject = subject
        self.not_after = not_after
        super().__init__(
            f"the certificate of {subject} expired at {format_utc(not_after)}; {advice}"
        )


class NotYetValidError(VerificationError):
    """A certificate is not valid yet; usually a clock is wrong."""

    def __init__(self, subject: str, not_before: datetime) -> None:
        self.subject = subject
        self.not_before = not_before
        super().__init__(
            f"the certificate of {subject} is not valid before {format_utc(not_before)}; "
            f"check this machine's clock"
        )


class UntrustedError(VerificationError):
    """No chain leads from the certificate to a CA of the trust bundle."""

    def __init__(self, subject: str, reason: str) -> None:
        self.subject = subject
        self.reason = reason
        super().__init__(f"the certificate of {subject} is not trusted: {reason}")


class UsageError(VerificationError):
    """A certificate must not be used as a server, or as a client."""

    def __init__(self, subject: str, usage: str) -> None:
        self.subject = subject
        self.usage = usage
        super().__init__(
            f"the certificate of {subject} must not be used as a {usage}; "
            f"issue one whose extended key usage allows it"
        )


class KeyMismatchError(VerificationError):
    """A private key does not belong to the certificate."""

    def __init__(self, subject: str, certificate: str | Path, key: str | Path) -> None:
        self.subject = subject
        self.certificate = certificate
        self.key = key
        super().__init__(
            f"the key in {key} does not belong to the certificate of {subject} in {certificate}; "
            f"use a key and a certificate of the same issue"
        )


class MissingHostError(VerificationError):
    """A certificate does not have a required host."""

    def __init__(self, subject: str, host: str) -> None:
        self.subject = subject
        self.host = host
        super().__init__(
            f"the certificate of {subject} is not valid for {host}; issue one for this host"
        )


class IdentityError(VerificationError):
    """A certificate does not name one node, or does not name the expected node."""

    def __init__(self, message: str, node_id: str | None = None) -> None:
        self.node_id = node_id
        super().__init__(message)


class RevokedError(VerificationError):
    """A certificate, or a CA above it, was revoked.

    Attributes:
        subject: The node of the certificate.
        reason: Why it was revoked, in the words of `RevocationReason`.
        date: When it was revoked (UTC).
    """

    def __init__(self, subject: str, reason: str, date: datetime) -> None:
        self.subject = subject
        self.reason = reason
        self.date = date
        super().__init__(
            f"the certificate of {subject} was revoked at {format_utc(date)} ({reason}); "
            f"issue a new one if the node may go on"
        )


class CAEndsError(CertsError):
    """A new certificate would not live longer than the current one, because their CA ends.

    Attributes:
        subject: The node of the certificate.
        not_after: The end of the CA (UTC), and of the certificate.
    """

    def __init__(self, subject: str, not_after: datetime) -> None:
        self.subject = subject
        self.not_after = not_after
        super().__init__(
            f"the certificate of {subject} ends with its CA, at {format_utc(not_after)}; replace "
            f"the CA where its key is (`aegis-certs rotate-ca prepare` is the first step)"
        )


class StillValidError(CertsError):
    """A certificate that is to be forgotten can still be used.

    Attributes:
        subject: The node of the certificate.
        not_after: Its end (UTC).
    """

    def __init__(self, subject: str, not_after: datetime) -> None:
        self.subject = subject
        self.not_after = not_after
        super().__init__(
            f"a certificate of {subject} is valid until {format_utc(not_after)}; revoke it first "
            f"(`aegis-certs revoke {subject}`)"
        )


class RevocationListError(CertsError):
    """A certificate revocation list cannot be trusted.

    Attributes:
        not_before: The start of its validity (UTC), if that is in the future; otherwise None.
    """

    def __init__(
        self, source: str | Path, reason: str, *, not_before: datetime | None = None
    ) -> None:
        self.source = source
        self.reason = reason
        self.not_before = not_before
        super().__init__(f"the revocation list in {source} cannot be used: {reason}")


class InventoryError(CertsError):
    """The inventory of issued certificates cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"the inventory {path} cannot be used: {reason}")


class RotationError(CertsError):
    """This step of a rotation cannot be done now."""

    def __init__(self, directory: Path, reason: str) -> None:
        self.directory = directory
        super().__init__(f"the CA in {directory} cannot do this step of a rotation: {reason}")


class StillUsedError(RotationError):
    """Nodes still use the CA that a step of a rotation would replace or remove.

    Attributes:
        node_ids: The ids of these nodes.
    """

    def __init__(self, directory: Path, node_ids: Sequence[str], what: str, advice: str) -> None:
        self.node_ids = tuple(node_ids)
        super().__init__(directory, f"{what} ({', '.join(node_ids)}); {advice}")


class TrustStoreError(CertsError):
    """A trust store of this machine cannot be read or changed.

    Attributes:
        what: The store, a file in it, or its tool.
        reason: Why, and what to do.
    """

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what} cannot be used: {reason}")


class NotFoundError(CertsError):
    """A file, variable or CA does not exist."""

    def __init__(self, what: str, place: str | Path, advice: str) -> None:
        self.what = what
        self.place = place
        super().__init__(f"there is no {what} at {place}; {advice}")


class AlreadyExistsError(CertsError):
    """A file or CA exists already and is not overwritten."""

    def __init__(self, what: str, path: Path, advice: str) -> None:
        self.what = what
        self.path = path
        super().__init__(f"there is already {what} at {path}; {advice}")


class DirectoryError(CertsError):
    """The certificate directory cannot be used.

    Attributes:
        errno: The number of the system's error, as in the module `errno`; None without one.
    """

    def __init__(self, path: Path, reason: str, errno: int | None = None) -> None:
        self.path = path
        self.reason = reason
        self.errno = errno
        super().__init__(f"{path} cannot be used: {reason}")


class LockTimeoutError(DirectoryError):
    """Another process holds the lock of the directory for too long."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            path,
            f"another process has held its lock for {seconds:g} s; "
            f"find that process, and try again when it has finished",
        )
