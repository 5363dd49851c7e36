"""Where a node's policy comes from: code, or a file that may change."""

from __future__ import annotations

import logging
from pathlib import Path

from aegis_discovery.logs import LogLimiter
from aegis_discovery.policy import Policy, PolicyError, load_policy

_log = logging.getLogger("aegis.policy")

LOOK = 1.0
"""Seconds between two looks at the file: a change is taken up at the second one that finds it."""


class PolicySource:
    """Reads a policy, and what becomes of it. It blocks on the file, but for moments only.

    Args:
        given: A policy, the path of a TOML file, or None for no policy at all.

    Attributes:
        policy: What counts now.
    """

    def __init__(self, given: Policy | str | Path | None) -> None:
        self._path = Path(given) if isinstance(given, str | Path) else None
        self._log_limiter = LogLimiter(_log)
        self._seen = self._look()
        self.policy = given if isinstance(given, Policy) else None

    def load(self) -> None:
        """Reads the file, if there is one.

        Raises:
            PolicyError: If it cannot be read, or is no policy.
        """
        if self._path is not None:
            policy = load_policy(self._path)
            if policy != self.policy:
                self.policy = policy

    def poll(self) -> Policy | None:
        """Returns the policy that counts: the old one where the file is no good any more.

        A file that changed since the last look is left until the next one: it may be half written,
        and half a policy denies what the whole one allows.
        """
        before = self.policy
        seen, self._seen = self._seen, self._look()
        if seen != self._seen:
            return before
        try:
            self.load()
        except PolicyError as error:
            line = "the policy stays as it is: %s"
            self._log_limiter.log_change(logging.ERROR, self._path, str(error), line, error)
        else:
            self._log_limiter.forget(self._path)
            if self.policy is not before:
                _log.info("another policy counts: %s", self._path)
        return self.policy

    def _look(self) -> bytes | None:
        try:
            return self._path.read_bytes() if self._path else None
        except OSError:
            return None
