"""Certificates from the issuers of a mesh: the first one for a token, and every later one."""

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
