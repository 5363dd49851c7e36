"""Documents: what the CA of a mesh tells every process, signed. For code that builds nodes."""

from aegis_discovery.documents._authority import (
    AuthorityDocuments,
    publish_forgotten,
    publish_policy,
)
from aegis_discovery.documents._codec import (
    decode_body,
    decode_content,
    document_from_wire,
    document_to_wire,
    encode_body,
    encode_bundle,
    encode_forgotten,
    encode_issuers,
)
from aegis_discovery.documents._document import (
    MAX_AHEAD,
    MAX_CONTENT,
    NAMES,
    Change,
    Document,
    DocumentBody,
    DocumentKind,
    Forgotten,
    SignedDocument,
)
from aegis_discovery.documents._keeper import DocumentKeeper
from aegis_discovery.documents._publisher import AuthorityState, DocumentPublisher, Draft
from aegis_discovery.documents._signing import crl_document, sign_document
from aegis_discovery.documents._store import DocumentStore
from aegis_discovery.documents._verifier import DocumentVerifier, Verifier

__all__ = [
    "MAX_AHEAD",
    "MAX_CONTENT",
    "NAMES",
    "AuthorityDocuments",
    "AuthorityState",
    "Change",
    "Document",
    "DocumentBody",
    "DocumentKeeper",
    "DocumentKind",
    "DocumentPublisher",
    "DocumentStore",
    "DocumentVerifier",
    "Draft",
    "Forgotten",
    "SignedDocument",
    "Verifier",
    "crl_document",
    "decode_body",
    "decode_content",
    "document_from_wire",
    "document_to_wire",
    "encode_body",
    "encode_bundle",
    "encode_forgotten",
    "encode_issuers",
    "publish_forgotten",
    "publish_policy",
    "sign_document",
]
