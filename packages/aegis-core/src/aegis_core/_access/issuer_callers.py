"""Judges the callers of an issuer. Pure."""

from __future__ import annotations

from aegis_core._access.authorization import CallAuthorizer
from aegis_core._access.bootstrap import BootstrapCaller, bootstrap_from_context
from aegis_core._access.caller import CallContext, Caller, caller_from_context
from aegis_core.errors import CallerError, CallerRefusedError

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


def judge(
    method: str, authorizer: CallAuthorizer, context: CallContext, *, is_issuer: bool
) -> Caller:
    """Returns the caller of a method of an issuer, if it may call it.

    Raises:
        CallerError: It may not, or this node is no issuer.
    """
    caller = (judge_bootstrap if method == ENROLL else judge_member)(authorizer, context)
    if not is_issuer:
        raise CallerRefusedError(caller.node_id, "this node is no issuer")
    return caller


def refused_node(error: CallerError, context: CallContext) -> str | None:
    """Returns whom to hold responsible for a refused call; None if its certificate names nobody."""
    if isinstance(error, CallerRefusedError):
        return error.node_id
    try:
        return caller_from_context(context).node_id
    except CallerError:
        return None
