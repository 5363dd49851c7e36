"""Which documents an issuer signs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, IssuerAddress, KeyType, PublishedFiles, TrustBundle
from aegis_discovery import InvalidDocumentError
from aegis_discovery.documents import (
    AuthorityDocuments,
    AuthorityState,
    DocumentKind,
    DocumentPublisher,
    DocumentStore,
    DocumentVerifier,
    Forgotten,
    encode_bundle,
    publish_forgotten,
    publish_policy,
    sign_document,
)

from .conftest import MESH, NOW, NOW_MS, POLICY, Authority, Clock

DAY = 24 * 3600.0
OTHER_POLICY = POLICY.replace(b"orders", b"billing")


class Issuer:
    """A publisher with a store, and what would be written beside it."""

    def __init__(self, authority: Authority, store: DocumentStore | None = None) -> None:
        self.authority = authority
        self.store = authority.store() if store is None else store
        self.state = AuthorityState(authority.ca.bundle)
        self.publisher = DocumentPublisher(authority.ca.trust_domain)

    def publish(self, at: float = NOW.timestamp()) -> list[str]:
        drafts = self.publisher.drafts(self.state, self.store, at)
        signer = self.authority.ca.document_signer(at=NOW.fromtimestamp(at, NOW.tzinfo))
        for draft in drafts:
            self.store.receive(
                sign_document(draft.kind, draft.content, draft.sequence, signer, mesh=MESH)
            )
        self.publisher.note_published(self.state)
        return [draft.kind.value for draft in drafts]

    def restart(self, published: Mapping[str, str] | None = None) -> None:
        known = self.publisher.published if published is None else published
        self.publisher = DocumentPublisher(self.authority.ca.trust_domain, known)


def test_everything_is_published_once(authority: Authority) -> None:
    issuer = Issuer(authority)
    issuer.state = AuthorityState(
        authority.ca.bundle,
        policy=POLICY,
        issuers=(IssuerAddress("ca-1", "10.0.0.1:7000"),),
        forgotten=(Forgotten("orders-1", "abc", NOW_MS),),
    )
    assert issuer.publish() == ["bundle", "forget", "issuers", "policy"]
    assert issuer.publish() == []
    issuer.restart()
    assert issuer.publish() == []
    issuer.restart({})
    assert issuer.publish() == [], "a lost file publishes nothing that is published already"


def test_a_change_is_published_with_a_higher_sequence_even_if_the_clock_went_back(
    authority: Authority,
) -> None:
    issuer = Issuer(authority)
    issuer.state = dataclasses.replace(issuer.state, policy=POLICY)
    issuer.publish(NOW.timestamp() + 200)
    issuer.state = dataclasses.replace(issuer.state, policy=OTHER_POLICY)
    assert issuer.publish() == ["policy"]
    held = issuer.store.get(DocumentKind.POLICY)
    assert held is not None
    assert held.content == OTHER_POLICY


def test_what_another_issuer_published_later_stays(authority: Authority) -> None:
    """Two directories that differ do not publish against each other for ever."""
    one = Issuer(authority)
    other = Issuer(authority, one.store)
    one.state = dataclasses.replace(one.state, policy=POLICY)
    one.publish()
    other.state = dataclasses.replace(other.state, policy=OTHER_POLICY)
    assert other.publish() == ["policy"]
    assert one.publish() == []
    one.restart()
    assert one.publish() == []
    assert other.publish() == []
    one.state = dataclasses.replace(one.state, policy=POLICY + b"\n")
    assert one.publish() == ["policy"]
    assert other.publish() == []


def test_lists_of_several_issuers_are_united(authority: Authority) -> None:
    one = Issuer(authority)
    other = Issuer(authority, one.store)
    one.state = dataclasses.replace(one.state, issuers=(IssuerAddress("ca-1", "a:1"),))
    other.state = dataclasses.replace(
        other.state,
        issuers=(IssuerAddress("ca-2", "b:1"),),
        forgotten=(Forgotten("orders-1", "abc", NOW_MS),),
    )
    assert one.publish() == ["bundle", "issuers"]
    assert other.publish() == ["forget", "issuers"]
    assert (one.publish(), other.publish()) == ([], [])
    assert [issuer.node_id for issuer in one.store.issuers] == ["ca-1", "ca-2"]
    one.state = dataclasses.replace(one.state, issuers=(IssuerAddress("ca-1", "a:2"),))
    assert one.publish() == ["issuers"]
    assert (one.publish(), other.publish()) == ([], [])


def test_a_forgotten_issuer_leaves_the_list(authority: Authority) -> None:
    one = Issuer(authority)
    other = Issuer(authority, one.store)
    other.state = dataclasses.replace(other.state, issuers=(IssuerAddress("ca-2", "b:1"),))
    other.publish()
    one.state = dataclasses.replace(
        one.state,
        issuers=(IssuerAddress("ca-1", "a:1"),),
        forgotten=(Forgotten("ca-2", "abc", NOW_MS),),
    )
    one.publish()
    assert [issuer.node_id for issuer in one.store.issuers] == ["ca-1"]


def test_a_forgotten_life_leaves_the_list_when_no_record_of_it_can_be_left(
    authority: Authority,
) -> None:
    issuer = Issuer(authority)
    issuer.state = dataclasses.replace(
        issuer.state, forgotten=(Forgotten("a", "x", NOW_MS), Forgotten("b", "y", NOW_MS - 1))
    )
    issuer.publish()
    later = NOW.timestamp() + 2 * DAY
    issuer.authority.clock.now = later
    new = Forgotten("c", "z", round(later * 1000))
    issuer.state = dataclasses.replace(issuer.state, forgotten=(*issuer.state.forgotten, new))
    assert issuer.publish(later) == ["forget"]
    assert issuer.store.forgotten == (new,)
    assert issuer.publish(later) == []


def test_what_is_published_is_signed_anew_before_its_signer_ends(authority: Authority) -> None:
    issuer = Issuer(authority)
    issuer.state = dataclasses.replace(issuer.state, policy=POLICY)
    assert issuer.publish() == ["bundle", "policy"]
    assert issuer.publish(NOW.timestamp() + 4 * DAY) == []
    later = authority.clock.now = NOW.timestamp() + 5 * DAY
    position = issuer.store.position
    assert issuer.publish(later) == ["bundle", "policy"]
    assert issuer.store.position == position + 2
    assert issuer.publish(later) == []
    # Whoever joins now can verify what was published long ago.
    late = authority.store()
    for document in issuer.store.changed_since(0):
        late.receive(document.signed)
    assert len(late) == 2


def test_an_issuer_without_a_policy_signs_that_of_another_anew(authority: Authority) -> None:
    one = Issuer(authority)
    other = Issuer(authority, one.store)
    one.state = dataclasses.replace(one.state, policy=POLICY)
    one.publish()
    later = authority.clock.now = NOW.timestamp() + 5 * DAY
    assert other.publish(later) == ["bundle", "policy"]


def test_a_rotation_reaches_those_that_have_only_the_old_root(authority: Authority) -> None:
    follower = authority.store()
    issuer = Issuer(authority)
    issuer.publish()

    def step() -> None:
        issuer.state = AuthorityState(authority.ca.bundle)
        verifier = issuer.store._verifier
        assert isinstance(verifier, DocumentVerifier)
        verifier.change_bundle(authority.ca.bundle)
        assert issuer.publish() == ["bundle"]
        for document in issuer.store.changed_since(0):
            follower.receive(document.signed)
        assert follower.bundle is not None
        assert follower.bundle.fingerprint == authority.ca.bundle.fingerprint
        verifier = follower._verifier
        assert isinstance(verifier, DocumentVerifier)
        verifier.change_bundle(follower.bundle)

    authority.ca.prepare_rotation(at=NOW)
    step()
    authority.ca.activate_rotation(confirm=True, at=NOW)
    step()
    authority.ca.retire_rotation(at=NOW)
    step()
    assert issuer.publish() == []


def test_documents_below_a_retired_root_are_signed_by_the_new_one(authority: Authority) -> None:
    issuer = Issuer(authority)
    issuer.state = dataclasses.replace(issuer.state, policy=POLICY)
    issuer.publish()
    authority.ca.prepare_rotation(at=NOW)
    authority.ca.activate_rotation(confirm=True, at=NOW)
    authority.ca.retire_rotation(at=NOW)
    issuer.state = AuthorityState(authority.ca.bundle, policy=POLICY)
    verifier = issuer.store._verifier
    assert isinstance(verifier, DocumentVerifier)
    verifier.change_bundle(authority.ca.bundle)
    assert issuer.publish() == ["bundle", "policy"]
    late = authority.store()
    for document in issuer.store.changed_since(0):
        late.receive(document.signed)
    assert len(late) == 2


def test_intermediate_cas_of_other_issuers_stay_in_the_bundle(tmp_path: Path) -> None:
    one, other = (
        CertificateAuthority.create(
            tmp_path / name,
            key_type=KeyType.P256,
            intermediate=True,
            root_directory=tmp_path / "root",
            at=NOW,
        )
        for name in ("one", "other")
    )
    verifier = DocumentVerifier(one.bundle, mesh=MESH, trust_domain=one.trust_domain, clock=Clock())
    store = DocumentStore(verifier, clock=Clock())
    publishers = {ca: DocumentPublisher(ca.trust_domain) for ca in (one, other)}

    def publish(ca: CertificateAuthority) -> list[DocumentKind]:
        state = AuthorityState(ca.bundle)
        drafts = publishers[ca].drafts(state, store, NOW.timestamp())
        for draft in drafts:
            signer = ca.document_signer(at=NOW)
            store.receive(
                sign_document(draft.kind, draft.content, draft.sequence, signer, mesh=MESH)
            )
        publishers[ca].note_published(state)
        return [draft.kind for draft in drafts]

    assert publish(one) == [DocumentKind.BUNDLE]
    assert publish(other) == [DocumentKind.BUNDLE]
    assert (publish(one), publish(other)) == ([], [])
    assert store.bundle is not None
    assert {*store.bundle.certificates} == {*one.bundle.certificates, *other.bundle.certificates}


def test_a_retired_intermediate_ca_leaves_the_bundle(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(
        tmp_path / "ca", key_type=KeyType.P256, intermediate=True, at=NOW
    )
    verifier = DocumentVerifier(ca.bundle, mesh=MESH, trust_domain=ca.trust_domain, clock=Clock())
    store = DocumentStore(verifier, clock=Clock())
    publisher = DocumentPublisher(ca.trust_domain)

    def publish() -> None:
        state = AuthorityState(ca.bundle)
        for draft in publisher.drafts(state, store, NOW.timestamp()):
            signer = ca.document_signer(at=NOW)
            store.receive(
                sign_document(draft.kind, draft.content, draft.sequence, signer, mesh=MESH)
            )
        publisher.note_published(state)

    publish()
    old = ca.certificate
    ca.prepare_rotation(root_directory=tmp_path / "ca-root", at=NOW)
    publish()
    ca.activate_rotation(confirm=True, at=NOW)
    ca.retire_rotation(at=NOW)
    publish()
    assert store.bundle is not None
    assert old not in store.bundle.certificates
    assert {*store.bundle.certificates} == {*ca.bundle.certificates}


# The shell


def shell(authority: Authority, store: DocumentStore) -> AuthorityDocuments:
    return AuthorityDocuments(authority.ca, mesh=MESH, store=store, clock=authority.clock)


def run(issuer: AuthorityDocuments, store: DocumentStore) -> list[str]:
    before = {document.key: document for document in store}
    for signed in list(issuer.poll()):
        store.receive(signed)
    return sorted(one.kind.value for one in store if before.get(one.key) != one)


def test_the_directory_of_a_ca_is_published_and_each_change_of_it(authority: Authority) -> None:
    store = authority.store()
    issuer, files = shell(authority, store), PublishedFiles(authority.ca.directory)
    assert run(issuer, store) == ["bundle"]
    assert run(issuer, store) == []
    publish_policy(files, POLICY)
    assert run(issuer, store) == ["policy"]
    authority.revoke("a")
    assert run(issuer, store) == ["crl"]
    publish_forgotten(files, Forgotten("orders-1", "abc", NOW_MS))
    assert run(issuer, store) == ["forget"]
    authority.ca.prepare_rotation(at=NOW)
    assert run(issuer, store) == ["bundle"]
    assert store.bundle is not None
    assert encode_bundle(TrustBundle(authority.ca.bundle.certificates)) == encode_bundle(
        store.bundle
    )
    assert run(shell(authority, store), store) == [], "also after a restart"


def test_a_bad_policy_file_is_not_published_and_stops_nothing_else(authority: Authority) -> None:
    store, files = authority.store(), PublishedFiles(authority.ca.directory)
    with pytest.raises(InvalidDocumentError, match="TOML"):
        publish_policy(files, b"[[")
    publish_policy(files, POLICY)
    (authority.ca.directory / "documents" / "policy.toml").write_bytes(b"[[")
    assert run(shell(authority, store), store) == ["bundle"]
