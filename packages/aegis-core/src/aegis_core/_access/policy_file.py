"""The source of a node's policy: an object, or a file that may change."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_discovery.documents import Document
from aegis_discovery.policy import PolicyError
from aegis_discovery.signals import LogLimiter

if TYPE_CHECKING:
    from aegis_discovery.policy import Policy

    from aegis_core._stats import LoadedPolicy

_log = logging.getLogger("aegis.policy")

POLL_INTERVAL = 1.0
"""Seconds between two polls of the file. A change is loaded by the second poll that finds it."""


class PolicySource:
    """Loads a policy and its changes. Reading the file blocks for moments.

    Args:
        given: A policy, the path of a TOML file, or None for no policy.

    Attributes:
        policy: The policy in force.
        digest: SHA-256 of its file, in hexadecimal; `in code` without a file, empty without a
            policy.
    """

    def __init__(self, given: Policy | str | Path | None) -> None:
        self._path = Path(given) if isinstance(given, str | Path) else None
        self._log_limiter = LogLimiter(_log)
        self._content = self._read()
        self.policy = None if isinstance(given, str | Path) else given
        self.digest = "in code" if self.policy is not None else ""

    @property
    def may_change(self) -> bool:
        """Whether it is a file, which may change."""
        return self._path is not None

    def loaded(self, published: Document | None) -> tuple[LoadedPolicy, ...]:
        """Describes the policies that decide: the own one, and what the mesh has published."""
        # Only when statistics are asked for.
        from aegis_discovery.policy import Policy

        from aegis_core._stats import LoadedPolicy

        own = self.policy
        found = []
        if own is not None:
            source, sha256 = ("file", self.digest) if self._path else ("code", "")
            found.append(LoadedPolicy(source, sha256, None, len(own.call), len(own.provide)))
        if published is not None and isinstance(published.value, Policy):
            value, digest = published.value, published.content_digest
            rules = len(value.call), len(value.provide)
            found.append(LoadedPolicy("published", digest, published.sequence, *rules))
        return tuple(found)

    def joined_with(self, published: Policy | None) -> Policy | None:
        """The policy in force, which the published one can only make stricter."""
        if published is None:
            return self.policy
        from aegis_discovery.policy import combined  # loaded with the published policy

        return combined(self.policy, published)

    def load(self) -> None:
        """Loads the file, if there is one.

        Raises:
            PolicyError: If it cannot be read, or is not a valid policy.
        """
        if self._path is not None:
            from aegis_discovery.policy import load_policy  # most nodes have no file of rules

            content = self._read() or b""
            policy = load_policy(self._path)
            self.digest = hashlib.sha256(content).hexdigest()
            if policy != self.policy:
                self.policy = policy

    def poll(self) -> Policy | None:
        """Returns the policy in force; an invalid file leaves the old policy in force.

        A file that changed since the last poll is loaded by the next one: it may be half written,
        and half a policy denies what the whole policy allows.
        """
        before = self.policy
        content, self._content = self._content, self._read()
        if content != self._content:
            return before
        try:
            self.load()
        except PolicyError as error:
            line = "the policy stays as it is: %s"
            self._log_limiter.log_change(logging.ERROR, self._path, str(error), line, error)
        else:
            self._log_limiter.forget(self._path)
            if self.policy is not before:
                _log.info("a new policy is in force: %s", self._path)
        return self.policy

    def _read(self) -> bytes | None:
        try:
            return self._path.read_bytes() if self._path else None
        except OSError:
            return None
