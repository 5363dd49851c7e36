"""Whether a caller may speak at all, and whether it may call what it calls."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from aegis_discovery.logs import LogLimiter
from aegis_discovery.policy import Policy, Subject, split_method
from cryptography import x509

from aegis_core._access.caller import Caller
from aegis_core.errors import CallDeniedError, CallerRefusedError

MAX_ANSWERS = 4096
"""Callers that are remembered; certificates are renewed for ever, memory is not."""


class Revocations(Protocol):
    """What is known to be revoked."""

    def is_revoked(self, certificate: x509.Certificate) -> object | None:
        """Returns the revocation of a certificate, or None."""


class CallerVerifier:
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


_log = logging.getLogger("aegis.policy")

MAX_ANSWERS = 4096
"""Decisions that are remembered; certificates are renewed for ever, memory is not."""


class CallAuthorizer:
    """Decides about calls: by the caller's identity, then by the policy, if there is one.

    Decisions of a policy are remembered by the caller's certificate and the method. It may be
    asked from any thread.

    Args:
        check: Knows what speaks against an identity.
        type_of: The type of a node, from its record; None where the topology has no such node.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        check: CallerVerifier,
        type_of: Callable[[str], str | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check = check
        self._type_of = type_of
        self._log_limiter = LogLimiter(_log, max_sources=MAX_ANSWERS, clock=clock)
        self._answers: _Answers | None = None

    @property
    def policy(self) -> Policy | None:
        """What counts now; None where everybody may call everything."""
        return self._answers.policy if self._answers else None

    def take(self, policy: Policy | None) -> None:
        """Goes by another policy from now on."""
        self._answers = None if policy is None else _Answers(policy)

    def objection(self, caller: Caller, path: str | None) -> CallerRefusedError | None:
        """Says what speaks against a call, or None.

        Args:
            caller: Who calls.
            path: What, as `/package.Service/Method`; None for what everybody may call.
        """
        refusal = self._check.objection(caller)
        if refusal is not None:
            return CallerRefusedError(caller.node_id, refusal)
        answers = self._answers
        if path is None or answers is None:
            return None
        # A node may change its type at any time; most policies do not ask for it.
        node_type = self._type_of(caller.node_id) if answers.asks_type else None
        reason = answers.why_not(caller, path, node_type)
        if reason is None:
            return None
        key = (caller.node_id, path)
        self._log_limiter.warn(key, "", "%s may not call %.200s: %s", *key, reason)
        return CallDeniedError(caller.node_id, path)


class _Answers:
    """One policy, with the answers that it gave.

    Policy and answers are one object, since threads ask while another policy is taken: an answer
    of the old one must not be remembered as one of the new.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.asks_type = policy.depends_on_caller_type
        self._known: dict[tuple[bytes, str, str | None], str | None] = {}

    def why_not(self, caller: Caller, path: str, node_type: str | None) -> str | None:
        key = (caller.fingerprint, path, node_type)
        try:
            return self._known[key]
        except KeyError:
            pass
        subject = Subject(caller.node_id, node_type, caller.trust_domain)
        decision = self.policy.may_call(subject, *split_method(path))
        _log.debug("%s calls %s: %s", caller.node_id, path, decision.reason)
        if len(self._known) >= MAX_ANSWERS:
            self._known.clear()
        self._known[key] = answer = None if decision else decision.reason
        return answer
