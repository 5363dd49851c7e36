"""The inventory `issued.json`: the certificates that a CA issued, without those long expired."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_certs._ca import audit_log
from aegis_certs._ca.audit_log import Action
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import isoformat, parse_isoformat
from aegis_certs._x509.identity import alternative_names, inherited_hosts
from aegis_certs._x509.keys import describe_key, issuer_key_id
from aegis_certs._x509.names import IPAddress
from aegis_certs._x509.validity import MAX_DAYS
from aegis_certs.errors import CertsError, DirectoryError, InventoryError

_TEXTS = itemgetter(
    *("serial", "id", "issuer", "fingerprint", "key", "address", "not_before", "not_after")
)
_LISTS = itemgetter("sans", "hosts")

logger = logging.getLogger("aegis_certs")

_VERSION = 1
_FIRST_LINE = f'{{"version": {_VERSION}, "certificates": ['
# How long after its end a certificate with a successor is dropped; the audit log keeps it.
_FORGET_AFTER = timedelta(days=30)


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
        return {
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
        )


class Inventory:
    """All issued certificates by serial number, in the order of issue."""

    def __init__(self, entries: Iterable[IssuedCertificate] = (), data: bytes = b"") -> None:
        self._entries = {entry.serial: entry for entry in entries}
        # The lines of a file that `save` wrote are kept: to encode all entries anew is slow.
        self._lines: dict[str, str] = {}
        lines = data.decode().splitlines()[1:-1] if data else ()
        if len(lines) == len(self._entries):
            for (serial, entry), line in zip(self._entries.items(), lines, strict=True):
                if line.startswith(f'{{"id": "{entry.id}", "serial": "{serial}", '):
                    self._lines[serial] = line.removesuffix(",")

    def __repr__(self) -> str:
        return f"Inventory({len(self._entries)} certificates)"

    def __iter__(self) -> Iterator[IssuedCertificate]:
        return iter(self._entries.values())

    def get(self, serial: str) -> IssuedCertificate | None:
        """The certificate with this serial number, in hexadecimal."""
        return self._entries.get(serial)

    def of_node(self, node_id: str) -> list[IssuedCertificate]:
        """All certificates of a node, the newest last."""
        return [entry for entry in self if entry.id == node_id]

    def latest(self) -> dict[str, IssuedCertificate]:
        """The newest certificate of each node."""
        return {entry.id: entry for entry in self}

    def record(self, store: Store, action: Action, entry: IssuedCertificate, at: datetime) -> None:
        """Records a certificate before it is handed out; the caller holds the lock.

        The line in the audit log is written first, then the inventory. If one of them cannot be
        written, such as on a full disk, nothing is recorded.
        """
        self.discard(entry.serial)
        self._entries[entry.serial] = entry  # the last, so the newest of its node
        try:
            with files.drafted(store.inventory_path, self._encode(at), files.PRIVATE) as publish:
                audit_log.record(store.audit_path, action, at, {"certificate": entry.to_json()})
                publish()
        except DirectoryError:
            self.discard(entry.serial)
            raise

    def discard(self, serial: str) -> None:
        """Removes a certificate that was never handed out, or that is over."""
        self._entries.pop(serial, None)
        self._lines.pop(serial, None)

    def save(self, store: Store, at: datetime) -> None:
        """Writes the file without old expired certificates; the caller holds the lock."""
        files.write(store.inventory_path, self._encode(at), files.PRIVATE)

    def _encode(self, at: datetime) -> bytes:
        newest = {entry.serial for entry in self.latest().values()}
        kept = [
            self._line(entry)  # one line each: fast to write, and easy to read
            for entry in self
            if entry.serial in newest or at - entry.not_after < _FORGET_AFTER
        ]
        listed = ",\n".join(kept)
        return f"{_FIRST_LINE}\n{listed}\n]}}\n".encode()

    def _line(self, entry: IssuedCertificate) -> str:
        line = self._lines.get(entry.serial)
        if line is None:
            line = self._lines[entry.serial] = json.dumps(entry.to_json())
        return line

    @classmethod
    def load_readable(cls, store: Store) -> tuple[Self, DirectoryError | None]:
        """The inventory; or an empty one, and the error, if this user may not read it."""
        try:
            return cls.load(store), None
        except DirectoryError as error:
            if not files.is_denied(error):
                raise
            return cls(), error

    @classmethod
    def load(cls, store: Store) -> Self:
        """The inventory of a directory.

        If the file is missing or damaged, the inventory is rebuilt from the audit log and the
        certificates in the directory; the next issue writes the file again.

        Raises:
            InventoryError: A newer version of this package wrote the file.
            DirectoryError: The file cannot be read.
        """
        data = files.read(store.inventory_path)
        if data is not None:
            try:
                return cls(_parse(data, store), data)
            except (ValueError, RecursionError) as error:
                logger.warning(
                    "%s is damaged (%s); it is rebuilt from %s and the certificates",
                    store.inventory_path,
                    error,
                    store.audit_path.name,
                )
        return cls(_rebuild(store))


def names_with_keys(store: Store, inventory: Inventory) -> list[str]:
    """The nodes whose key is in a directory, or should be there because it was created there."""
    known = inventory.latest()
    orphans = (name for name in store.key_names() if name in known)
    placed = (
        name for name in store.names() if store.has_key(name) or _lacks_key(store, known, name)
    )
    return sorted({*orphans, *placed})


def _lacks_key(store: Store, known: Mapping[str, IssuedCertificate], name: str) -> bool:
    entry = known.get(name)
    if entry is None or entry.from_request:
        return False
    try:
        chain = store.chain(name)
    except CertsError:
        return True
    return chain is not None and f"{chain[0].serial_number:x}" == entry.serial


def _parse(data: bytes, store: Store) -> list[IssuedCertificate]:
    content = json.loads(data)
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError("it has no version")
    if version > _VERSION:
        reason = f"its version is {version}, and this program knows {_VERSION}; use a newer program"
        raise InventoryError(store.inventory_path, reason)
    entries = content.get("certificates")
    if not isinstance(entries, list):
        raise ValueError("it has no list of certificates")
    return [IssuedCertificate.from_json(entry) for entry in entries]


def _rebuild(store: Store) -> Iterator[IssuedCertificate]:
    known: dict[str, IssuedCertificate] = {}
    for line in audit_log.lines(store.audit_path):
        if line.get("action") == Action.REMOVE and isinstance(line.get("serials"), list):
            known = {serial: one for serial, one in known.items() if serial not in line["serials"]}
        try:
            entry = IssuedCertificate.from_json(line.get("certificate"))
        except ValueError:
            continue
        known[entry.serial] = entry
    found = []
    for name in store.names():
        try:
            chain = store.chain(name)
            hosts = inherited_hosts(chain[0]) if chain else ()
        except CertsError:
            continue  # the listing shows it as unreadable
        if chain:
            entry = IssuedCertificate.of(name, chain[0], hosts=hosts)
            found.append(known.pop(entry.serial, entry))
    yield from known.values()
    yield from found  # last, since the certificate in the directory is the newest of its node
