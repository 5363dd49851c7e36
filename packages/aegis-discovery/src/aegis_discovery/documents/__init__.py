"""Documents: what the CA of a mesh tells every process, signed. For code that builds nodes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_discovery.documents._authority import (
        AuthorityDocuments,
        publish_drained,
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
    "publish_drained",
    "publish_forgotten",
    "publish_policy",
    "sign_document",
]

_HOMES = {
    "AuthorityDocuments": "_authority",
    "AuthorityState": "_publisher",
    "Change": "_document",
    "Document": "_document",
    "DocumentBody": "_document",
    "DocumentKeeper": "_keeper",
    "DocumentKind": "_document",
    "DocumentPublisher": "_publisher",
    "DocumentStore": "_store",
    "DocumentVerifier": "_verifier",
    "Draft": "_publisher",
    "Forgotten": "_document",
    "MAX_AHEAD": "_document",
    "MAX_CONTENT": "_document",
    "NAMES": "_document",
    "SignedDocument": "_document",
    "Verifier": "_verifier",
    "crl_document": "_signing",
    "decode_body": "_codec",
    "decode_content": "_codec",
    "document_from_wire": "_codec",
    "document_to_wire": "_codec",
    "encode_body": "_codec",
    "encode_bundle": "_codec",
    "encode_forgotten": "_codec",
    "encode_issuers": "_codec",
    "publish_drained": "_authority",
    "publish_forgotten": "_authority",
    "publish_policy": "_authority",
    "sign_document": "_signing",
}


def __getattr__(name: str) -> Any:
    # A client needs few of these names, and each module takes time to load.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
