"""Whether a caller may still speak. TLS asks that once, at the handshake; a mesh at every call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from cryptography import x509

from aegis_core._caller import Caller

MAX_ANSWERS = 4096
"""Callers that are remembered; certificates are renewed for ever, memory is not."""


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
        self._revoked: _Revoked | None = None

    def take(self, revocations: Revocations) -> None:
        """Goes by another list of revocations from now on."""
        self._revoked = _Revoked(revocations)

    def objection(self, caller: Caller) -> str | None:
        """Says what speaks against a caller, or None."""
        if caller.tls_version and caller.tls_version != "TLSv1.3":
            return f"{caller.node_id} speaks {caller.tls_version}; this mesh takes TLS 1.3 only"
        ours, theirs = self._trust_domain, caller.trust_domain
        if ours and theirs and ours != theirs:
            return f"{caller.node_id} is of trust domain {theirs}; this mesh is of {ours}"
        if self._clock() >= caller.not_after:
            return f"the certificate of {caller.node_id} has expired; renew it and connect again"
        revoked = self._revoked
        return None if revoked is None else revoked.objection(caller)


class _Revoked:
    """One list of revocations, with the answers that it gave.

    List and answers are one object, since handlers' threads ask while another list is taken: an
    answer of the old list must not be remembered as one of the new.
    """

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations
        self._answers: dict[bytes, str | None] = {}

    def objection(self, caller: Caller) -> str | None:
        answers = self._answers
        try:
            return answers[caller.fingerprint]
        except KeyError:
            pass
        revocation = self._revocations.is_revoked(caller.certificate)
        if len(answers) >= MAX_ANSWERS:
            answers.clear()
        answers[caller.fingerprint] = answer = (
            f"the certificate of {caller.node_id} is revoked" if revocation else None
        )
        return answer
