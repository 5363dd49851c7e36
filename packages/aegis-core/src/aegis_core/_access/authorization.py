"""Decides whether a caller is accepted, and whether the policy allows its call."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from aegis_certs import TrustBundle
from aegis_discovery.policy import NAMED_SERVICES, split_method
from aegis_discovery.signals import LogLimiter
from cryptography import x509

from aegis_core._access.bootstrap import BootstrapCaller
from aegis_core._access.caller import Caller
from aegis_core.errors import CallDeniedError, CallerRefusedError

if TYPE_CHECKING:
    from aegis_discovery.policy import Policy

_log = logging.getLogger("aegis.policy")

MAX_DECISIONS = 4096
"""Decisions remembered for each policy and revocation list, and about chains: certificates are
renewed for ever."""

REFUSED_FOR = 5.0
"""Seconds after which a refused chain is verified again: the clocks may agree by then."""


Shown = tuple[bytes, bytes, str | None]
"""What a caller showed with a call: its certificate (PEM), its TLS version, and the method. Of an
open stream it is the certificate's fingerprint, nothing, and the method."""

Allowed = dict[Shown, Caller]


class Revocations(Protocol):
    """A list of revoked certificates."""

    def is_revoked(
        self, certificate: x509.Certificate, intermediates: Iterable[x509.Certificate] = ()
    ) -> object | None: ...


