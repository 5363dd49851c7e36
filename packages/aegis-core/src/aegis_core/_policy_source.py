"""Where a node's policy comes from: code, or a file that may change."""

from __future__ import annotations

import logging
from pathlib import Path

from aegis_discovery.policy import Policy, PolicyError, load_policy

_log = logging.getLogger("aegis.policy")

LOOK = 2.0
"""Seconds between two looks at the file: a change is taken up within a few seconds."""


class PolicySource:
    """Reads a policy, and what becomes of it. It blocks on the file, but for moments only.

    Args:
        given: A policy, the path of a TOML file, or None for no policy at all.
    """

    def __init__(self, given: Policy | str | Path | None) -> None:
        self._path = Path(given) if isinstance(given, str | Path) else None
        self._policy = given if isinstance(given, Policy) else None
        self._complaint = ""

    @property
    def changes(self) -> bool:
        """Whether looking again is of any use."""
        return self._path is not None

    def load(self) -> Policy | None:
        """Returns the policy.

        Raises:
            PolicyError: If the file cannot be read, or is no policy.
        """
        if self._path is not None:
            self._policy = load_policy(self._path)
        return self._policy

    def poll(self) -> Policy | None:
        """Returns the policy that counts: the old one where the file is no good any more."""
        before = self._policy
        try:
            self.load()
        except PolicyError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("the policy stays as it is: %s", error)
        else:
            self._complaint = ""
            if self._policy != before:
                _log.info("another policy counts: %s", self._path)
        return self._policy
