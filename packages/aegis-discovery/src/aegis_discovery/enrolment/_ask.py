"""Asks issuers for a certificate, over blocking channels."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from aegis_certs import CertsError, IssuerAddress, TLSConfig

from aegis_discovery._runtime.foreign_text import printable
from aegis_discovery.enrolment._search import Attempt, IssuerSearch
from aegis_discovery.errors import EnrolmentError
from aegis_discovery.proto import issuer_pb2, issuer_pb2_grpc
from aegis_discovery.transport._channels import open_channel

T = TypeVar("T")

_log = logging.getLogger("aegis.identity")

_REFUSALS = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)

CANCEL_POLL = 0.1
"""Seconds between two checks whether a call is still wanted."""

_NAMED = ("Hostname Verification", "Peer name")

# What gRPC says where the other end refuses our certificate, such as one that is not valid yet.
_CLOSED = ("Socket closed", "TSI_DATA_CORRUPTED", "reset by peer")


def ask_issuers(
    issuers: Sequence[IssuerAddress],
    identity: TLSConfig,
    method: str,
    csr: bytes,
    accept: Callable[[issuer_pb2.IssuedIdentity], T],
    *,
    timeout: float,
    rounds: int | None = None,
    cancelled: threading.Event | None = None,
    rng: random.Random | None = None,
) -> T:
    """Asks issuers in turn until an answer is accepted; blocks.

    Args:
        issuers: Those that may be asked. Each must prove its id.
        identity: What the connections show and trust.
        method: `Enroll` or `Renew`.
        csr: The request. Each issuer gets the same one.
        accept: Returns the result of an answer. An issuer whose answer makes it raise `CertsError`
            lies, or its clock or ours is wrong; another one is asked.
        timeout: Seconds until it ends.
        rounds: How often each issuer is asked at most; None for no limit: then the log says why
            there is no certificate yet.
        cancelled: Ends it early, when it is set.
        rng: Randomness.

    Raises:
        EnrolmentError: No issuer gave a certificate.
    """
    cancelled, ends = cancelled or threading.Event(), time.monotonic() + timeout
    said = dict[str, str]()
    search = IssuerSearch(issuers, time.monotonic(), timeout=timeout, rounds=rounds, rng=rng)
    while not cancelled.is_set():
        step = search.next(time.monotonic())
        if step is None:
            break
        if not isinstance(step, Attempt):
            cancelled.wait(step)
            continue
        try:
            answer = _ask(step, identity, method, csr, cancelled)
            if answer is None:
                break
            return accept(answer)
        except grpc.RpcError as error:
            if error.code() in _REFUSALS:
                search.refused(step.issuer, printable(error.details() or "it refused"))
            else:
                search.failed(step.issuer, _describe(error, step))
        except CertsError as error:
            search.failed(step.issuer, f"its answer is not usable: {error}")
        if rounds is None and not search.is_refused:
            _say_why(search.causes, said, ends - time.monotonic())
    raise EnrolmentError(search.causes, is_refused=search.is_refused)


def _say_why(causes: Mapping[str, str], said: dict[str, str], left: float) -> None:
    """Says why there is no certificate yet, once for each reason, since a person may wait."""
    for issuer, reason in causes.items():
        if said.get(issuer) != reason:
            said[issuer] = reason
            line = "no certificate from %s yet (%s); trying again for %.0f s"
            _log.warning(line, issuer, reason, max(left, 0.0))


def _ask(
    attempt: Attempt, identity: TLSConfig, method: str, csr: bytes, cancelled: threading.Event
) -> issuer_pb2.IssuedIdentity | None:
    """Returns the answer of an issuer; None if it was cancelled meanwhile.

    Raises:
        grpc.RpcError: The issuer refused, or there was no answer.
    """
    request = issuer_pb2.EnrollRequest if method == "Enroll" else issuer_pb2.RenewRequest
    over = threading.Event()
    with open_channel(identity, attempt.issuer.node_id, attempt.issuer.address) as channel:
        stub: Any = issuer_pb2_grpc.IssuerStub(channel)
        call = getattr(stub, method).future(request(csr=csr), timeout=attempt.timeout)
        call.add_done_callback(lambda _: over.set())
        while not over.wait(CANCEL_POLL):
            if cancelled.is_set():
                call.cancel()
                return None
        answer: issuer_pb2.IssuedIdentity = call.result()
        return answer


def _describe(error: Any, attempt: Attempt) -> str:
    details = error.details() or str(error)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"it did not answer within {attempt.timeout:.3g} s"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return "it is no issuer; start it with --issuer"
    if "Connection refused" in details:
        return "it refused the connection; is it running?"
    if any(hint in details for hint in _NAMED):
        return f"another node answers there, not {attempt.issuer.node_id}"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "its certificate is not of this mesh, or the clock of one of the two is wrong"
    if any(hint in details for hint in _CLOSED):
        return "it closed the connection; it may be stopping, or one of the two clocks is wrong"
    return printable(str(details))
