"""The keys of one mesh in a registry."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote

from aegis_certs import CertsError, parse_worker_id

NODES, VERDICTS, DOCUMENTS = "nodes", "verdicts", "documents"

_PARTS = {NODES: 1, VERDICTS: 2, DOCUMENTS: 1}

MAX_KEY = 1024
"""Bytes of a key."""


class Key(NamedTuple):
    """A key without prefix and mesh: its folder, and the names in it."""

    folder: str
    names: tuple[str, ...]


class Keys:
    """Makes and reads the keys below `{prefix}/{mesh}/`.

    Attributes:
        start: Before each of them.
        end: After all of them, for ranges.
    """

    def __init__(self, prefix: str, mesh: str) -> None:
        self.start = f"{prefix}/{quote(mesh, safe='')}/".encode()
        self.end = self.start[:-1] + bytes([self.start[-1] + 1])

    def node(self, node_id: str) -> bytes:
        return self._key(NODES, node_id)

    def verdict(self, subject: str, accuser: str) -> bytes:
        return self._key(VERDICTS, subject, accuser)

    def document(self, key: str) -> bytes:
        return self._key(DOCUMENTS, key)

    def parse(self, key: bytes) -> Key | None:
        """Returns a key of the mesh, whose ids are valid; None for anything else."""
        if len(key) > MAX_KEY or not key.startswith(self.start):
            return None
        try:
            folder, *quoted = key[len(self.start) :].decode("ascii").split("/")
            names = tuple(unquote(name, errors="strict") for name in quoted)
        except ValueError:
            return None
        # One key for each name: another spelling of it would be another key.
        if len(names) != _PARTS.get(folder) or self._key(folder, *names) != key:
            return None
        if folder != DOCUMENTS:
            try:
                for name in names:
                    parse_worker_id(name)
            except CertsError:
                return None
        return Key(folder, names)

    def _key(self, *parts: str) -> bytes:
        return self.start + "/".join(quote(part, safe="") for part in parts).encode()
