"""The `provide` rules of a policy, applied to the providers of a pool."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from aegis_certs import owner_of

from aegis_discovery._model import NodeInfo
from aegis_discovery._runtime.log_limiter import LogLimiter

if TYPE_CHECKING:
    from aegis_discovery.policy._rules import Policy

_log = logging.getLogger("aegis.policy")

MAX_LOGGED = 4096
"""Logged denials that are remembered; the oldest is forgotten first, and logged again."""


class ProviderAuthorizer:
    """Applies the `provide` rules of a policy; pass it to a pool as `may_provide`.

    Each denied node and service is logged once until the policy changes.

    Args:
        policy: The policy; None lets every node provide everything.
        trust_domain: The trust domain of this process, and so of all nodes whose records it
            accepts. It may be set later, before there is a policy.
    """

    def __init__(self, policy: Policy | None, trust_domain: str | None) -> None:
        self._policy = policy
        self.trust_domain = trust_domain
        self._log_limiter = LogLimiter(_log, period=math.inf, max_sources=MAX_LOGGED)
        self._callbacks: list[Callable[[], object]] = []

    def subscribe_changed(self, callback: Callable[[], object]) -> None:
        """Calls back after each change of the policy, so that a pool asks again."""
        self._callbacks.append(callback)

    def set_policy(self, policy: Policy | None) -> None:
        """Replaces the policy."""
        self._policy = policy
        self._log_limiter.clear()
        for callback in self._callbacks:
            callback()

    def __call__(self, node: NodeInfo, name: str, version: str) -> bool:
        """Returns whether a node may provide a service."""
        if self._policy is None:
            return True
        from aegis_discovery.policy._rules import Subject  # loaded with the policy

        if node.vouched_by is None:
            subject = Subject(owner_of(node.id), node.type, self.trust_domain)
        else:
            subject = Subject(node.id, node.type, vouched_by=owner_of(node.vouched_by))
        decision = self._policy.may_provide(subject, name, version)
        if not decision:
            key = (node.id, name, version)
            line = "%s may not provide %s/%s: %s"
            self._log_limiter.warn(key, "", line, *key, decision.reason)
        return decision.allowed
