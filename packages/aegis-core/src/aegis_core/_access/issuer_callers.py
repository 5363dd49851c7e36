"""Judges the callers of an issuer. Pure."""

from __future__ import annotations

from aegis_core._access.authorization import CallAuthorizer
from aegis_core._access.bootstrap import BootstrapCaller, bootstrap_from_context
from aegis_core._access.caller import CallContext, Caller, caller_from_context

ISSUER = "aegis.mesh.v1.Issuer"
"""The service that issues certificates to the mesh."""

ENROLL = f"/{ISSUER}/Enroll"
"""The only method that a bootstrap identity may call, and no other identity."""


def judge_member(authorizer: CallAuthorizer, context: CallContext) -> Caller:
    """Returns the caller if it is a member of the mesh.

    Raises:
        CallerError: It is none.
    """
    caller = caller_from_context(context)
    error = authorizer.check(caller, None)
    if error is not None:
        raise error
    return caller


def judge_bootstrap(authorizer: CallAuthorizer, context: CallContext) -> BootstrapCaller:
    """Returns the caller if it is a bootstrap identity; the CA knows whether it may enrol.

    Raises:
        CallerError: It is none.
    """
    caller = bootstrap_from_context(context)
    error = authorizer.check_bootstrap(caller)
    if error is not None:
        raise error
    return caller
