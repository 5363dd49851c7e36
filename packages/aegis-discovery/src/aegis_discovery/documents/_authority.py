"""Publishes what the directory of a CA says. Its methods block, and no two may run at once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aegis_certs import PublishedFiles

from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery.documents._codec import decode_content, encode_forgotten
from aegis_discovery.documents._document import (
    NAMES,
    Clock,
    DocumentKind,
    Forgotten,
    SignedDocument,
)
from aegis_discovery.documents._publisher import (
    MAX_FORGOTTEN,
    AuthorityState,
    DocumentPublisher,
    Draft,
)
from aegis_discovery.documents._signing import check_size, crl_document, sign_document
from aegis_discovery.documents._store import DocumentStore
from aegis_discovery.errors import InvalidDocumentError

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority

_log = logging.getLogger("aegis.documents")

CHECK_EVERY = 60.0
"""Seconds between two checks whether a signer ends; changed files are seen at each poll."""

POLICY_FILE = "policy.toml"
LIVES_FILES = {DocumentKind.FORGET: "forget.json", DocumentKind.DRAIN: "drain.json"}
_PUBLISHED_FILE = "published.json"


class AuthorityDocuments:
    """Signs the documents of an issuer, whose directory has the key of the CA.

    Args:
        authority: The CA.
        mesh: The name of the mesh.
        store: The documents of the issuer's own process; read only.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        authority: CertificateAuthority,
        *,
        mesh: str,
        store: DocumentStore,
        clock: Clock = time.time,
    ) -> None:
        self._authority = authority
        self._mesh = mesh
        self._store = store
        self._clock = clock
        self._files = PublishedFiles(authority.directory)
        self._domain = authority.trust_domain
        self._publisher: DocumentPublisher | None = None
        self._seen: object = None
        self._check_at = 0.0
        self._log_limiter = LogLimiter(_log)

    def poll(self) -> Iterator[SignedDocument]:
        """Yields what is to be put into the store now. Call it every second or so.

        Raises:
            CertsError: The directory cannot be used.
        """
        now = self._clock()
        seen = (self._files.stat_keys(POLICY_FILE, *LIVES_FILES.values()), self._store.position)
        if seen == self._seen and now < self._check_at:
            return
        yield from self._crls()
        state = self._state()
        if self._publisher is None:
            self._publisher = DocumentPublisher(self._domain, self._read_published())
        yield from map(self._sign, self._publisher.drafts(state, self._store, now))
        before = self._publisher.published
        self._publisher.note_published(state)
        if self._publisher.published != before:
            content = json.dumps(self._publisher.published).encode()
            self._files.write(_PUBLISHED_FILE, content)
        # Not before everything has succeeded: what failed is tried again at the next poll.
        self._seen, self._check_at = (seen[0], self._store.position), now + CHECK_EVERY

    def _crls(self) -> Iterator[SignedDocument]:
        for crl in self._files.read_crls():
            try:
                yield crl_document(crl, mesh=self._mesh, trust_domain=self._domain)
            except InvalidDocumentError as error:
                self._log_limiter.warn("crl", error.reason, "crl.pem is not published: %s", error)

    def _state(self) -> AuthorityState:
        bundle = self._files.read_bundle()
        return AuthorityState(
            bundle=self._authority.bundle if bundle is None else bundle,
            policy=self._read_policy(),
            issuers=self._files.read_issuers(),
            forgotten=read_lives(self._files, DocumentKind.FORGET),
            drained=read_lives(self._files, DocumentKind.DRAIN),
        )

    def _read_policy(self) -> bytes | None:
        content = self._files.read(POLICY_FILE)
        if content is None:
            return None
        try:
            check_policy(content)
        except InvalidDocumentError as error:
            # The command checks it, so somebody has edited this copy.
            self._log_limiter.warn("policy", error.reason, "no policy is published: %s", error)
            return None
        return content

    def _sign(self, draft: Draft) -> SignedDocument:
        signer = self._authority.document_signer(at=datetime.fromtimestamp(self._clock(), UTC))
        _log.info("the %s is published", NAMES[draft.kind])
        return sign_document(draft.kind, draft.content, draft.sequence, signer, mesh=self._mesh)

    def _read_published(self) -> Mapping[str, str]:
        data = self._files.read(_PUBLISHED_FILE)
        try:
            content = json.loads(data or b"{}")
            return {str(kind): str(digest) for kind, digest in content.items()}
        except (ValueError, AttributeError, RecursionError):
            return {}


def check_policy(content: bytes) -> None:
    """Refuses a policy that no process would accept.

    Raises:
        InvalidDocumentError: It is too large, or no valid policy.
    """
    check_size(DocumentKind.POLICY, content)
    decode_content(DocumentKind.POLICY, content)


def publish_policy(directory: PublishedFiles, content: bytes) -> None:
    """Lets the issuers of a CA's directory publish a policy; it blocks.

    Raises:
        InvalidDocumentError: It is too large, or no valid policy.
        CertsError: The directory cannot be written.
    """
    check_policy(content)
    directory.write(POLICY_FILE, content)


def read_lives(directory: PublishedFiles, kind: DocumentKind) -> tuple[Forgotten, ...]:
    """Returns the lives of nodes in a file of a CA's directory; it blocks."""
    name = LIVES_FILES[kind]
    content = directory.read(name)
    if content is None:
        return ()
    try:
        found = decode_content(kind, content)
    except InvalidDocumentError as error:
        _log.warning("%s in %r is left unread: %s", name, directory, error)
        return ()
    return found if isinstance(found, tuple) else ()


def publish_forgotten(directory: PublishedFiles, life: Forgotten) -> None:
    """Lets the issuers of a CA's directory make the mesh forget a life of a node; it blocks.

    Raises:
        CertsError: The directory cannot be written.
    """
    _publish_life(directory, DocumentKind.FORGET, life)


def publish_drained(directory: PublishedFiles, life: Forgotten) -> None:
    """Lets the issuers of a CA's directory make a life of a node drain and end; it blocks.

    Raises:
        CertsError: The directory cannot be written.
    """
    _publish_life(directory, DocumentKind.DRAIN, life)


def _publish_life(directory: PublishedFiles, kind: DocumentKind, life: Forgotten) -> None:
    lives = {(one.node_id, one.instance): one for one in read_lives(directory, kind)}
    lives[life.node_id, life.instance] = life
    newest = sorted(lives.values(), key=lambda one: one.until)[-MAX_FORGOTTEN:]
    directory.write(LIVES_FILES[kind], encode_forgotten(newest))
