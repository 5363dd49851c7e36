"""The audit log: one line of JSON for every action of a CA, and never a key.

Lines are only added, and a line is synced before the files that it describes are written. So
everything that exists has its line; a line without its certificate is the result of a crash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from cryptography import x509

from aegis_certs._store import files
from aegis_certs._time import isoformat
from aegis_certs._x509.keys import describe_key
from aegis_certs._x509.validity import common_name


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


def record(path: Path, action: Action, at: datetime, facts: Mapping[str, Any]) -> None:
    """Adds a line; the caller holds the lock."""
    line = {"time": isoformat(at), "action": action, "uid": os.getuid(), "pid": os.getpid()}
    files.append(path, json.dumps({**line, **facts}, separators=(",", ":")).encode())


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
            found = json.loads(line)
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
