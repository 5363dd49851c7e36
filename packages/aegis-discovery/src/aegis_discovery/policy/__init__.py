"""Policies: rules about calls and about providers, in code or in TOML."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aegis_discovery.errors import PolicyError

if TYPE_CHECKING:
    from aegis_discovery.policy._providers import ProviderAuthorizer
    from aegis_discovery.policy._rules import (
        CallRule,
        Decision,
        Policy,
        ProvideRule,
        Subject,
        combined,
    )
    from aegis_discovery.policy._services import NAMED_SERVICES, OPEN_SERVICES, split_method
    from aegis_discovery.policy._toml import load_policy, parse_policy

__all__ = [
    "NAMED_SERVICES",
    "OPEN_SERVICES",
    "CallRule",
    "Decision",
    "Policy",
    "PolicyError",
    "ProvideRule",
    "ProviderAuthorizer",
    "Subject",
    "combined",
    "load_policy",
    "parse_policy",
    "split_method",
]

_HOMES = {
    "NAMED_SERVICES": "_services",
    "OPEN_SERVICES": "_services",
    "ProviderAuthorizer": "_providers",
    "load_policy": "_toml",
    "parse_policy": "_toml",
    "split_method": "_services",
}


def __getattr__(name: str) -> Any:
    # Most programs have no policy, and its rules take time to load.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES.get(name, '_rules')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
