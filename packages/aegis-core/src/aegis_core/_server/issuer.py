"""Answers requests for certificates. Who may ask, how often, and what a refusal tells. Pure."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

from aegis_certs import CertsError, EnrolmentRefusedError
from aegis_discovery.proto import issuer_pb2, mesh_pb2
from aegis_discovery.signals import LogLimiter
from cryptography import x509

from aegis_core._access.bootstrap import BootstrapCaller
from aegis_core._access.caller import Caller
from aegis_core._rate_limit import CERTIFICATES, RateLimiter
from aegis_core._server.mesh_protocol import RequestRefusedError
from aegis_core._server.rejections import NOT_ISSUED

if TYPE_CHECKING:
    from aegis_certs import EnrolledIdentity

_log = logging.getLogger("aegis.issuer")

MAX_CSR = 16 * 1024
"""Bytes of a request; one for an RSA-4096 key has 2 KB."""

MAX_WAITING = 1024
"""Requests of all callers that wait or are served. The CA signs one certificate at a time."""

MAX_DOCUMENTS = 900 * 1024
"""Bytes of the documents in one answer, which stays under 1 MiB."""


class Authority(Protocol):
    """A CA that issues to the mesh: `aegis_certs.CertificateAuthority`. It blocks."""

    def enroll(
        self, csr_der: bytes, bootstrap: x509.Certificate, *, issuer_id: str
    ) -> EnrolledIdentity: ...

    def renew_for(
        self,
        csr_der: bytes,
        leaf: x509.Certificate,
        *,
        issuer_id: str,
        intermediates: Sequence[x509.Certificate],
    ) -> EnrolledIdentity: ...


class IssuerService:
    """Issues certificates to bootstrap identities and to members. It may be used from any thread.

    Args:
        node_id: The identity of this node, for the CA's records.
        authority: The CA.
        documents: Returns the documents that each answer carries.
    """

    def __init__(
        self,
        node_id: str,
        authority: Authority,
        documents: Callable[[], Iterable[mesh_pb2.SignedDocument]] = tuple,
    ) -> None:
        self._node_id = node_id
        self._authority = authority
        self._documents = documents
        self._lock = threading.Lock()
        self._waiting = 0
        self._rate_limiter = RateLimiter(CERTIFICATES)
        self._log_limiter = LogLimiter(_log)

    @contextmanager
    def entered(
        self,
        caller: Caller,
        now: float,
        *,
        workers: int = 1,
        on_excess: Callable[[], object] | None = None,
    ) -> Iterator[None]:
        """Counts a request from its arrival to its answer.

        Args:
            caller: Who asks.
            now: Monotonic seconds.
            workers: The processes that share this identity.
            on_excess: Called if the caller asks too often.

        Raises:
            RequestRefusedError: Too many requests wait, of this caller or of all.
        """
        with self._lock:
            refusal = self._rate_limiter.enter(caller.node_id, now, workers=workers)
            is_flood = bool(refusal)
            if not refusal and self._waiting >= MAX_WAITING:
                self._rate_limiter.leave(caller.node_id)
                refusal = f"{self._waiting} requests wait for the CA; ask later"
            if not refusal:
                self._waiting += 1
        if refusal:
            self._log_limiter.warn(caller.node_id, "rate", "a certificate waits: %s", refusal)
            if is_flood and on_excess is not None:
                on_excess()
            raise RequestRefusedError("RESOURCE_EXHAUSTED", refusal)
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                self._rate_limiter.leave(caller.node_id)

    def enroll(self, csr: bytes, caller: BootstrapCaller) -> issuer_pb2.IssuedIdentity:
        """Issues the first certificate of a node; blocks on the CA. Call it within `entered`.

        Raises:
            RequestRefusedError: It is refused, with the same text for every reason, or the CA
                cannot issue now.
        """
        return self._issue(self._authority.enroll, csr, caller)

    def renew(self, csr: bytes, caller: Caller) -> issuer_pb2.IssuedIdentity:
        """Issues the caller's next certificate; as `enroll`."""
        renew = partial(self._authority.renew_for, intermediates=caller.intermediates)
        return self._issue(renew, csr, caller)

    def _issue(
        self, issue: Callable[..., EnrolledIdentity], csr: bytes, caller: Caller
    ) -> issuer_pb2.IssuedIdentity:
        line = "a request of %s was refused: %s"
        try:
            if len(csr) > MAX_CSR:
                raise EnrolmentRefusedError(None, f"its request has {len(csr)} bytes")
            issued = issue(csr, caller.certificate, issuer_id=self._node_id)
        except EnrolmentRefusedError as error:
            self._log_limiter.warn(caller.node_id, str(error), line, caller.node_id, error)
            raise RequestRefusedError(*NOT_ISSUED[:2]) from error
        except CertsError as error:
            self._log_limiter.warn("CA", str(error), line, caller.node_id, error)
            reason = "the issuer cannot issue now; ask again, or another issuer"
            raise RequestRefusedError("UNAVAILABLE", reason) from error
        _log.info("%s got a certificate", caller.node_id)
        answer = issuer_pb2.IssuedIdentity(chain=issued.chain)
        size = 0
        for document in self._documents():
            size += document.ByteSize()
            if size > MAX_DOCUMENTS:
                break  # the feed brings the others
            answer.documents.append(document)
        return answer