class CallerVerifier:
    """Refuses callers for their chain, names, trust domain, expiry, revocation, or TLS version.

    The chain passes the same checks as that of a record. TLS lets through what they refuse: weak
    keys, a CA below one that may have none below it, a leaf of another trust domain than its CA's.
    Also, TLS session resumption accepts expired certificates, connections outlive their
    certificates, and gRPC supports neither CRLs nor a lowest TLS version. A certificate with the
    name of another node would be accepted for that node.

    It may be used from any thread.

    Args:
        bundle: The CAs that are trusted.
        trust_domain: The trust domain of this mesh; callers of another one are refused.
        find_signed: As in `RecordVerifier`.
        clock: Unix time in seconds.

    Attributes:
        clock: The same clock.
        allowed: Callers whose calls of a method were allowed, by what they showed; they stay
            allowed until their certificates end. Another trust bundle, revocation list or policy
            gets a dictionary of its own, so that no thread adds what the old one allowed.
    """

    def __init__(
        self,
        bundle: TrustBundle,
        trust_domain: str | None = None,
        *,
        find_signed: Callable[[Iterable[str]], str | None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trust_domain = trust_domain
        self._find_signed = find_signed
        self.clock = clock
        self._lock = threading.Lock()
        self._accepted: dict[bytes, tuple[x509.Certificate, ...]] = {}
        self._chains = _ChainDecisions(bundle, trust_domain)
        self._revoked: _RevocationDecisions | None = None
        self.allowed: Allowed = {}

    def change_bundle(self, bundle: TrustBundle) -> None:
        """Trusts these CAs from now on; callers that were accepted may finish what they do."""
        self._chains = _ChainDecisions(bundle, self._trust_domain)
        self.allowed = {}

    def apply_revocations(self, revocations: Revocations) -> None:
        """Refuses callers by this list from now on."""
        self._revoked = _RevocationDecisions(revocations)
        self.allowed = {}

    def check(self, caller: Caller) -> str | None:
        """Returns why a caller is refused; None if it is accepted."""
        now = self.clock()
        reason = self._check_connection(caller, now)
        if reason is not None:
            return reason
        above = self._accepted.get(caller.fingerprint)
        if above is None:
            path = self._chains.check(caller, now)
            if isinstance(path, str):
                return path
            above = self._remember(caller.fingerprint, path)
        # Not remembered: it changes whenever a node joins or leaves. Few certificates have hosts.
        if caller.hosts and (other := self._find_signed(caller.hosts)) is not None:
            return (
                f"the certificate of {caller.node_id} is also valid for {other!r}, which is "
                f"another node of this mesh; issue one without that name"
            )
        revoked = self._revoked
        return None if revoked is None else revoked.check(caller, above)

    def check_bootstrap(self, caller: BootstrapCaller) -> str | None:
        """Returns why a bootstrap identity may not even enrol; the CA knows whether it may."""
        return self._check_connection(caller, self.clock())

    def _check_connection(self, caller: Caller, now: float) -> str | None:
        if caller.tls_version and caller.tls_version != "TLSv1.3":
            return f"{caller.node_id} speaks {caller.tls_version}; this mesh takes TLS 1.3 only"
        ours, theirs = self._trust_domain, caller.trust_domain
        if ours and theirs and ours != theirs:
            return f"{caller.node_id} is of trust domain {theirs}; this mesh is of {ours}"
        if now >= caller.not_after:
            return f"the certificate of {caller.node_id} has expired; renew it and connect again"
        return None

    def _remember(
        self, fingerprint: bytes, above: tuple[x509.Certificate, ...]
    ) -> tuple[x509.Certificate, ...]:
        with self._lock:
            if len(self._accepted) >= MAX_DECISIONS:
                del self._accepted[next(iter(self._accepted))]
            self._accepted[fingerprint] = above
        return above


class _ChainDecisions:
    """What one trust bundle refuses, remembered for a while by certificate."""

    def __init__(self, bundle: TrustBundle, trust_domain: str | None) -> None:
        self._bundle = bundle
        self._trust_domain = trust_domain
        self._refused: dict[bytes, tuple[float, str]] = {}

    def check(self, caller: Caller, now: float) -> str | tuple[x509.Certificate, ...]:
        """Returns why a chain is refused, or the verified CAs that the caller showed."""
        since, reason = self._refused.get(caller.fingerprint, (-math.inf, ""))
        if abs(now - since) < REFUSED_FOR:  # a clock may also go back
            return reason
        leaf, above = caller.certificate, caller.intermediates
        try:
            if above:
                # Without a path the leaf alone is enough to state why it is refused.
                above = self._bundle.path_of((leaf, *above))[1:]
            self._bundle.verify((leaf, *above), "client", trust_domain=self._trust_domain)
        except Exception as error:  # noqa: BLE001 - the parser's errors have no common root
            reason = f"the certificate of {caller.node_id} does not verify: {error}"
            if len(self._refused) >= MAX_DECISIONS:
                self._refused.clear()
            self._refused[caller.fingerprint] = now, reason
            return reason
        return above


class _RevocationDecisions:
    """The decisions of one revocation list, remembered by certificate.

    Each list gets an object of its own: threads ask while the list is replaced, and a decision of
    the old list must not be remembered as one of the new list.
    """

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations
        self._reasons: dict[bytes, str | None] = {}

    def check(self, caller: Caller, above: tuple[x509.Certificate, ...]) -> str | None:
        try:
            return self._reasons[caller.fingerprint]
        except KeyError:
            pass
        revocation = self._revocations.is_revoked(caller.certificate, above)
        reason = f"the certificate of {caller.node_id} is revoked" if revocation else None
        if len(self._reasons) >= MAX_DECISIONS:
            self._reasons.clear()
        self._reasons[caller.fingerprint] = reason
        return reason


class CallAuthorizer:
    """Decides about calls by the caller's identity, and then by the policy if there is one.

    It may be used from any thread.

    Args:
        caller_verifier: Checks the identity.
        type_of: Returns the type of a node from its record; None for an unknown node.
        clock: Monotonic seconds.

    Attributes:
        verifier: The same verifier.
    """

    def __init__(
        self,
        caller_verifier: CallerVerifier,
        type_of: Callable[[str], str | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.verifier = caller_verifier
        self._type_of = type_of
        self._log_limiter = LogLimiter(_log, max_sources=MAX_DECISIONS, clock=clock)
        self._decisions: _PolicyDecisions | None = None

    @property
    def policy(self) -> Policy | None:
        """The policy in force; None where every caller may call everything."""
        return self._decisions.policy if self._decisions else None

    def check_bootstrap(self, caller: BootstrapCaller) -> CallerRefusedError | None:
        """Returns why a bootstrap identity may not enrol; None if the CA decides."""
        refusal = self.verifier.check_bootstrap(caller)
        return None if refusal is None else CallerRefusedError(caller.node_id, refusal)

    def set_policy(self, policy: Policy | None) -> None:
        self._decisions = None if policy is None else _PolicyDecisions(policy)
        self.verifier.allowed = {}

    def check_open(self, caller: Caller, path: str | None) -> CallerRefusedError | None:
        """As `check` of a stream that is open already, and ends if it is denied."""
        shown = caller.fingerprint, b"", path
        if self.verifier.allowed.get(shown) is caller and self.verifier.clock() < caller.not_after:
            return None  # each stream is checked each second
        return self.check(caller, path, shown=shown, is_open=True)

    def check(
        self,
        caller: Caller,
        path: str | None,
        *,
        shown: Shown | None = None,
        is_open: bool = False,
    ) -> CallerRefusedError | None:
        """Returns why a call is refused or denied; None if it is allowed. Logs denials.

        Args:
            caller: The caller.
            path: The method, as `/package.Service/Method`; None for one that no policy denies.
            shown: What the caller showed, to remember it by in `verifier.allowed` if its calls of
                this method stay allowed.
            is_open: Whether the call is a stream that is open already, and ends if it is denied.
        """
        allowed = self.verifier.allowed  # read before what decides
        refusal = self.verifier.check(caller)
        if refusal is not None:
            return CallerRefusedError(caller.node_id, refusal)
        decisions = self._decisions
        if path is None or (decisions is None and split_method(path)[0] not in NAMED_SERVICES):
            _remember_allowed(allowed, shown, caller)
            return None
        reason: str | None = "there is no policy, and only a rule that names it allows it"
        if decisions is not None:
            # A node may change its type at any time; most policies do not ask for it.
            node_type = self._type_of(caller.node_id) if decisions.asks_type else None
            reason = decisions.check(caller, path, node_type)
            if reason is None:
                if not decisions.asks_type:
                    _remember_allowed(allowed, shown, caller)
                return None
        key, kind = (caller.node_id, path), "stream" if is_open else "call"
        line = "%s may not call %.200s%s: %s"
        effect = " any more, its open stream is ended" if is_open else ""
        self._log_limiter.warn(key, kind, line, *key, effect, reason)
        return CallDeniedError(caller.node_id, path)


def _remember_allowed(allowed: Allowed, shown: Shown | None, caller: Caller) -> None:
    if shown is None or caller.hosts:  # allowed until another node has one of these names
        return
    if len(allowed) >= MAX_DECISIONS:
        allowed.clear()
    allowed[shown] = caller


class _PolicyDecisions:
    """The decisions of one policy, remembered by certificate.

    Each policy gets an object of its own: threads ask while the policy is replaced, and a decision
    of the old policy must not be remembered as one of the new policy.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.asks_type = policy.depends_on_caller_type
        self._reasons: dict[tuple[bytes, str, str | None], str | None] = {}

    def check(self, caller: Caller, path: str, node_type: str | None) -> str | None:
        key = (caller.fingerprint, path, node_type)
        try:
            return self._reasons[key]
        except KeyError:
            pass
        reason = self._decide(caller, path, node_type)
        if len(self._reasons) >= MAX_DECISIONS:
            self._reasons.clear()
        self._reasons[key] = reason
        return reason

    def _decide(self, caller: Caller, path: str, node_type: str | None) -> str | None:
        from aegis_discovery.policy import Subject  # loaded with the policy

        subject = Subject(caller.node_id, node_type, caller.trust_domain)
        decision = self.policy.may_call(subject, *split_method(path))
        _log.debug("%s calls %s: %s", caller.node_id, path, decision.reason)
        return None if decision else decision.reason
