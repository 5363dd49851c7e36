"""The origin of an identity: where its PEM texts are, and whether they can change."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from aegis_certs._store.files import StatKey
from aegis_certs._x509.tls_config import TLSConfig

StatKeys = tuple[StatKey | None, ...]


class Origin:
    """The base of all origins; by default an identity never changes and cannot be renewed."""

    crl_path: Path | None = None

    def stat_keys(self) -> StatKeys:
        """A value that changes when a file of the identity does."""
        return ()

    def load(self, at: datetime) -> TLSConfig:
        """The identity at start."""
        raise NotImplementedError

    def reload(self, at: datetime) -> TLSConfig:
        """The identity now, for a running process; nothing is created."""
        return self.load(at)

    def renew(self, current: TLSConfig, at: datetime) -> TLSConfig | None:
        """The successor of the current identity; None if none can be issued here."""
        return None

    def issuer_replaced(self, current: TLSConfig) -> bool:
        """Whether a rotation has replaced the issuer, and the new CA's key is available."""
        return False


class FixedOrigin(Origin):
    """An identity that never changes."""

    def __init__(self, tls: TLSConfig) -> None:
        self._tls = tls

    def __repr__(self) -> str:
        return repr(self._tls)

    def load(self, at: datetime) -> TLSConfig:
        return self._tls
