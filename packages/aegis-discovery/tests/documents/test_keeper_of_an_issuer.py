"""The documents of a process whose directory has the key of the CA."""

from __future__ import annotations

import time
from pathlib import Path

from aegis_certs import CertificateAuthority, IdentitySource, KeyType
from aegis_discovery.documents import DocumentKeeper, DocumentKind, encode_bundle, sign_document


def test_an_issuer_trusts_no_root_that_its_directory_has_retired(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    ca.issue("ca-1", key_type=KeyType.P256)
    source = IdentitySource.directory("ca-1", tmp_path)
    keeper = DocumentKeeper(source.load(), mesh="mesh", files=source.published)
    keeper.load()
    ca.prepare_rotation()
    both = sign_document(
        DocumentKind.BUNDLE,
        encode_bundle(ca.bundle),
        round(time.time() * 1000),
        ca.document_signer(),
        mesh="mesh",
    )
    assert keeper.store.receive(both) is not None
    ca.activate_rotation(confirm=True)
    ca.renew("ca-1")
    ca.retire_rotation()
    fresh = source.poll()  # before this issuer has published the bundle without the old root
    assert fresh is not None
    assert keeper.trusting(fresh).bundle.certificates == (ca.certificate,)
