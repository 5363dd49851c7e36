"""Which documents a process keeps."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import pytest
from aegis_certs import DocumentSigner, IssuerAddress, TrustBundle
from aegis_discovery import InvalidDocumentError
from aegis_discovery.documents import (
    MAX_CONTENT,
    Change,
    DocumentKind,
    DocumentStore,
    DocumentVerifier,
    Forgotten,
    SignedDocument,
    crl_document,
    encode_bundle,
    encode_forgotten,
    encode_issuers,
    sign_document,
)
from aegis_discovery.policy import Subject
from aegis_discovery.proto import mesh_pb2

from .conftest import MESH, NOW, NOW_MS, POLICY, Authority

DAY = 24 * 3600
OTHER_POLICY = POLICY.replace(b"orders", b"billing")


def make(authority: Authority, kind: DocumentKind, content: bytes) -> SignedDocument:
    if kind is DocumentKind.CRL:
        return crl_document(content, mesh=MESH, trust_domain=authority.ca.trust_domain)
    return authority.sign(content, kind=kind)


def test_a_document_of_the_authority_is_kept_and_listeners_are_told(authority: Authority) -> None:
    store = authority.store()
    changes: list[Change] = []
    store.subscribe(changes.append)
    assert store.receive(authority.sign()) is not None
    assert store.policy is not None
    assert store.policy.may_call(Subject("orders-1"), "a", "b")
    assert [(change.document.kind, change.is_news) for change in changes] == [("policy", True)]


def test_what_is_held_is_received_again_without_a_change(authority: Authority) -> None:
    store = authority.store()
    document = authority.sign()
    store.receive(document)
    digest = store.digest
    assert store.receive(document) is None
    assert store.digest == digest


def test_the_highest_sequence_counts_and_a_lower_one_never_returns(authority: Authority) -> None:
    store = authority.store()
    store.receive(authority.sign(POLICY, NOW_MS))
    assert store.receive(authority.sign(OTHER_POLICY, NOW_MS - 1)) is None
    assert store.receive(authority.sign(OTHER_POLICY, NOW_MS + 1)) is not None
    assert store.receive(authority.sign(POLICY, NOW_MS)) is None
    held = store.get(DocumentKind.POLICY)
    assert held is not None
    assert held.content == OTHER_POLICY


def test_of_equal_sequences_the_greater_hash_counts_in_every_order(authority: Authority) -> None:
    documents = [authority.sign(POLICY + b"#" * i) for i in range(3)]
    greatest = max(documents, key=lambda one: hashlib.sha256(one.body).digest())
    for order in itertools.permutations(documents):
        store = authority.store()
        for document in order:
            store.receive(document)
        held = store.get(DocumentKind.POLICY)
        assert held is not None
        assert held.signed == greatest


def test_a_document_that_is_only_signed_anew_is_no_news(authority: Authority) -> None:
    store = authority.store()
    store.receive(authority.sign())
    change = store.receive(authority.sign(sequence=NOW_MS + 1))
    assert change is not None
    assert not change.is_news


def test_a_sequence_more_than_five_minutes_ahead_is_refused_for_now(authority: Authority) -> None:
    store = authority.store()
    store.receive(authority.sign(sequence=NOW_MS + 300_000))
    with pytest.raises(InvalidDocumentError, match="ahead of this clock") as found:
        store.receive(authority.sign(sequence=NOW_MS + 310_000))
    assert found.value.is_temporary
    authority.clock.now += 10
    assert store.receive(authority.sign(sequence=NOW_MS + 310_000)) is not None


def test_documents_of_other_signers_are_refused(authority: Authority, other: Authority) -> None:
    store = authority.store()
    member = authority.ca.issue_in_memory("a")
    leaf = member.certificate
    fake = DocumentSigner(leaf, member.key, authority.ca.trust_domain)
    root = DocumentSigner(
        authority.ca.certificate, authority.ca._session.issuer.key, authority.ca.trust_domain
    )
    for signer in (fake, root, other.signer):
        with pytest.raises(InvalidDocumentError):
            store.receive(sign_document(DocumentKind.POLICY, POLICY, NOW_MS, signer, mesh=MESH))
    assert len(store) == 0


def test_a_signer_counts_while_it_is_valid_and_not_revoked(authority: Authority) -> None:
    store, document = authority.store(), authority.sign()
    authority.clock.now += 8 * DAY
    with pytest.raises(InvalidDocumentError, match="expired"):
        store.receive(document)
    verifier = authority.verifier()
    authority.ca.revoke(f"{authority.signer.certificate.serial_number:x}", at=NOW)
    verifier.apply_revocations(authority.ca.write_revocations(at=NOW))
    authority.clock.now -= 8 * DAY
    with pytest.raises(InvalidDocumentError, match="revoked"):
        verifier.verify(document)


def test_what_its_own_directory_kept_counts_after_its_signer_has_expired(
    authority: Authority,
) -> None:
    store, document = authority.store(), authority.sign()
    authority.clock.now += 20 * DAY
    assert store.receive(document, at_rest=True) is not None
    assert store.changed_since(0) == [], "nobody else could verify it"


@pytest.mark.parametrize("change", ["body", "signature", "signer"])
def test_changed_bytes_are_refused(authority: Authority, change: str) -> None:
    document = authority.sign()
    data = bytearray(getattr(document, change))
    for at in range(0, len(data), max(1, len(data) // 40)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        store = authority.store()
        with contextlib.suppress(InvalidDocumentError):
            store.receive(document._replace(**{change: bytes(damaged)}))
        assert len(store) == 0


def test_documents_of_other_meshes_are_refused(authority: Authority) -> None:
    with pytest.raises(InvalidDocumentError, match="mesh 'other'"):
        authority.store().receive(authority.sign(mesh="other"))
    signer = dataclasses.replace(authority.signer, trust_domain="other.example")
    with pytest.raises(InvalidDocumentError, match="trust domain"):
        authority.store().receive(
            sign_document(DocumentKind.POLICY, POLICY, NOW_MS, signer, mesh=MESH)
        )


def test_an_unknown_kind_is_passed_over(authority: Authority) -> None:
    body = mesh_pb2.DocumentBody(
        context="aegis.mesh.v1 document",
        mesh=MESH,
        trust_domain=authority.ca.trust_domain,
        kind="weather",
        sequence=NOW_MS,
    ).SerializeToString()
    signed = SignedDocument(body, authority.signer.sign(body), authority.signer.der)
    store = authority.store()
    assert store.receive(signed) is None
    assert len(store) == 0


@pytest.mark.parametrize("kind", list(DocumentKind))
def test_a_content_that_is_too_large_is_refused_at_both_ends(
    authority: Authority, kind: DocumentKind
) -> None:
    content = bytes(MAX_CONTENT[kind] + 1)
    with pytest.raises(InvalidDocumentError, match="limit"):
        make(authority, kind, content)
    body = mesh_pb2.DocumentBody(
        context="aegis.mesh.v1 document",
        mesh=MESH,
        trust_domain=authority.ca.trust_domain,
        kind=kind.value,
        sequence=NOW_MS,
        content=content,
    ).SerializeToString()
    signed = SignedDocument(body, authority.signer.sign(body), authority.signer.der)
    with pytest.raises(InvalidDocumentError, match="limit"):
        authority.store().receive(signed)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (DocumentKind.POLICY, b"not toml ["),
        (DocumentKind.POLICY, b"\xff"),
        (DocumentKind.BUNDLE, b""),
        (DocumentKind.BUNDLE, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (DocumentKind.ISSUERS, b"{}"),
        (DocumentKind.ISSUERS, b"[" * 60_000),
        (DocumentKind.ISSUERS, b'[{"id":"NOT AN ID","address":"a:1"}]'),
        (DocumentKind.ISSUERS, b'[{"id":"a","address":"nowhere"}]'),
        (DocumentKind.FORGET, b'[{"id":"a","instance":"","until":1}]'),
        (DocumentKind.FORGET, b'[{"id":"a","instance":"x","until":true}]'),
        (DocumentKind.FORGET, json.dumps([{"id": "a"}] * 600).encode()),
    ],
)
def test_a_malformed_content_is_refused_though_its_signature_is_good(
    authority: Authority, kind: DocumentKind, content: bytes
) -> None:
    with pytest.raises(InvalidDocumentError, match="content"):
        authority.store().receive(authority.sign(content, kind=kind))


def test_lists_survive_their_encoding(authority: Authority) -> None:
    store = authority.store()
    issuers = (IssuerAddress("ca-1", "10.0.0.1:7000"), IssuerAddress("ca-2", "[::1]:7000"))
    lives = (Forgotten("orders-1", "abc", NOW_MS), Forgotten("orders-1#3", "def", NOW_MS))
    store.receive(authority.sign(encode_issuers(issuers), kind=DocumentKind.ISSUERS))
    store.receive(authority.sign(encode_forgotten(lives), kind=DocumentKind.FORGET))
    assert store.issuers == issuers
    assert store.forgotten == lives


def test_a_bundle_needs_a_root_of_this_trust_domain(authority: Authority, tmp_path: Path) -> None:
    store = authority.store()
    foreign = Authority(tmp_path / "foreign", trust_domain="other.example")
    content = encode_bundle(foreign.ca.bundle)
    with pytest.raises(InvalidDocumentError, match=r"may sign for aegis\.internal"):
        store.receive(authority.sign(content, kind=DocumentKind.BUNDLE))
    both = TrustBundle([*foreign.ca.bundle.certificates, *authority.ca.bundle.certificates])
    store.receive(authority.sign(encode_bundle(both), kind=DocumentKind.BUNDLE))
    assert store.bundle is not None
    assert store.bundle.fingerprint == both.fingerprint


def test_a_bundle_says_which_ca_issues_and_has_no_other_order(
    authority: Authority, other: Authority
) -> None:
    one, two = authority.ca.certificate, other.ca.certificate
    three = authority.ca.prepare_rotation(at=NOW) and authority.ca.bundle.certificates[1]
    first, again, rotated = (
        encode_bundle(TrustBundle(cas))
        for cas in ([one, two, three], [one, three, two, one], [three, one, two])
    )
    assert first == again != rotated
    assert TrustBundle.from_pem(rotated).certificates[0] == three


def test_a_bundle_with_a_root_that_nobody_had_needs_the_old_root(
    authority: Authority, other: Authority
) -> None:
    """Whoever has a new root cannot bring it in by itself."""
    store = authority.store()
    both = encode_bundle(TrustBundle([authority.ca.certificate, other.ca.certificate]))
    with pytest.raises(InvalidDocumentError):
        store.receive(other.sign(both, kind=DocumentKind.BUNDLE))
    assert store.receive(authority.sign(both, kind=DocumentKind.BUNDLE)) is not None


# CRLs


def test_a_crl_is_kept_by_its_number_and_needs_no_other_signature(authority: Authority) -> None:
    store = authority.store()
    first, second = authority.revoke("a"), authority.revoke("b")
    store.receive(second)
    assert store.receive(first) is None
    assert len(store.revocations) == 2
    assert store.receive(authority.crl()) is not None


def test_the_crls_of_several_cas_are_kept_and_joined(authority: Authority) -> None:
    store = authority.store()
    authority.ca.prepare_rotation(at=NOW)
    authority.ca.activate_rotation(confirm=True, at=NOW)
    old = authority.ca.issue_in_memory("a", at=NOW)
    listed = authority.ca.write_revocations(at=NOW)
    assert len(listed.crls) == 2
    verifier = authority.verifier()
    for crl in listed.crls:
        document = verifier.verify(
            crl_document(crl, mesh=MESH, trust_domain=authority.ca.trust_domain)
        )
        assert document is not None
        store.put(document)
    assert len(store.crls) == 2
    assert not store.revocations.is_revoked(old.certificate)


def test_a_crl_of_an_unknown_ca_is_passed_over_and_a_forged_one_refused(
    authority: Authority, other: Authority
) -> None:
    store = authority.store()
    assert store.receive(other.crl()) is None
    data = bytearray(authority.revoke("a").body)
    data[-1] ^= 1
    with pytest.raises(InvalidDocumentError):
        store.receive(SignedDocument(bytes(data)))


def test_what_a_peer_adds_to_a_crl_document_does_not_travel_on(authority: Authority) -> None:
    store, other_store = authority.store(), authority.store()
    crl = authority.revoke("a")
    body = mesh_pb2.DocumentBody.FromString(crl.body)
    body.sequence = 7
    store.receive(SignedDocument(body.SerializeToString() + b"\x7a\x02hi", b"junk", b"junk"))
    other_store.receive(crl)
    assert [one.signed for one in store] == [one.signed for one in other_store]
    assert store.digest == other_store.digest
    assert store.receive(crl) is None


def test_a_process_without_a_trust_domain_keeps_nothing(authority: Authority) -> None:
    verifier = DocumentVerifier(authority.ca.bundle, mesh=MESH, trust_domain=None)
    with pytest.raises(InvalidDocumentError, match="no trust domain"):
        DocumentStore(verifier).receive(authority.sign())
