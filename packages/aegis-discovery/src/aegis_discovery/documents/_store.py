"""The documents that one process holds: the greatest of each key, with a log and a digest."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

from aegis_certs import IssuerAddress, RevocationList, TrustBundle
from cryptography import x509

from aegis_discovery.documents._document import (
    MAX_CRLS,
    Change,
    Clock,
    Document,
    DocumentKind,
    Forgotten,
    SignedDocument,
)
from aegis_discovery.documents._verifier import Verifier

if TYPE_CHECKING:
    from aegis_discovery.policy._rules import Policy

_log = logging.getLogger("aegis.documents")


MAX_PASSED_OVER = 256
"""Documents that are remembered as older than what is held; others are verified again."""


class _Entry(NamedTuple):
    document: Document
    position: int
    origin: str | None


class DocumentStore:
    """Holds verified documents. A lower sequence never replaces a higher one.

    It may be read from any thread; documents are put by one thread at a time.

    Args:
        verifier: Verifies what is received.
        clock: Unix time in seconds.
    """

    def __init__(self, verifier: Verifier, *, clock: Clock = time.time) -> None:
        self._verifier = verifier
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._digest = b""
        self._revocations: tuple[tuple[Document, ...], RevocationList] = (), RevocationList.empty()
        self._listeners: list[Callable[[Change], object]] = []
        self._wakers: list[Callable[[], object]] = []
        self._passed_over: OrderedDict[bytes, None] = OrderedDict()
        self.position = 0

    def __repr__(self) -> str:
        held = ", ".join(f"{key}={one.sequence}" for key, one in sorted(self._by_key()))
        return f"<DocumentStore {held or 'empty'}>"

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Document]:
        """Iterates over the documents, the least recently changed one first."""
        return iter([entry.document for entry in self._entries.values()])

    @property
    def digest(self) -> bytes:
        """Identifies the documents: equal where the same ones are held; empty without any."""
        return self._digest

    def receive(
        self, signed: SignedDocument, *, origin: str | None = None, at_rest: bool = False
    ) -> Change | None:
        """Verifies a document, and keeps it if it is newer than what is held.

        Args:
            signed: The document.
            origin: The node that sent it.
            at_rest: As `DocumentVerifier.verify`.

        Returns:
            The change; None if nothing changed.

        Raises:
            InvalidDocumentError: It is refused.
        """
        if self._holds(signed):
            return None
        digest = hashlib.sha256(signed.body).digest()
        if digest in self._passed_over:
            return None
        document = self._verifier.verify(signed, self._may_be_newer, at_rest=at_rest)
        change = None if document is None else self.put(document, origin=origin)
        if change is None and document is not None:
            # To read an old revocation list takes long, and a peer may send it again and again.
            self._passed_over[digest] = None
            if len(self._passed_over) > MAX_PASSED_OVER:
                self._passed_over.popitem(last=False)
        return change

    def put(self, document: Document, *, origin: str | None = None) -> Change | None:
        """Keeps a verified document if it is newer; returns the change, or None.

        Listeners are called before this returns.
        """
        with self._lock:
            held = self._entries.get(document.key)
            if held is not None and held.document.precedence >= document.precedence:
                return None
            if held is None and len(self._entries) >= MAX_CRLS + len(DocumentKind):
                return None
            self.position += 1
            entries = {key: one for key, one in self._entries.items() if key != document.key}
            entries[document.key] = _Entry(document, self.position, origin)
            self._replace(entries)
        change = Change(document, held.document if held else None)
        for listener in list(self._listeners):
            try:
                listener(change)
            except Exception:  # noqa: BLE001 - what one listener cannot apply is still passed on
                _log.exception("the document %s could not be applied", document.key)
        for wake in list(self._wakers):
            wake()
        return change

    def retain_crls(self, cas: Collection[x509.Certificate]) -> None:
        """Drops the CRLs of all CAs but these: what they list is not trusted any more."""

        def is_kept(document: Document) -> bool:
            value = document.value
            return not isinstance(value, RevocationList) or value.is_of(cas)

        with self._lock:
            kept = {key: one for key, one in self._entries.items() if is_kept(one.document)}
            if len(kept) < len(self._entries):
                self._replace(kept)

    def _replace(self, entries: dict[str, _Entry]) -> None:
        # As a whole: other threads iterate over it.
        self._entries = entries
        parts = sorted(key.encode() + one.document.digest for key, one in entries.items())
        self._digest = hashlib.sha256(b"".join(parts)).digest() if parts else b""

    def subscribe(self, listener: Callable[[Change], object]) -> None:
        """Calls back on each accepted document, in the thread that received it."""
        self._listeners.append(listener)

    def subscribe_changed(self, wake: Callable[[], object]) -> Callable[[], None]:
        """Calls back after each accepted document; returns a function that ends this."""
        self._wakers.append(wake)
        return lambda: self._wakers.remove(wake)

    def changed_since(self, position: int, *, reader: str | None = None) -> list[Document]:
        """Returns the documents that changed after a position, for a watcher who can verify them.

        Those that `reader` sent, and those whose signer has expired, are left out.
        """
        now = self._clock()
        return [
            entry.document
            for entry in self._entries.values()
            if entry.position > position
            and (reader is None or entry.origin != reader)
            and entry.document.signer_until > now
        ]

    def get(self, kind: DocumentKind) -> Document | None:
        """Returns the document of a kind of which there is one."""
        entry = self._entries.get(kind.value)
        return entry.document if entry else None

    @property
    def crls(self) -> tuple[Document, ...]:
        """The CRL of each CA."""
        return tuple(one for one in self if one.kind is DocumentKind.CRL)

    @property
    def revocations(self) -> RevocationList:
        """What all published CRLs revoke: the same object until one of them changes."""
        crls = self.crls
        known, found = self._revocations
        if crls != known:
            found = RevocationList.empty()
            for document in crls:
                assert isinstance(document.value, RevocationList)  # noqa: S101 - verified
                found = found.joined(document.value)
            self._revocations = crls, found
        return found

    @property
    def bundle(self) -> TrustBundle | None:
        """The published trust bundle."""
        value = self._value(DocumentKind.BUNDLE)
        return value if isinstance(value, TrustBundle) else None

    @property
    def policy(self) -> Policy | None:
        """The published policy."""
        value = self._value(DocumentKind.POLICY)
        if value is None:
            return None
        from aegis_discovery.policy._rules import Policy  # loaded with the policy

        return value if isinstance(value, Policy) else None

    @property
    def issuers(self) -> tuple[IssuerAddress, ...]:
        """The nodes that issue certificates."""
        value = self._value(DocumentKind.ISSUERS)
        return value if isinstance(value, tuple) else ()

    @property
    def forgotten(self) -> tuple[Forgotten, ...]:
        """The lives that the mesh forgets; empty if none are published."""
        return self._lives(DocumentKind.FORGET)

    @property
    def drained(self) -> tuple[Forgotten, ...]:
        """The lives that are to drain and end; empty if none are published."""
        return self._lives(DocumentKind.DRAIN)

    def _lives(self, kind: DocumentKind) -> tuple[Forgotten, ...]:
        value = self._value(kind)
        return value if isinstance(value, tuple) else ()

    @property
    def forgotten_until(self) -> dict[tuple[str, str], int]:
        """The same for `Topology.forget`."""
        return {(one.node_id, one.instance): one.until for one in self.forgotten}

    def _value(self, kind: DocumentKind) -> object:
        document = self.get(kind)
        return None if document is None else document.value

    def _holds(self, signed: SignedDocument) -> bool:
        """Tells whether these very bytes are held, as most that arrive are."""
        return any(entry.document.signed == signed for entry in self._entries.values())

    def _may_be_newer(self, kind: DocumentKind, sequence: int) -> bool:
        held = self.get(kind)
        return held is None or sequence >= held.sequence

    def _by_key(self) -> Iterator[tuple[str, Document]]:
        return ((key, entry.document) for key, entry in self._entries.items())
