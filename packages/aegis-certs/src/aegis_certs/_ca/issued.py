"""What the inventory keeps of a certificate or a token that was issued."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_certs._time import isoformat, parse_isoformat
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.keys import describe_key, issuer_key_id
from aegis_certs._x509.names import IPAddress
from aegis_certs._x509.validity import MAX_DAYS

_TEXTS = itemgetter(
    *("serial", "id", "issuer", "fingerprint", "key", "address", "not_before", "not_after")
)
_LISTS = itemgetter("sans", "hosts")


@dataclass(frozen=True, slots=True)
class Answer:
    """What an issuer answered to a token, or to a certificate that was to be renewed.

    Attributes:
        key: The fingerprint of the public key that asked: SHA-256, in hexadecimal.
        serial: The serial number of the certificate that it got.
        at: When (UTC).
        through: The node id of the issuer.
        certificate: That certificate in DER; empty if nobody may ask for it again.
    """

    key: str
    serial: str
    at: datetime
    through: str
    certificate: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON values, without the certificate if that is empty."""
        facts = {
            "key": self.key,
            "serial": self.serial,
            "at": isoformat(self.at),
            "through": self.through,
        }
        if self.certificate:
            facts["certificate"] = base64.b64encode(self.certificate).decode()
        return facts

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads what `to_json` returned.

        Raises:
            ValueError: The data is not an answer.
        """
        key, serial, at, through = _texts(data, "key", "serial", "at", "through")
        stored = base64.b64decode(data.get("certificate", ""), validate=True)
        return cls(key, serial, parse_isoformat(at), through, stored)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """How a node got its first certificate from an issuer; its successors have it too.

    Attributes:
        token: The serial number of the token.
        through: The node id of the issuer.
        at: When (UTC).
    """

    token: str
    through: str
    at: datetime

    def to_json(self) -> dict[str, Any]:
        """The enrolment as JSON values."""
        return {"token": self.token, "through": self.through, "at": isoformat(self.at)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads what `to_json` returned.

        Raises:
            ValueError: The data is not an enrolment.
        """
        token, through, at = _texts(data, "token", "through", "at")
        return cls(token, through, parse_isoformat(at))


