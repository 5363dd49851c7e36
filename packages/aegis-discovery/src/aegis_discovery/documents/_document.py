"""Documents: what the CA of a mesh tells every process. Pure values, with their limits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

Clock = Callable[[], float]

CONTEXT = "aegis.mesh.v1 document"
"""In the body of each document, so that no other signature is valid for a document."""

MAX_AHEAD = 300.0
"""Seconds that a sequence may be ahead of the receiver's clock."""

MAX_CRLS = 32
"""CAs of which a process keeps the CRL."""

MAX_SIGNER = 4096
"""Bytes of the certificate of a signer."""

MAX_SIGNATURE = 1024
"""Bytes of a signature."""

MAX_BODY_OVERHEAD = 2048
"""Bytes of a body besides its content: the names of the mesh and of the trust domain."""


class DocumentKind(StrEnum):
    """The kinds of documents."""

    CRL = "crl"
    BUNDLE = "bundle"
    ISSUERS = "issuers"
    POLICY = "policy"
    FORGET = "forget"
    DRAIN = "drain"


NAMES = {
    DocumentKind.CRL: "revocation list",
    DocumentKind.BUNDLE: "trust bundle",
    DocumentKind.ISSUERS: "list of issuers",
    DocumentKind.POLICY: "policy",
    DocumentKind.FORGET: "list of forgotten nodes",
    DocumentKind.DRAIN: "list of nodes that drain",
}
"""What each kind is called in texts."""

MAX_CRL = 512 * 1024
"""Bytes of a CRL: some 12 000 revocations."""

MAX_OTHER = 64 * 1024
"""Bytes of the content of any other document."""

MAX_CONTENT = {kind: MAX_CRL if kind is DocumentKind.CRL else MAX_OTHER for kind in DocumentKind}
"""Bytes of the content of each kind. The largest message of a feed has one CRL and 64 KiB."""


class SignedDocument(NamedTuple):
    """A document with the bytes that its signer signed.

    Attributes:
        body: A serialised `DocumentBody`.
        signature: Over the body; empty for a CRL, which its CA signed.
        signer: The certificate of the signer (DER); empty for a CRL.
    """

    body: bytes
    signature: bytes = b""
    signer: bytes = b""


class DocumentBody(NamedTuple):
    """What a body says; nothing of it is verified."""

    context: str
    mesh: str
    trust_domain: str
    kind: str
    sequence: int
    content: bytes


class Document(NamedTuple):
    """A verified document.

    Attributes:
        kind: Its kind.
        key: What it replaces: the last document with this key.
        sequence: Milliseconds of the signer's clock; the number of a CRL.
        content: Its content.
        value: The content, parsed: `RevocationList`, `TrustBundle`, `Policy`, or a tuple of
            `IssuerAddress` or of `Forgotten`.
        signed: The bytes that travel.
        signer_until: The end of the signer's certificate (Unix seconds): who has no document yet
            cannot verify this one afterwards. Infinity for a CRL.
    """

    kind: DocumentKind
    key: str
    sequence: int
    content: bytes
    value: object
    signed: SignedDocument
    signer_until: float = float("inf")

    def __repr__(self) -> str:
        return f"Document({self.kind.value}, key={self.key!r}, sequence={self.sequence})"

    @property
    def digest(self) -> bytes:
        """SHA-256 of what was signed: of a CRL itself, as many bodies may contain the same one."""
        is_crl = self.kind is DocumentKind.CRL
        return hashlib.sha256(self.content if is_crl else self.signed.body).digest()

    @property
    def content_digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def precedence(self) -> tuple[int, bytes]:
        """Orders the documents of one key: the greatest counts."""
        return self.sequence, self.digest


class Forgotten(NamedTuple):
    """A life of a node that the mesh forgets, or that drains and ends.

    Attributes:
        node_id: The node id.
        instance: The life: another one under this id is welcome.
        until: Records with later stamps (Unix milliseconds) are welcome too: the node is alive.
    """

    node_id: str
    instance: str
    until: int


class Change(NamedTuple):
    """A document that was accepted.

    Attributes:
        document: The document.
        before: The one that it replaced, or None.
    """

    document: Document
    before: Document | None

    @property
    def is_news(self) -> bool:
        """Whether the content differs; if not, it was only signed anew."""
        return self.before is None or self.before.content != self.document.content
