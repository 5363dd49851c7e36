"""Identity rotation while a process runs: renewals, changed files, revocations."""

from aegis_discovery.identity._rotator import IdentityEvent, IdentityEventKind, IdentityRotator

__all__ = ["IdentityEvent", "IdentityEventKind", "IdentityRotator"]
