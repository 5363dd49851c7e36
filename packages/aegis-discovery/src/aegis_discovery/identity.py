"""Keeping an identity fresh while a process runs: renewals, changed files, revocations."""

from aegis_discovery._identity import IdentityEvent, IdentityEventKind, IdentityKeeper

__all__ = ["IdentityEvent", "IdentityEventKind", "IdentityKeeper"]
