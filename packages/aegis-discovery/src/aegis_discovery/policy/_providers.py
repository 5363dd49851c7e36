"""Which nodes are called for what they say they provide."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from aegis_discovery._model import NodeInfo
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery.policy._rules import Policy, Subject

_log = logging.getLogger("aegis.policy")

MAX_LOGGED = 4096
"""Logged denials that are remembered; the oldest is forgotten first, and logged again."""


class ProviderAuthorizer:
    """Goes by the `provide` rules of a policy; made for a pool's `may_provide`.

    Each node and service that is denied is logged once for as long as a policy counts.

    Args:
        policy: The policy; None where every node may provide everything.
        trust_domain: Of this process, and so of every node whose record it believes.
    """

    def __init__(self, policy: Policy | None, trust_domain: str | None) -> None:
        self._policy = policy
        self._trust_domain = trust_domain
        self._log_limiter = LogLimiter(_log, period=math.inf, max_sources=MAX_LOGGED, counts=False)
        self._callbacks: list[Callable[[], object]] = []

    def subscribe_changed(self, callback: Callable[[], object]) -> None:
        """Calls back when another policy counts: pools ask again then."""
        self._callbacks.append(callback)

    def set_policy(self, policy: Policy | None) -> None:
        """Goes by another policy from now on."""
        self._policy = policy
        self._log_limiter.clear()
        for callback in self._callbacks:
            callback()

    def __call__(self, node: NodeInfo, name: str, version: str) -> bool:
        """Tells whether a node may provide a service."""
        if self._policy is None:
            return True
        subject = Subject(node.id, node.type, self._trust_domain)
        decision = self._policy.may_provide(subject, name, version)
        if not decision:
            key = (node.id, name, version)
            line = "%s may not provide %s/%s: %s"
            self._log_limiter.warn(key, "", line, *key, decision.reason)
        return decision.allowed
