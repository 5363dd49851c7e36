"""The audit log: one line of JSON for everything that a CA did, and never a key.

Lines are only ever added, and synced before what they tell of is put in place. So everything
that exists has its line; a line whose certificate is nowhere tells of a crash in between.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from aegis_certs._store import files
from aegis_certs._time import isoformat


class Action(StrEnum):
    """What a CA did."""

    CREATE = "create-ca"
    ISSUE = "issue"
    RENEW = "renew"
    SIGN = "sign"
    REVOKE = "revoke"
    PREPARE = "rotate-prepare"
    ACTIVATE = "rotate-activate"
    RETIRE = "rotate-retire"


def record(path: Path, action: Action, at: datetime, facts: Mapping[str, Any]) -> None:
    """Adds a line; only under the lock.

    Raises:
        DirectoryError: It cannot be written.
    """
    line = {"time": isoformat(at), "action": action, "uid": os.getuid(), "pid": os.getpid()}
    files.append(path, json.dumps({**line, **facts}, separators=(",", ":")).encode())


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that can be read; what a crash has torn is passed over.

    Raises:
        DirectoryError: It is there but cannot be read.
    """
    for line in (files.read(path) or b"").splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
