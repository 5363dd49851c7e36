"""Makes documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis_discovery.documents._codec import encode_body
from aegis_discovery.documents._document import (
    CONTEXT,
    MAX_CONTENT,
    DocumentBody,
    DocumentKind,
    SignedDocument,
)
from aegis_discovery.errors import InvalidDocumentError

if TYPE_CHECKING:
    from aegis_certs import DocumentSigner


def sign_document(
    kind: DocumentKind, content: bytes, sequence: int, signer: DocumentSigner, *, mesh: str
) -> SignedDocument:
    """Makes and signs a document.

    Args:
        kind: Its kind, but not a CRL.
        content: Its content.
        sequence: Milliseconds of this clock, and greater than that of the one before.
        signer: Signs it.
        mesh: The mesh that it is for.

    Raises:
        InvalidDocumentError: The content is too large.
    """
    check_size(kind, content)
    body = encode_body(
        DocumentBody(CONTEXT, mesh, signer.trust_domain, kind.value, sequence, content)
    )
    return SignedDocument(body, signer.sign(body), signer.der)


def crl_document(crl: bytes, *, mesh: str, trust_domain: str, number: int = 0) -> SignedDocument:
    """Makes the document of a CRL (DER), which its CA has signed.

    Raises:
        InvalidDocumentError: It is too large.
    """
    check_size(DocumentKind.CRL, crl)
    kind, sequence = DocumentKind.CRL.value, min(number, 2**64 - 1)
    return SignedDocument(
        encode_body(DocumentBody(CONTEXT, mesh, trust_domain, kind, sequence, crl))
    )


def check_size(kind: DocumentKind, content: bytes) -> None:
    """Refuses a content that no receiver would accept.

    Raises:
        InvalidDocumentError: It is too large.
    """
    limit = MAX_CONTENT[kind]
    if len(content) > limit:
        reason = f"its content has {len(content)} bytes, the limit is {limit}"
        raise InvalidDocumentError(kind, reason)
