"""The origin of an identity: where its PEM texts are, and whether they can change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from aegis_certs._store.files import StatKey
from aegis_certs._x509.keys import key_type_of
from aegis_certs._x509.names import KeyType
from aegis_certs._x509.tls_config import TLSConfig

if TYPE_CHECKING:
    from aegis_certs._identity.enrolment import EnrolmentRequest
    from aegis_certs._identity.requested import RequestedIdentity

StatKeys = tuple[StatKey | None, ...]


class Origin:
    """The base of all origins; by default an identity never changes and cannot be renewed."""

    crl_path: Path | None = None
    directory: Path | None = None  # in which this package may write
    _asked: tuple[x509.Certificate, EnrolmentRequest] | None = None

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

    @contextmanager
    def requesting(self, current: TLSConfig, at: datetime) -> Iterator[RequestedIdentity]:
        """The request for the successor of the current identity, whose key stays in memory."""
        from aegis_certs._identity.requested import expected_after, requesting  # seldom needed

        leaf, earlier = current.certificate, None
        if self._asked is not None and self._asked[0] == leaf:
            earlier = self._asked[1]
        kind = key_type_of(leaf, KeyType.P256)
        with requesting(expected_after(current), None, key_type=kind, earlier=earlier) as request:
            self._asked = (leaf, request.request)
            yield request

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
