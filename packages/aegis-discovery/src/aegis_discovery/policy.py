"""Who may call what, and who may provide what: policies, in code or in TOML."""

from aegis_discovery._policy import (
    OPEN_SERVICES,
    CallRule,
    Decision,
    Policy,
    ProvideRule,
    Subject,
    split_method,
)
from aegis_discovery._policy_toml import load_policy, parse_policy
from aegis_discovery._provider_judge import ProviderJudge
from aegis_discovery.errors import PolicyError

__all__ = [
    "OPEN_SERVICES",
    "CallRule",
    "Decision",
    "Policy",
    "PolicyError",
    "ProvideRule",
    "ProviderJudge",
    "Subject",
    "load_policy",
    "parse_policy",
    "split_method",
]
