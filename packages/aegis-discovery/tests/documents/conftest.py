"""A CA, and what verifies its documents."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, DocumentSigner, KeyType
from aegis_discovery.documents import (
    DocumentKind,
    DocumentStore,
    DocumentVerifier,
    SignedDocument,
    crl_document,
    sign_document,
)
from cryptography.hazmat.primitives.serialization import Encoding

MESH = "test"
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
NOW_MS = round(NOW.timestamp() * 1000)
POLICY = b'[[call]]\nservices = ["*"]\nids = ["orders-*"]\n'


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


class Authority:
    """A CA in a directory, and documents that it signs."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.ca = CertificateAuthority.create(
            directory,
            key_type=KeyType.P256,
            at=NOW,
            **options,  # type: ignore[arg-type]
        )
        self.clock = Clock()

    @property
    def signer(self) -> DocumentSigner:
        return self.ca.document_signer(at=NOW)

    def sign(
        self,
        content: bytes = POLICY,
        sequence: int = NOW_MS,
        *,
        kind: DocumentKind = DocumentKind.POLICY,
        mesh: str = MESH,
    ) -> SignedDocument:
        return sign_document(kind, content, sequence, self.signer, mesh=mesh)

    def verifier(self) -> DocumentVerifier:
        return DocumentVerifier(
            self.ca.bundle, mesh=MESH, trust_domain=self.ca.trust_domain, clock=self.clock
        )

    def store(self) -> DocumentStore:
        return DocumentStore(self.verifier(), clock=self.clock)

    def revoke(self, node_id: str) -> SignedDocument:
        tls = self.ca.issue(node_id, key_type=KeyType.P256, at=NOW)
        self.ca.revoke(f"{tls.certificate.serial_number:x}", at=NOW)
        return self.crl()

    def crl(self) -> SignedDocument:
        listed = self.ca.write_revocations(at=NOW)
        return crl_document(listed.crls[0], mesh=MESH, trust_domain=self.ca.trust_domain)

    def der(self) -> bytes:
        return self.ca.certificate.public_bytes(Encoding.DER)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certs")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    """Another CA of the same trust domain, which nobody trusts."""
    return Authority(tmp_path / "other")
