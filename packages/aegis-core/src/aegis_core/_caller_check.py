"""Whether a caller may still speak. TLS asks that once, at the handshake; a mesh at every call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from cryptography import x509

from aegis_core._caller import Caller


class Revocations(Protocol):
    """What is known to be revoked."""

    def is_revoked(self, certificate: x509.Certificate) -> object | None:
        """Returns the revocation of a certificate, or None."""


class CallerCheck:
    """Knows what speaks against a caller: its trust domain, expiry, revocation, or an old TLS.

    TLS session resumption lets an expired certificate in again, connections outlive their
    certificates, and gRPC takes neither CRLs nor a lowest TLS version.

    Args:
        trust_domain: Of this mesh; callers of another one are refused.
        clock: Unix time in seconds.
    """

    def __init__(
        self, trust_domain: str | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._trust_domain = trust_domain
        self._clock = clock
        self._revocations: Revocations | None = None
        self._revoked: dict[bytes, str | None] = {}

    def take(self, revocations: Revocations) -> None:
        """Goes by another list of revocations from now on."""
        self._revocations = revocations
        self._revoked = {}

    def objection(self, caller: Caller) -> str | None:
        """Says what speaks against a caller, or None."""
        if caller.tls_version and caller.tls_version != "TLSv1.3":
            return f"{caller.node_id} speaks {caller.tls_version}; this mesh takes TLS 1.3 only"
        ours, theirs = self._trust_domain, caller.trust_domain
        if ours and theirs and ours != theirs:
            return f"{caller.node_id} is of trust domain {theirs}; this mesh is of {ours}"
        if self._clock() >= caller.not_after:
            return f"the certificate of {caller.node_id} has expired; renew it and connect again"
        if self._revocations is None:
            return None
        revoked = self._revoked.get(caller.fingerprint, "")
        if revoked == "":
            revocation = self._revocations.is_revoked(caller.certificate)
            revoked = f"the certificate of {caller.node_id} is revoked" if revocation else None
            self._revoked[caller.fingerprint] = revoked
        return revoked
