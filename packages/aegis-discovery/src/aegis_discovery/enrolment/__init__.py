"""Certificates from the issuers of a mesh: the first one for a token, and every later one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_discovery.enrolment._ask import ask_issuers
    from aegis_discovery.enrolment._enroll import (
        AnyToken,
        enroll_until_cancelled,
        load_or_enroll,
        read_token,
    )
    from aegis_discovery.enrolment._known import known_issuers
    from aegis_discovery.enrolment._renewal import MeshRenewal

__all__ = [
    "AnyToken",
    "MeshRenewal",
    "ask_issuers",
    "enroll_until_cancelled",
    "known_issuers",
    "load_or_enroll",
    "read_token",
]

_HOMES = {
    "AnyToken": "_enroll",
    "MeshRenewal": "_renewal",
    "ask_issuers": "_ask",
    "enroll_until_cancelled": "_enroll",
    "known_issuers": "_known",
    "load_or_enroll": "_enroll",
    "read_token": "_enroll",
}


def __getattr__(name: str) -> Any:
    # Most processes have an identity, and its renewal is weeks away.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
