"""Renewal at the issuers of the mesh, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from aegis_certs import IdentitySource, IssuerAddress, TLSConfig

from aegis_discovery.errors import EnrolmentError

TIMEOUT = 120.0
"""Seconds that one attempt takes at most; after it the rotator waits and tries again."""

UNSHARED = (
    "its workers need a directory that they can write, to share the new key; give them one "
    "(cert_dir), or replace its files from outside in time"
)
SERVER_ONLY = (
    "it may not be used to call, and to ask an issuer is a call; issue it for both usages, or "
    "renew it where the CA's key is"
)


class MeshRenewal:
    """Asks issuers for the successor of an identity, as `identity.RemoteRenewal` describes.

    Args:
        source: The identity's source, which keeps the new key and its certificate.
        issuers: Returns those that the mesh lists now.
        is_shared: Whether other processes have the same identity. Then its directory must be
            writable: each would ask with a key of its own, and only one of them is answered.
    """

    def __init__(
        self,
        source: IdentitySource,
        issuers: Callable[[], Sequence[IssuerAddress]],
        *,
        is_shared: bool = False,
    ) -> None:
        self._source = source
        self._issuers = issuers
        self._is_shared = is_shared
        self._running: Future[TLSConfig] | None = None
        self._cancelled = threading.Event()

    @property
    def is_possible(self) -> bool:
        return bool(self._issuers())

    @property
    def is_running(self) -> bool:
        return self._running is not None

    def obstacle(self, tls: TLSConfig) -> str:
        if "client" not in tls.usages:
            return SERVER_ONLY
        return UNSHARED if self._is_shared and not self._source.keeps_renewals else ""

    def begin(self, tls: TLSConfig) -> None:
        future = self._running = Future[TLSConfig]()

        def run() -> None:
            try:
                future.set_result(self.renew(tls))
            except BaseException as error:  # noqa: BLE001 - `result` raises it
                future.set_exception(error)

        # A daemon: a process that stops does not wait for an issuer.
        threading.Thread(target=run, name="aegis-renewal", daemon=True).start()

    def result(self) -> TLSConfig | None:
        running = self._running
        if running is None or not running.done():
            return None
        self._running = None
        return running.result()

    def close(self) -> None:
        """Ends an attempt early."""
        self._cancelled.set()

    def renew(self, tls: TLSConfig, timeout: float = TIMEOUT) -> TLSConfig:
        """Gets and installs the successor of an identity; blocks.

        Raises:
            aegis_certs.LockTimeoutError: Another process renews this identity.
            EnrolmentError: No issuer gave a certificate, or none may be asked.
        """
        if "client" not in tls.usages:
            raise EnrolmentError({tls.node_id: SERVER_ONLY})
        from aegis_discovery.enrolment._ask import ask_issuers  # a renewal is rare

        with self._source.requesting(tls) as request:
            if request.is_in_memory and self._is_shared:
                raise EnrolmentError({tls.node_id: UNSHARED})
            pair = ask_issuers(
                self._issuers(),
                tls,
                "Renew",
                request.csr,
                lambda answer: request.verify(tuple(answer.chain)),
                timeout=timeout,
                rounds=1,
                cancelled=self._cancelled,
            )
            return request.install(pair)