def _texts(data: Any, *fields: str) -> list[str]:
    if not isinstance(data, dict):
        raise ValueError("it is not an object")
    found = [data.get(field) for field in fields]
    if not all(isinstance(value, str) for value in found):
        raise ValueError(f"one of {', '.join(fields)} is not a text")
    return found  # type: ignore[return-value]  # just checked


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """One issued certificate.

    Attributes:
        id: The node id; the common name of an intermediate CA.
        serial: Its serial number in hexadecimal.
        issuer: The key identifier of the CA that signed it, in hexadecimal.
        fingerprint: SHA-256 of the certificate in DER, in hexadecimal.
        key: The type of its key, as in `KeyType`.
        sans: Its subject alternative names: DNS names, IP addresses, URIs.
        hosts: The names among them that were requested.
        address: The IP of the node's own address; empty if it has none.
        not_before: Its start (UTC).
        not_after: Its end (UTC).
        days: How long it was requested to live; its CA may end earlier. None if this is unknown.
        from_request: It was signed for a request, so its key was created elsewhere.
        through: The node id of the issuer that it was requested from; empty if it was not.
        enrolled: How its node enrolled; None if a command issued or signed the first certificate.
        answer: The successor that an issuer gave it; None before that.
    """

    id: str
    serial: str
    issuer: str
    fingerprint: str
    key: str
    sans: tuple[str, ...]
    hosts: tuple[str, ...]
    address: str
    not_before: datetime
    not_after: datetime
    days: float | None = None
    from_request: bool = False
    through: str = ""
    enrolled: Enrolment | None = None
    answer: Answer | None = None

    @classmethod
    def of(
        cls,
        node_id: str,
        certificate: x509.Certificate,
        *,
        hosts: Iterable[str | IPAddress] = (),
        own_ip: IPAddress | None = None,
        days: float | None = None,
        from_request: bool = False,
    ) -> Self:
        """The entry of a certificate and of the names and days that were requested for it."""
        names = alternative_names(certificate)
        return cls(
            id=node_id,
            serial=f"{certificate.serial_number:x}",
            issuer=(issuer_key_id(certificate) or b"").hex(),
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            key=describe_key(certificate.public_key()),
            sans=(*names.dns, *map(str, names.ips), *names.uris),
            hosts=tuple(map(str, hosts)),
            address="" if own_ip is None else str(own_ip),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            days=days,
            from_request=from_request,
        )

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values."""
        facts: dict[str, Any] = {
            "id": self.id,
            "serial": self.serial,
            "issuer": self.issuer,
            "fingerprint": self.fingerprint,
            "key": self.key,
            "sans": self.sans,
            "hosts": self.hosts,
            "address": self.address,
            "not_before": isoformat(self.not_before),
            "not_after": isoformat(self.not_after),
            "days": self.days,
            "from_request": self.from_request,
        }
        if self.through:
            facts["through"] = self.through
        if self.enrolled:
            facts["enrolled"] = self.enrolled.to_json()
        if self.answer:
            facts["answer"] = self.answer.to_json()
        return facts

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads what `to_json` returned.

        Raises:
            ValueError: The data is not an entry.
        """
        try:
            texts, lists = _TEXTS(data), _LISTS(data)
        except (KeyError, TypeError) as error:
            raise ValueError("an entry lacks a field") from error
        # This is done for each entry of each issue, so it asks for all types at once.
        if {*map(type, texts)} != {str} or {*map(type, lists)} != {list}:
            raise ValueError("a field is not a text, or not a list")
        if not {*map(type, lists[0]), *map(type, lists[1])} <= {str}:
            raise ValueError("a name is not a text")
        serial, *middle, start, end = texts
        int(serial, 16)
        days = data.get("days")
        if days is not None and (type(days) not in (int, float) or not 0 < days <= MAX_DAYS):
            raise ValueError("days is not a number of days")
        node_id, issuer, fingerprint, key, address = middle
        return cls(
            node_id,
            serial,
            issuer,
            fingerprint,
            key,
            tuple(lists[0]),
            tuple(lists[1]),
            address,
            parse_isoformat(start),
            parse_isoformat(end),
            days,
            data.get("from_request") is True,
            str(data.get("through", "")),
            Enrolment.from_json(data["enrolled"]) if "enrolled" in data else None,
            Answer.from_json(data["answer"]) if "answer" in data else None,
        )


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """One issued token: its bootstrap certificate, and what it grants.

    Attributes:
        id: The node id that it grants.
        serial: The serial number of its certificate in hexadecimal.
        issuer: The key identifier of the CA that signed it, in hexadecimal.
        fingerprint: SHA-256 of its certificate in DER, in hexadecimal.
        not_before: Its start (UTC).
        not_after: Its end (UTC).
        hosts: The further names that it grants.
        days: How long the certificate that it grants lives.
        server: Whether it grants use as a server, besides that as a client.
        answer: The certificate that the node got for it; None if it is not used.
    """

    id: str
    serial: str
    issuer: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    hosts: tuple[str, ...]
    days: float
    server: bool
    answer: Answer | None = None

    def to_json(self) -> dict[str, Any]:
        """The token as JSON values."""
        facts: dict[str, Any] = {
            "id": self.id,
            "serial": self.serial,
            "issuer": self.issuer,
            "fingerprint": self.fingerprint,
            "not_before": isoformat(self.not_before),
            "not_after": isoformat(self.not_after),
            "hosts": self.hosts,
            "days": self.days,
            "server": self.server,
        }
        if self.answer:
            facts["answer"] = self.answer.to_json()
        return facts

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads what `to_json` returned.

        Raises:
            ValueError: The data is not a token.
        """
        node_id, serial, issuer, fingerprint, start, end = _texts(
            data, "id", "serial", "issuer", "fingerprint", "not_before", "not_after"
        )
        int(serial, 16)
        hosts, days = data.get("hosts"), data.get("days")
        if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            raise ValueError("the hosts are not texts")
        if type(days) not in (int, float) or not 0 < days <= MAX_DAYS:
            raise ValueError("days is not a number of days")
        return cls(
            node_id,
            serial,
            issuer,
            fingerprint,
            parse_isoformat(start),
            parse_isoformat(end),
            tuple(hosts),
            days,
            data.get("server") is True,
            Answer.from_json(data["answer"]) if "answer" in data else None,
        )


Record = IssuedCertificate | IssuedToken


def without_stored(record: Record, at: datetime) -> Record:
    """The record without the certificate of its answer if nobody may ask for that any more.

    Until the end of the token, or of the certificate that was renewed, the same key may.
    """
    return record if at <= record.not_after else without_certificate(record)


def without_certificate(record: Record) -> Record:
    """The record without the certificate of its answer."""
    answer = record.answer
    if answer is None or not answer.certificate:
        return record
    return replace(record, answer=replace(answer, certificate=b""))
