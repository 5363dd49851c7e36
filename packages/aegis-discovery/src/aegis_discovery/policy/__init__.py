"""Policies: rules about calls and about providers, in code or in TOML."""

from aegis_discovery.errors import PolicyError
from aegis_discovery.policy._providers import ProviderAuthorizer
from aegis_discovery.policy._rules import (
    OPEN_SERVICES,
    CallRule,
    Decision,
    Policy,
    ProvideRule,
    Subject,
    combined,
    split_method,
)
from aegis_discovery.policy._toml import load_policy, parse_policy

__all__ = [
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
