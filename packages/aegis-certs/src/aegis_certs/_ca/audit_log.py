"""The audit log: one line of JSON for every action of a CA, and never a key.

Lines are only added, and a line is synced before the files that it describes are written. So
everything that exists has its line; a line without its certificate is the result of a crash.

A long log is divided. It is kept as `audit-1.jsonl`, `audit-2.jsonl` and so on, and the next part
begins with a copy of what still counts: all revocations of certificates that have not expired, all
certificates and tokens on record, and the latest changes of the CA. So `audit.jsonl` alone is
enough to sign a lost `crl.pem` again and to rebuild a lost inventory. The numbered parts are
history, which no command reads.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from cryptography import x509

from aegis_certs._store import files
from aegis_certs._time import isoformat, parse_isoformat
from aegis_certs._x509.keys import describe_key
from aegis_certs._x509.validity import common_name
from aegis_certs.errors import DirectoryError

PART = 4 << 20
"""Bytes of new lines after which the next part begins: each CA session reads the last part."""

KEPT = 24
"""Numbered parts that are kept at most, together some 100 MB: the last 100,000 actions or so."""

_CA_CHANGES_KEPT = 64  # there are three in the life of a CA
_REVOCATION_KEPT = timedelta(days=60)  # after the end of the certificate, until a CRL had it


class Action(StrEnum):
    """An action of a CA."""

    CREATE = "create-ca"
    ISSUE = "issue"
    RENEW = "renew"
    SIGN = "sign"
    GRANT = "grant"  # a token
    ENROLL = "enroll"
    ADOPT = "adopt"
    REVOKE = "revoke"
    REMOVE = "remove"
    PREPARE = "rotate-prepare"
    ACTIVATE = "rotate-activate"
    RETIRE = "rotate-retire"
    DOCUMENTS = "document-signer"
    CONTINUE = "continue"  # the first line of a part; what it carries over follows
    KEEP = "keep"  # a certificate or token on record, carried over


CA_CHANGES = (Action.CREATE, Action.PREPARE, Action.ACTIVATE, Action.RETIRE)
"""The actions that change the trust bundle."""


def record(path: Path, action: Action, at: datetime, facts: Mapping[str, Any]) -> None:
    """Adds a line; the caller holds the lock."""
    files.append(path, _encode(action, at, facts))


def record_ca(path: Path, action: Action, certificate: x509.Certificate, at: datetime) -> None:
    """Adds a line for an action on a CA, before it is done; the caller holds the lock."""
    facts = {
        "ca": common_name(certificate.subject),
        "serial": f"{certificate.serial_number:x}",
        "key": describe_key(certificate.public_key()),
        "not_after": isoformat(certificate.not_valid_after_utc),
    }
    record(path, action, at, facts)


def lines(path: Path, action: Action | None = None) -> Iterator[dict[str, Any]]:
    """All lines that can be read, or those of one action; a cut off line is skipped."""
    data = files.read(path) or b""
    for line in data.splitlines() if action is None else _lines_with(f'"{action}"', data):
        try:
            found = _parsed(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and action in (None, found.get("action")):
            yield found


def _lines_with(mark: str, data: bytes) -> Iterator[bytes]:
    """The lines that contain the mark. Each issue reads the log, which may have many others."""
    end = 0
    while (found := data.find(mark.encode(), end)) >= 0:
        end = data.find(b"\n", found)
        end = len(data) if end < 0 else end
        yield data[data.rfind(b"\n", 0, found) + 1 : end]


def ca_changes(path: Path) -> list[dict[str, Any]]:
    """The lines about the CA itself, the last one at the end; none if this user may not read it."""
    try:
        return [line for line in lines(path) if line.get("action") in CA_CHANGES]
    except DirectoryError as error:
        if not files.is_denied(error):
            raise
        return []


def is_part_over(path: Path) -> bool:
    """Whether the next part should begin: enough was added to what this one carries over."""
    status = files.status(path)
    if status is None or status.st_size < PART:
        return False
    carried = _first_line(files.read(path, 1024) or b"")[1]
    return status.st_size - carried >= max(PART, carried)


def begin_part(
    path: Path,
    at: datetime,
    kept: Iterable[Mapping[str, Any]],
    revoked: Iterable[tuple[datetime, Mapping[str, Any]]] = (),
) -> None:
    """Keeps the log under the next number, and begins a new one; the caller holds the lock.

    A crash between the two leaves the whole log under both names; the next call completes it.

    Args:
        path: The log.
        at: The current time.
        kept: The facts of the certificates and tokens that are on record.
        revoked: The times and facts of revocations that a lost log does not have any more.

    Raises:
        DirectoryError: A file cannot be written. Then the log is as it was.
    """
    data = files.read(path) or b""
    numbers = sorted(_numbers(path))
    number = _first_line(data)[0] or _next_number(path, data, numbers)
    if data:
        files.write(_part_path(path, number), data, files.PRIVATE)
    again = (_encode(Action.REVOKE, when, facts) for when, facts in revoked)
    records = (_encode(Action.KEEP, at, facts) for facts in kept)
    carried = b"".join(line + b"\n" for line in (*_still_counting(data, at), *again, *records))
    facts = {"part": number + 1, "carried": len(carried)}
    first = _encode(Action.CONTINUE, at, facts) + b"\n"
    files.write(path, first + carried, files.PRIVATE)
    for old in [one for one in numbers if one <= number - KEPT]:
        files.remove(_part_path(path, old))


def _encode(action: Action, at: datetime, facts: Mapping[str, Any]) -> bytes:
    line = {"time": isoformat(at), "action": action, "uid": os.getuid(), "pid": os.getpid()}
    import json  # loads slowly

    return json.dumps({**line, **facts}, separators=(",", ":")).encode()


def _parsed(line: bytes) -> Any:
    import json  # loads slowly, and most processes find no revocation in a log

    return json.loads(line)


def _first_line(data: bytes) -> tuple[int | None, int]:
    """The number of a part, and how many bytes it carries over; None and 0 if it does not say."""
    try:
        facts = _parsed(data[: data.find(b"\n")])
        number, carried = facts["part"], facts["carried"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None, 0
    is_valid = type(number) is int and type(carried) is int and number > 0 and carried >= 0
    return (number, carried) if is_valid else (None, 0)


def _still_counting(data: bytes, at: datetime) -> Iterator[bytes]:
    """The lines that the next part repeats as they are."""
    changes = deque[bytes](maxlen=_CA_CHANGES_KEPT)
    for line in data.splitlines():
        if any(f'"action":"{action}"'.encode() in line for action in CA_CHANGES):
            changes.append(line)
    yield from changes
    for line in _lines_with(f'"{Action.REVOKE}"', data):
        try:
            facts = _parsed(line)
            if facts["action"] != Action.REVOKE:
                continue
            end = parse_isoformat(facts["not_after"]) if "not_after" in facts else at
        except (ValueError, RecursionError, KeyError, TypeError):
            continue
        if at - end < _REVOCATION_KEPT:
            yield line


def _numbers(path: Path) -> Iterator[int]:
    """The numbers of the parts that were kept."""
    for name in files.names(path.parent, f"{path.stem}-*{path.suffix}"):
        if found := re.fullmatch(rf"{path.stem}-([1-9]\d{{0,8}}){re.escape(path.suffix)}", name):
            yield int(found[1])


def _next_number(path: Path, data: bytes, numbers: list[int]) -> int:
    """The number of a log that does not state it: it is the first, or was damaged."""
    last = numbers[-1] if numbers else 0
    kept = files.read(_part_path(path, last)) if last else None
    return last if kept and data.startswith(kept) else last + 1


def _part_path(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")
