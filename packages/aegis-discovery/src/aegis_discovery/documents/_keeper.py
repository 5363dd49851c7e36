"""The documents of one process: kept in its directory, and applied to its identity."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from aegis_certs import (
    CertsError,
    DirectoryError,
    PublishedFiles,
    RevocationList,
    TLSConfig,
    TrustBundle,
    needed_cas,
)
from cryptography import x509

from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery.documents._document import Change, Clock, DocumentKind
from aegis_discovery.documents._store import DocumentStore
from aegis_discovery.documents._verifier import DocumentVerifier
from aegis_discovery.errors import InvalidDocumentError

_log = logging.getLogger("aegis.documents")

_KEPT = tuple(kind for kind in DocumentKind if kind is not DocumentKind.CRL)

RETRY = 60.0
"""Seconds after which a document is written again that could not be; a new one is at once."""


class DocumentKeeper:
    """Holds the documents of one process.

    A directory that cannot be written is no error: documents and what follows from them are then
    in memory only, and are fetched again after a restart.

    Args:
        tls: The identity of the process.
        mesh: The name of the mesh.
        files: Where they are kept; None for memory only.
        clock: Unix time in seconds.

    Attributes:
        store: The documents.
    """

    def __init__(
        self,
        tls: TLSConfig,
        *,
        mesh: str,
        files: PublishedFiles | None = None,
        clock: Clock = time.time,
    ) -> None:
        self._mesh = mesh
        self._files = files
        self._verifier = DocumentVerifier(
            tls.bundle,
            mesh=mesh,
            trust_domain=tls.trust_domain,
            intermediates=tls.chain[1:],
            clock=clock,
        )
        self._trust_domain = tls.trust_domain or ""
        self.store = DocumentStore(self._verifier, clock=clock)
        self.store.subscribe(self._on_change)
        self._log_limiter = LogLimiter(_log)
        self._unsaved: dict[str, Change] = {}
        self._failed: dict[str, tuple[Change, float]] = {}
        # The published CAs, until the files of the identity have them.
        self._published: TrustBundle | None = None
        self._has_ca_key = False
        self._lock = threading.Lock()  # what arrives is noted in one thread and saved in another

    def load(self) -> None:
        """Reads what the directory has kept, and verifies it again; it blocks.

        What is lost or damaged is fetched again.
        """
        if self._files is None or not self._trust_domain:
            return
        self._has_ca_key = self._files.has_ca_key
        for crl in self._files.read_crls():
            self._load(DocumentKind.CRL.value, crl)
        for kind in _KEPT:
            name = self._name_of(kind)
            try:
                data = self._files.read(name)
            except DirectoryError as error:
                _log.warning("a document is fetched again: %s", error)
            else:
                if data is not None:
                    self._load(name, data)
        self._unsaved.clear()
        self._published = None

    def _load(self, name: str, data: bytes) -> None:
        from aegis_discovery.documents._codec import decode_kept
        from aegis_discovery.documents._signing import crl_document

        try:
            if name == DocumentKind.CRL:
                signed = crl_document(data, mesh=self._mesh, trust_domain=self._trust_domain)
            else:
                signed = decode_kept(data)
            self.store.receive(signed, at_rest=True)
        except InvalidDocumentError as error:
            _log.info("what the directory has kept is fetched again (%s): %s", name, error)

    def _on_change(self, change: Change) -> None:
        key, value = change.document.key, change.document.value
        with self._lock:
            if isinstance(value, TrustBundle) and change.is_news:
                self._published = value
            earlier = self._unsaved.get(key)
            if earlier is not None:
                # An issuer often signs what is new again, and the files have neither yet.
                change = Change(change.document, earlier.before)
            self._unsaved[key] = change

    # `Published` of the identity rotator

    @property
    def revocations(self) -> RevocationList:
        """What all published CRLs revoke: the same object until one of them changes."""
        return self.store.revocations

    def trusting(self, tls: TLSConfig) -> TLSConfig:
        """Returns an identity that trusts the published CAs, unless its files have them already.

        A CA that the own certificate still chains to is kept, whatever is published.
        """
        published = self._published
        if published is None:
            return tls
        if self._has_ca_key:
            # The file beside it is the source of the published roots: an earlier document may have
            # one that this directory has retired. Other issuers add their intermediate CAs.
            others = [ca for ca in published.certificates if ca.subject != ca.issuer]
            cas = tuple(dict.fromkeys((*tls.bundle.certificates, *others)))
            return tls if cas == tls.bundle.certificates else _trusting(tls, cas)
        if kept := needed_cas(tls.chain, tls.bundle, published):
            line = (
                "%s keeps trusting the CA of its own certificate, which is not published any more"
            )
            self._log_limiter.warn("bundle", published.fingerprint, line, tls.node_id)
        cas = tuple(dict.fromkeys((*published.certificates, *kept)))
        known = tls.bundle.certificates
        # Only the place of the first matters: it says which CA issues now.
        is_same = {*cas} == {*known} and cas[0] == known[0]
        return tls if is_same else _trusting(tls, cas)

    def save(self) -> None:
        """Writes what has changed to the directory of the identity; it blocks."""
        if self._files is None:
            return
        now = time.monotonic()
        for key, change in list(self._unsaved.items()):
            failed, retry_at = self._failed.get(key, (None, 0.0))
            if change is failed and now < retry_at:
                continue
            try:
                self._write(self._files, change)
            except CertsError as error:
                # A full disk is no reason to lose a revocation at the next restart.
                self._failed[key] = change, now + RETRY
                line = "a published document stays in memory only: %s"
                self._log_limiter.log_change(logging.WARNING, key, str(error), line, error)
                continue
            self._failed.pop(key, None)
            self._log_limiter.forget(key)
            with self._lock:
                if self._unsaved.get(key) is change:
                    del self._unsaved[key]

    def _write(self, files: PublishedFiles, change: Change) -> None:
        document = change.document
        if isinstance(document.value, RevocationList):
            files.merge_revocations(document.value)
            return
        if isinstance(document.value, TrustBundle) and change.is_news:
            files.replace_bundle(document.value)
        from aegis_discovery.documents._codec import encode_kept

        files.write(self._name_of(document.kind), encode_kept(document.signed))
        self._has_ca_key = files.has_ca_key
        with self._lock:
            if not self._has_ca_key and document.value == self._published:
                self._published = None

    def _name_of(self, kind: DocumentKind) -> str:
        mesh = hashlib.sha256(self._mesh.encode()).hexdigest()[:8]
        return f"{kind}-{mesh}.document"

    # The identity

    def change_identity(self, tls: TLSConfig) -> None:
        """Verifies by the CAs of this identity from now on."""
        self._verifier.change_bundle(tls.bundle, tls.chain[1:])
        self.store.retain_crls((*tls.bundle.certificates, *tls.chain[1:]))

    def apply_revocations(self, revocations: RevocationList) -> None:
        """Refuses revoked signers from now on."""
        self._verifier.apply_revocations(revocations)


def _trusting(tls: TLSConfig, cas: Sequence[x509.Certificate]) -> TLSConfig:
    return replace(tls, trust_bundle=TrustBundle(cas).pem)
