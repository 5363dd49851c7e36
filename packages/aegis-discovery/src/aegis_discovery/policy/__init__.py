"""Who may call what, and who may provide what: policies, in code or in TOML."""

from aegis_discovery.errors import PolicyError
from aegis_discovery.policy._providers import ProviderAuthorizer
from aegis_discovery.policy._rules import (
    OPEN_SERVICES,
    CallRule,
    Decision,
    Policy,
    ProvideRule,
    Subject,
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
    "load_policy",
    "parse_policy",
    "split_method",
]
