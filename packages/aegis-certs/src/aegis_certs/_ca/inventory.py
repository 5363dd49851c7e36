"""The inventory `issued.json`: the certificates that a CA issued, without those long expired."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Self

from aegis_certs._ca import audit_log
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.issued import (
    Answer,
    IssuedCertificate,
    IssuedToken,
    Record,
    without_certificate,
    without_stored,
)
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._x509.identity import inherited_hosts
from aegis_certs.errors import CertsError, DirectoryError, InventoryError

logger = logging.getLogger("aegis_certs")

_VERSION = 2  # since 2 it has tokens; an older program would lose them
_FIRST_LINE = f'{{"version": {_VERSION}, "certificates": ['
_MIDDLE_LINE = '], "tokens": ['
# How long after its end a certificate with a successor is dropped, and at most as long as it lived;
# the audit log still has it for long.
_FORGET_AFTER = timedelta(days=30)
_FORGET_TOKEN_AFTER = timedelta(days=7)

_Records = tuple[dict[str, IssuedCertificate], dict[str, IssuedToken], dict[str, str]]


class Inventory:
    """All issued certificates and tokens by serial number, each in the order of issue."""

    def __init__(
        self,
        entries: Iterable[IssuedCertificate] = (),
        tokens: Iterable[IssuedToken] = (),
        data: bytes = b"",
    ) -> None:
        self._entries = {entry.serial: entry for entry in entries}
        self._tokens = {token.serial: token for token in tokens}
        # The lines of a file that `save` wrote are kept: to encode all entries anew is slow.
        self._lines: dict[str, str] = {}
        lines = data.decode().splitlines()
        after = len(self._entries) + 2
        self._keep_lines(self._entries, lines[1 : after - 1])
        self._keep_lines(self._tokens, lines[after:-1])
        # The file with the same content; None if this object has changed since.
        self._file: files.StatKey | None = None

    def _keep_lines(self, records: Mapping[str, Record], lines: list[str]) -> None:
        if len(lines) == len(records):
            for (serial, record), line in zip(records.items(), lines, strict=True):
                if line.startswith(f'{{"id": "{record.id}", "serial": "{serial}", '):
                    self._lines[serial] = line.removesuffix(",")

    def __repr__(self) -> str:
        return f"Inventory({len(self._entries)} certificates, {len(self._tokens)} tokens)"

    def __iter__(self) -> Iterator[IssuedCertificate]:
        return iter(self._entries.values())

    def is_that_of(self, store: Store) -> bool:
        """Whether the file still is as this object has read or written it, under the lock.

        To read a large inventory for each of many requests is slow.
        """
        return self._file is not None and self._file == files.stat_key(store.inventory_path)

    def get(self, serial: str) -> IssuedCertificate | None:
        """The certificate with this serial number, in hexadecimal."""
        return self._entries.get(serial)

    def of_node(self, node_id: str) -> list[IssuedCertificate]:
        """All certificates of a node, the newest last."""
        return [entry for entry in self if entry.id == node_id]

    def latest(self) -> dict[str, IssuedCertificate]:
        """The newest certificate of each node."""
        return {entry.id: entry for entry in self}

    def tokens(self) -> Iterator[IssuedToken]:
        """All tokens, in the order of issue."""
        return iter(self._tokens.values())

    def token(self, serial: str) -> IssuedToken | None:
        """The token whose certificate has this serial number, in hexadecimal."""
        return self._tokens.get(serial)

    def facts(self) -> Iterator[dict[str, Any]]:
        """What the next part of the audit log says of all certificates and tokens."""
        for entry in self:
            yield {"certificate": without_certificate(entry).to_json()}
        for token in self.tokens():
            yield {"token": without_certificate(token).to_json()}

    def record(
        self,
        store: Store,
        action: Action,
        entry: IssuedCertificate,
        at: datetime,
        *,
        answered: Record | None = None,
    ) -> None:
        """Records a certificate before it is handed out; the caller holds the lock.

        The line in the audit log is written first, then the inventory. If one of them cannot be
        written, such as on a full disk, nothing is recorded.

        Args:
            store: The directory.
            action: Why it was issued.
            entry: The certificate.
            at: The current time.
            answered: The token, or the renewed certificate, that it is the answer to; it has it as
                its answer already.
        """
        facts: dict[str, Any] = {"certificate": entry.to_json()}
        if answered is not None and answered.answer is not None:
            answer = replace(answered.answer, certificate=b"")  # the log has no certificates
            facts |= {"answered": answered.serial, "answer": answer.to_json()}
        before = self._records()
        if answered is not None:
            self._replace(answered)
        self.discard(entry.serial)
        self._entries[entry.serial] = entry  # the last, so the newest of its node
        self._write(store, action, at, facts, before)

    def record_token(self, store: Store, token: IssuedToken, at: datetime) -> None:
        """Records a token before it is handed out, as `record` does."""
        before = self._records()
        self._tokens[token.serial] = token
        self._write(store, Action.GRANT, at, {"token": token.to_json()}, before)

    def discard(self, serial: str) -> None:
        """Removes a certificate or token that was never handed out, or that is over."""
        self._entries.pop(serial, None)
        self._tokens.pop(serial, None)
        self._lines.pop(serial, None)
        self._file = None

    def save(self, store: Store, at: datetime) -> None:
        """Writes the file without old expired certificates; the caller holds the lock."""
        files.write(store.inventory_path, self._encode(at), files.PRIVATE)
        self._file = files.stat_key(store.inventory_path)

    def _records(self) -> _Records:
        return dict(self._entries), dict(self._tokens), dict(self._lines)

    def _replace(self, record: Record) -> None:
        """Puts a record in the place of its earlier value."""
        self._lines.pop(record.serial, None)
        if isinstance(record, IssuedToken):
            self._tokens[record.serial] = record
        else:
            self._entries[record.serial] = record

    def _write(
        self, store: Store, action: Action, at: datetime, facts: dict[str, Any], before: _Records
    ) -> None:
        self._file = None
        try:
            with files.drafted(store.inventory_path, self._encode(at), files.PRIVATE) as publish:
                audit_log.record(store.audit_path, action, at, facts)
                publish()
        except DirectoryError:
            self._entries, self._tokens, self._lines = before
            raise
        self._file = files.stat_key(store.inventory_path)

    def _forget(self, at: datetime) -> None:
        """Drops what ended long ago, except the newest certificate of each node."""
        newest = {entry.serial for entry in self.latest().values()}
        old = [
            entry.serial
            for entry in self
            if at - entry.not_after >= _kept_for(entry) and entry.serial not in newest
        ]
        old += [
            token.serial for token in self.tokens() if at - token.not_after >= _FORGET_TOKEN_AFTER
        ]
        for serial in old:
            self.discard(serial)

    def _encode(self, at: datetime) -> bytes:
        self._forget(at)
        # One line each: fast to write, and easy to read.
        certificates = ",\n".join(self._line(entry, at) for entry in self)
        tokens = ",\n".join(self._line(token, at) for token in self.tokens())
        parts = (_FIRST_LINE, certificates, _MIDDLE_LINE, tokens, "]}\n")
        return "\n".join(filter(None, parts)).encode()

    def _line(self, record: Record, at: datetime) -> str:
        kept = without_stored(record, at)
        line = None if kept is not record else self._lines.get(record.serial)
        if line is None:
            line = self._lines[record.serial] = json.dumps(kept.to_json())
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
        key, data = files.stat_key(store.inventory_path), files.read(store.inventory_path)
        if data is not None:
            try:
                found = cls(*_parse(data, store), data)
                found._file = key
                return found
            except (ValueError, RecursionError) as error:
                logger.warning(
                    "%s is damaged (%s); it is rebuilt from %s and the certificates",
                    store.inventory_path,
                    error,
                    store.audit_path.name,
                )
        return cls(*_rebuild(store))


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


def _kept_for(entry: IssuedCertificate) -> timedelta:
    """How long a replaced certificate is kept after its end: short lives would fill the file."""
    return min(_FORGET_AFTER, entry.not_after - entry.not_before)


def _parse(data: bytes, store: Store) -> tuple[list[IssuedCertificate], list[IssuedToken]]:
    content = json.loads(data)
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError("it has no version")
    if version > _VERSION:
        reason = f"its version is {version}, and this program knows {_VERSION}; use a newer program"
        raise InventoryError(store.inventory_path, reason)
    entries, tokens = content.get("certificates"), content.get("tokens", [])
    if not isinstance(entries, list) or not isinstance(tokens, list):
        raise ValueError("it has no list of certificates, or of tokens")
    return (
        [IssuedCertificate.from_json(entry) for entry in entries],
        [IssuedToken.from_json(token) for token in tokens],
    )


def _rebuild(store: Store) -> tuple[list[IssuedCertificate], list[IssuedToken]]:
    known: dict[str, IssuedCertificate] = {}
    tokens: dict[str, IssuedToken] = {}
    for line in audit_log.lines(store.audit_path):
        _replay(line, known, tokens)
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
    # The certificates in the directory are last, since they are the newest of their nodes.
    return [*known.values(), *found], list(tokens.values())


def _replay(
    line: dict[str, Any], known: dict[str, IssuedCertificate], tokens: dict[str, IssuedToken]
) -> None:
    """Does again what a line of the audit log says."""
    if line.get("action") == Action.REMOVE and isinstance(line.get("serials"), list):
        for serial in filter(lambda one: isinstance(one, str), line["serials"]):
            known.pop(serial, None)
            tokens.pop(serial, None)
    with suppress(ValueError):
        entry = IssuedCertificate.from_json(line.get("certificate"))
        known[entry.serial] = entry
    with suppress(ValueError):
        token = IssuedToken.from_json(line.get("token"))
        tokens[token.serial] = token
    with suppress(ValueError):
        serial, answer = str(line.get("answered")), Answer.from_json(line.get("answer"))
        if serial in tokens:
            tokens[serial] = replace(tokens[serial], answer=answer)
        elif serial in known:
            known[serial] = replace(known[serial], answer=answer)
