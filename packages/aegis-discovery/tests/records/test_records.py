from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    KeyType,
    RevocationList,
    TLSConfig,
    TrustBundle,
)
from aegis_discovery import InvalidRecordError, NodeInfo, ServiceInfo, Topology
from aegis_discovery.errors import InvalidVerdictError
from aegis_discovery.records import (
    LEASE,
    MAX_RECORD,
    TOMBSTONE_LEASE,
    Opinion,
    Record,
    RecordSigner,
    RecordVerifier,
    Signed,
    decode_record,
)
from aegis_discovery.records._codec import encode_record
from aegis_discovery.records._record import CONTEXT, MAX_PROVIDED, _shared
from aegis_discovery.records._signer import LeafKey
from cryptography.hazmat.primitives.serialization import Encoding

from ..conftest import ManualClock
from .conftest import MESH, chain_of

MINUTE = 60.0


def wire(record: Record) -> Signed:
    return Signed(record.body, record.signature, record.signer)


@pytest.fixture
def sign(owner: TLSConfig, clock: ManualClock) -> Callable[..., Signed]:
    """Signs, with the key of `a`, what no honest signer signs."""

    def signed(
        *,
        context: str = CONTEXT,
        mesh: str = MESH,
        trust_domain: str = owner.trust_domain or "",
        **changes: object,
    ) -> Signed:
        now = round(clock() * 1000)
        info = NodeInfo("a", address="10.0.0.1:1")
        honest = Record("a", now, "life", now + 1000, info, b"")
        record = replace(honest, **changes)  # type: ignore[arg-type]  # one name per field
        if record.info is not None:
            record = replace(record, info=replace(record.info, id=record.id))
        key = LeafKey(owner)
        body = encode_record(record, context=context, mesh=mesh, trust_domain=trust_domain)
        return Signed(body, key.sign(body), key.fingerprint)

    return signed


def refusal(verifier: RecordVerifier, signed: Signed) -> str:
    with pytest.raises(InvalidRecordError) as caught:
        verifier.verify(signed)
    assert str(caught.value).endswith(f"refused: {caught.value.reason}")
    return caught.value.reason


def test_a_verified_record_equals_what_was_signed(
    signer: RecordSigner, verifier: RecordVerifier, clock: ManualClock
) -> None:
    topology = Topology(owner="a", signer=signer, clock=clock)
    clock.now += 0.123456
    joined_at = datetime(2020, 1, 2, 3, 4, 5, 678901, UTC)
    node = NodeInfo("a", "Ay", "cache", "10.0.0.1:1", (ServiceInfo("s", "v1"),), joined_at)
    topology.add_node(node)
    written = topology.get_record("a")
    assert written is not None
    assert verifier.verify(wire(written)) == written
    assert topology.nodes["a"] == written.info
    assert written.info.joined_at == joined_at.replace(microsecond=679000)


def test_a_lease_ends_after_a_day_and_never_after_its_certificate(
    ca: CertificateAuthority, signer: RecordSigner, clock: ManualClock
) -> None:
    stamp = round(clock() * 1000)
    assert (
        signer.sign_record("a", stamp, NodeInfo("a", address="10.0.0.1:1")).expires_at
        == stamp + LEASE * 1000
    )
    assert signer.sign_record("a", stamp, None).expires_at == stamp + TOMBSTONE_LEASE * 1000
    brief = ca.issue_in_memory("b", days=0.5)
    record = RecordSigner.of(brief, mesh=MESH, clock=clock).sign_record(
        "b", stamp, NodeInfo("b", address="10.0.0.1:1")
    )
    assert record.expires_at == brief.not_after.timestamp() * 1000


def test_rsa_keys_sign_as_well(ca: CertificateAuthority, verifier: RecordVerifier) -> None:
    tls = ca.issue_in_memory("r", key_type=KeyType.RSA_2048)
    verifier.add_chain(chain_of(tls))
    signer = RecordSigner.of(tls, mesh=MESH)
    record = signer.sign_record("r", round(time.time() * 1000), NodeInfo("r", address="10.0.0.1:1"))
    assert verifier.verify(wire(record)) == record
    forged = Signed(record.body, record.signature[:-1] + b"\0", record.signer)
    assert refusal(verifier, forged) == "its signature is not by r"


def test_a_forged_signature_is_refused(verifier: RecordVerifier, signer: RecordSigner) -> None:
    record = signer.sign_record("a", 1, NodeInfo("a", address="10.0.0.1:1"))
    other = signer.sign_record("a", 2, NodeInfo("a", address="10.0.0.1:1"))
    forged = Signed(record.body, other.signature, record.signer)
    assert refusal(verifier, forged) == "its signature is not by a"
    assert refusal(verifier, forged._replace(signature=b"")) == "its signature is not by a"


def test_an_altered_body_is_refused(verifier: RecordVerifier, signer: RecordSigner) -> None:
    record = signer.sign_record("a", 1, NodeInfo("a", address="10.0.0.1:1"))
    altered = record.body.replace(b"10.0.0.1", b"10.6.6.6")
    assert altered != record.body
    reason = refusal(verifier, Signed(altered, record.signature, record.signer))
    assert reason == "its signature is not by a"


def test_a_record_of_another_node_is_refused(
    verifier: RecordVerifier, sign: Callable[..., Signed]
) -> None:
    assert refusal(verifier, sign(id="b")) == "it was signed by a"


def test_a_voucher_signs_with_its_own_key_only(
    verifier: RecordVerifier, sign: Callable[..., Signed]
) -> None:
    assert verifier.verify(sign(id="go", voucher="a")).voucher == "a"
    assert refusal(verifier, sign(id="go", voucher="b")) == "it was signed by a"


def test_no_node_vouches_for_itself(verifier: RecordVerifier, sign: Callable[..., Signed]) -> None:
    assert refusal(verifier, sign(voucher="a")) == "a node cannot vouch for itself"


@pytest.mark.parametrize("node_id", ["../x", "localhost", "10.0.0.1", "ca", ""])
def test_an_invalid_node_id_is_refused(
    verifier: RecordVerifier, sign: Callable[..., Signed], node_id: str
) -> None:
    assert "cannot be a node id" in refusal(verifier, sign(id=node_id, voucher="a"))


def test_the_record_of_another_mesh_is_refused(
    verifier: RecordVerifier, sign: Callable[..., Signed]
) -> None:
    reason = refusal(verifier, sign(mesh="other"))
    assert reason == "it belongs to mesh 'other', this mesh is 'test'"


def test_a_record_that_names_another_trust_domain_is_refused(
    verifier: RecordVerifier, sign: Callable[..., Signed]
) -> None:
    assert "names trust domain 'evil.example'" in refusal(
        verifier, sign(trust_domain="evil.example")
    )


def test_signed_bytes_of_another_kind_are_refused(
    verifier: RecordVerifier, sign: Callable[..., Signed]
) -> None:
    assert refusal(verifier, sign(context="aegis.mesh.v1 letter")) == "its bytes are not a record"


def test_bytes_that_cannot_be_parsed_are_refused(verifier: RecordVerifier) -> None:
    assert "cannot be read" in refusal(verifier, Signed(b"\xff\xff", b"", b""))


def test_a_stamp_may_be_at_most_five_minutes_ahead(
    verifier: RecordVerifier, sign: Callable[..., Signed], clock: ManualClock
) -> None:
    verifier.verify(sign(stamp=round((clock() + 5 * MINUTE) * 1000)))
    reason = refusal(verifier, sign(stamp=round((clock() + 6 * MINUTE) * 1000)))
    assert reason == "its stamp is 360 s ahead of this clock (limit 300)"


def test_a_lease_may_be_at_most_as_long_as_that_of_a_tombstone(
    verifier: RecordVerifier, sign: Callable[..., Signed]
) -> None:
    assert refusal(verifier, sign(expires_at=2**62)) == "its lease is too long"


def test_a_record_that_is_too_large_is_refused(
    verifier: RecordVerifier, signer: RecordSigner, sign: Callable[..., Signed]
) -> None:
    many = NodeInfo("a", services=tuple(ServiceInfo(f"service-{i}", "v1") for i in range(400)))
    with pytest.raises(InvalidRecordError, match="declare fewer services"):
        signer.sign_record("a", 1, many)
    assert refusal(verifier, sign(info=many)).endswith(f"bytes, the limit is {MAX_RECORD}")


def test_a_record_whose_certificate_was_not_sent_is_refused(
    ca: CertificateAuthority, signer: RecordSigner
) -> None:
    stranger = RecordVerifier(ca.bundle, mesh=MESH, trust_domain=ca.trust_domain)
    reason = refusal(
        stranger, wire(signer.sign_record("a", 1, NodeInfo("a", address="10.0.0.1:1")))
    )
    assert reason == "the certificate that signed it was not sent"


def test_a_record_of_an_expired_certificate_is_refused(
    ca: CertificateAuthority, verifier: RecordVerifier, clock: ManualClock
) -> None:
    brief = ca.issue_in_memory("b", days=1)
    verifier.add_chain(chain_of(brief))
    record = RecordSigner.of(brief, mesh=MESH, clock=clock).sign_record(
        "b", 1, NodeInfo("b", address="10.0.0.1:1")
    )
    clock.now += 2 * LEASE
    assert refusal(verifier, wire(record)) == "the certificate that signed it has expired"


def chain_refusal(verifier: RecordVerifier, *chain: bytes) -> str:
    with pytest.raises(InvalidRecordError) as caught:
        verifier.add_chain(chain)
    return caught.value.reason


def test_a_client_certificate_may_not_sign_records(
    ca: CertificateAuthority, verifier: RecordVerifier
) -> None:
    tls = ca.issue_in_memory("client", client_only=True)
    assert "must not be used as a server" in chain_refusal(verifier, *chain_of(tls))


def test_a_certificate_of_another_ca_may_not_sign_records(
    other_ca: CertificateAuthority, verifier: RecordVerifier
) -> None:
    assert "not trusted" in chain_refusal(verifier, *chain_of(other_ca.issue_in_memory("a")))


def test_a_certificate_of_another_trust_domain_may_not_sign_records(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    ally = CertificateAuthority.create(tmp_path, key_type=KeyType.P256, trust_domain="ally.example")
    both = TrustBundle([ca.certificate, ally.certificate])
    verifier = RecordVerifier(both, mesh=MESH, trust_domain=ca.trust_domain)
    reason = chain_refusal(verifier, *chain_of(ally.issue_in_memory("a")))
    assert f"is of trust domain ally.example, not of {ca.trust_domain}" in reason


def test_of_many_chains_those_that_verify_are_kept_and_each_other_one_is_refused(
    ca: CertificateAuthority, other_ca: CertificateAuthority, verifier: RecordVerifier
) -> None:
    good = [ca.issue_in_memory(name) for name in ("b", "c")]
    client = ca.issue_in_memory("client", client_only=True)
    foreign = other_ca.issue_in_memory("d")
    first, second = map(chain_of, good)
    refused = verifier.add_chains(
        [(b"no certificate",), chain_of(client), first, (), first, chain_of(foreign), second]
    )
    reasons = [error.reason for error in refused]
    assert len(reasons) == 4
    for text in ("error parsing", "must not be used as a server", "not trusted", "0 certificates"):
        assert sum(text in reason for reason in reasons) == 1, reasons
    for tls in good:
        assert verifier.leaf(tls.fingerprint) is not None
    for tls in (client, foreign):
        assert verifier.leaf(tls.fingerprint) is None
    assert verifier.add_chains([first, second]) == []


def test_of_many_records_those_that_verify_are_returned_and_each_other_one_is_refused(
    ca: CertificateAuthority, verifier: RecordVerifier, clock: ManualClock
) -> None:
    def record_of(node_id: str) -> Signed:
        tls = ca.issue_in_memory(node_id)
        verifier.add_chain(chain_of(tls))
        signer = RecordSigner.of(tls, mesh=MESH, clock=clock)
        node = NodeInfo(node_id, address="10.0.0.1:1")
        return wire(signer.sign_record(node_id, round(clock() * 1000), node))

    first, second, third = map(record_of, "bcd")
    forged = third._replace(signature=second.signature)
    garbage = third._replace(body=b"?")
    records, refused = verifier.verify_all([first, forged, garbage, second, first])
    assert [record.body for record in records] == [first.body, second.body, first.body]
    assert sorted(error.node_id for error in refused) == ["", "d"]
    assert any(error.reason == "its signature is not by d" for error in refused)
    held = {record.id: record for record in records}
    again, refused = verifier.verify_all([second, first], held.get)
    assert [record is held[record.id] for record in again] == [True, True]
    assert not refused


def test_an_empty_or_unreadable_chain_is_refused(verifier: RecordVerifier) -> None:
    assert (
        chain_refusal(verifier)
        == "its chain has 0 certificates of 0 bytes; 1 to 8 of at most 16384 bytes are allowed"
    )
    assert "does not verify" in chain_refusal(verifier, b"no certificate")


def test_a_replayed_older_record_changes_nothing(
    signer: RecordSigner, verifier: RecordVerifier, clock: ManualClock
) -> None:
    writer = Topology(owner="a", signer=signer, clock=clock)
    writer.add_node(NodeInfo("a", address="10.0.0.1:1"))
    older = writer.get_record("a")
    assert older is not None
    writer.update_node(NodeInfo("a", address="10.0.0.1:2"))
    reader = Topology(owner="b", clock=clock)
    reader.merge(writer)
    result = reader.merge_records([verifier.verify(wire(older))])
    assert not result.changed
    assert reader.nodes["a"].address == "10.0.0.1:2"


def test_a_field_of_a_later_version_travels_on_with_its_signature(
    verifier: RecordVerifier, owner: TLSConfig, sign: Callable[..., Signed], clock: ManualClock
) -> None:
    later = sign().body + b"\xba\x3e\x05later"  # field 999, a text
    key = LeafKey(owner)
    signed = Signed(later, key.sign(later), key.fingerprint)
    record = verifier.verify(signed)
    assert record.info is not None
    assert record.info.address == "10.0.0.1:1"
    reader = Topology(owner="b", clock=clock)
    reader.merge_records([record])
    kept = reader.get_record("a")
    assert kept is not None
    assert wire(kept) == signed
    assert verifier.verify(wire(kept)) == record
    verifier.retain({owner.fingerprint})  # parses the key anew
    assert verifier.verify(wire(kept)) == record


def test_only_certificates_that_are_still_needed_are_kept(
    ca: CertificateAuthority, verifier: RecordVerifier, owner: TLSConfig
) -> None:
    other = verifier.add_chain(chain_of(ca.issue_in_memory("b")))
    assert verifier._keys
    verifier.retain({owner.fingerprint})
    assert verifier.leaf(other) is None
    kept = verifier.leaf(owner.fingerprint)
    assert kept is not None
    assert kept.node_id == "a"
    assert not verifier._keys  # each takes 2 KB, and records come seldom


def test_records_share_equal_values(ca: CertificateAuthority, clock: ManualClock) -> None:
    verifier = RecordVerifier(ca.bundle, mesh=MESH, trust_domain=ca.trust_domain, clock=clock)
    above = ca.certificate.public_bytes(Encoding.DER)
    found: list[Record] = []
    for node_id in ("x", "y"):
        tls = ca.issue_in_memory(node_id)
        verifier.add_chain((*chain_of(tls), bytes(bytearray(above))))
        moment = datetime(2020, 1, 2, tzinfo=UTC)
        info = NodeInfo(
            node_id,
            type="cache",
            address="10.0.0.1:1",
            services=(ServiceInfo("s", "v1"), ServiceInfo("t", "v2", "region")),
            joined_at=moment,
            updated_at=moment,
            trust_bundle="ab" * 32,
            region="north",
            zone="north-1",
            boundary="region",
            silent_regions=("east", "south"),
        )
        signer = RecordSigner.of(tls, mesh=MESH, clock=clock)
        written = signer.sign_record(node_id, round(clock() * 1000), info)
        assert written.info == replace(info, name=node_id)
        found.append(verifier.verify(wire(written)))
    one, other = (record.info for record in found)
    assert one is not None
    assert other is not None
    for name in ("type", "services", "trust_bundle", "region", "zone", "boundary"):
        assert getattr(one, name) is getattr(other, name), name
    assert one.name is one.id is found[0].id
    assert one.updated_at is one.joined_at
    leaves = [verifier.leaf(record.signer) for record in found]
    assert leaves[0] is not None
    assert leaves[1] is not None
    assert leaves[0].intermediates is leaves[1].intermediates
    assert leaves[0].fingerprint is found[0].signer
    assert leaves[0].node_id is one.id
    assert leaves[0].chain == (leaves[0].der, above)


def test_certificates_below_a_revoked_intermediate_are_refused(
    tmp_path: Path, clock: ManualClock
) -> None:
    issuing = CertificateAuthority.create(
        tmp_path / "issuing", key_type=KeyType.P256, intermediate=True
    )
    root = CertificateAuthority.load(tmp_path / "issuing-root")
    other = CertificateAuthority.create(
        tmp_path / "other",
        key_type=KeyType.P256,
        name="Other",
        intermediate=True,
        root_directory=root.directory,
    )

    def fresh() -> RecordVerifier:
        """Trusts only the root, so that chains have to bring the intermediates."""
        return RecordVerifier(root.bundle, mesh=MESH, trust_domain=None, clock=clock)

    below, beside = issuing.issue("a"), other.issue("b")
    harmed = (*chain_of(beside), chain_of(below)[1])  # added on the way
    verifier = fresh()
    verifier.add_chain(chain_of(below))
    verifier.add_chain(harmed)
    root.revoke(f"{below.chain[1].serial_number:x}")
    crl = (root.directory / "crl.pem").read_bytes()
    revocations = RevocationList.from_pem(crl, root.bundle)
    assert verifier.apply_revocations(revocations) == {below.fingerprint}
    newcomer = fresh()
    newcomer.apply_revocations(revocations)
    with pytest.raises(InvalidRecordError, match="revoked") as caught:
        newcomer.add_chain(chain_of(below))
    assert caught.value.node_id == "a"
    assert newcomer.add_chain(harmed) == beside.fingerprint
    for either in (verifier, newcomer):
        leaf = either.leaf(beside.fingerprint)
        assert leaf is not None
        assert leaf.chain == chain_of(beside), "certificates outside its path are not passed on"


def test_no_path_is_tried_of_a_chain_that_leads_nowhere(
    verifier: RecordVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CertificateAuthority.create(tmp_path, key_type=KeyType.P256, intermediate=True)
    chain = chain_of(other.issue_in_memory("a"))
    assert len(chain) == 2
    tried: list[int] = []
    begin = TrustBundle.begin_verify

    def counted(self: TrustBundle, given: Sequence[Any], *args: Any, **options: Any) -> Any:
        tried.append(len(given))
        return begin(self, given, *args, **options)

    monkeypatch.setattr(TrustBundle, "begin_verify", counted)
    assert "not trusted" in chain_refusal(verifier, *chain)
    assert tried == [1], "only the leaf, for the reason"


def test_a_leaf_is_passed_on_with_its_path_only(
    tmp_path: Path, other_ca: CertificateAuthority
) -> None:
    ca = CertificateAuthority.create(tmp_path / "c", key_type=KeyType.P256, intermediate=True)
    root = CertificateAuthority.load(tmp_path / "c-root")
    verifier = RecordVerifier(root.bundle, mesh=MESH, trust_domain=None)
    der, middle = chain_of(ca.issue_in_memory("a"))
    junk = chain_of(other_ca.issue_in_memory("junk"))
    leaf = verifier.leaf(verifier.add_chain((der, *junk, middle, *junk)))
    assert leaf is not None
    assert leaf.chain == (der, middle)


def test_a_certificate_that_cannot_be_parsed_is_refused(
    verifier: RecordVerifier, odd_certificate: bytes
) -> None:
    assert "does not verify" in chain_refusal(verifier, odd_certificate)


def test_services_of_a_record_are_limited_and_need_names(
    verifier: RecordVerifier, signer: RecordSigner, sign: Callable[..., Signed]
) -> None:
    most = tuple(ServiceInfo(f"{i}", "") for i in range(MAX_PROVIDED))
    many = NodeInfo("a", address="10.0.0.1:1", services=(*most, ServiceInfo("one", "")))
    nameless = NodeInfo("a", address="10.0.0.1:1", services=(ServiceInfo("", "v1"),))
    verifier.verify(sign(info=replace(many, services=most)))
    for info, reason in (
        (many, "it declares 257 services, the limit is 256"),
        (nameless, "it declares a service without a name"),
    ):
        assert refusal(verifier, sign(info=info)) == reason
        with pytest.raises(InvalidRecordError, match=reason):
            signer.sign_record("a", 1, info)


def test_values_of_a_refused_record_are_not_cached(
    verifier: RecordVerifier, sign: Callable[..., Signed]
) -> None:
    info = NodeInfo(
        "a",
        address="10.0.0.1:1",
        type="made-up",
        region="nowhere",
        services=(ServiceInfo("made-up", "v1"),),
    )
    signed = sign(info=info)
    _shared.clear()  # other tests may have filled it
    refusal(verifier, signed._replace(signature=b""))
    assert _shared == {}
    one, other = (decode_record(signed)[0].info for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.type is not other.type, "not interned by Python either"
    assert verifier.verify(signed).info == one
    assert "made-up" in _shared
    later = decode_record(signed).record.info
    assert later is not None
    assert later.services is decode_record(signed).record.info.services


@pytest.mark.parametrize(
    ("host", "known", "is_refused"),
    [
        ("b", "b", True),
        ("b", "b#3", True),
        ("b", "c", False),
        ("b.acme.example", "b.acme.example", True),
        ("b.acme.example", "acme.example", False),
    ],
)
def test_who_has_the_name_of_another_node_signs_nothing(
    tmp_path: Path, clock: ManualClock, host: str, known: str, is_refused: bool
) -> None:
    ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    tls = ca.issue("a", hosts=[host, "10.0.0.1"], key_type=KeyType.P256)
    topology = Topology(clock=clock)
    verifier = RecordVerifier(
        ca.bundle,
        mesh=MESH,
        trust_domain=ca.trust_domain,
        clock=clock,
        find_signed=topology.find_signed,
    )
    verifier.add_chain(chain_of(tls))
    stamp = round(clock() * 1000)
    signer = RecordSigner.of(tls, mesh=MESH, clock=clock)
    info = NodeInfo("a", address="10.0.0.1:1")
    own = signer.sign_record("a", stamp, info)
    others = RecordSigner(clock=clock).sign_record("x", stamp, NodeInfo("x", address="h:1"))
    accusation = signer.sign_verdict(others, stamp, Opinion.FAILED, held=False).signed

    def refusals() -> list[str]:
        found = []
        for verify, signed in ((verifier.verify, own), (verifier.verify_verdict, accusation)):
            try:
                verify(Signed(signed.body, signed.signature, signed.signer))
            except (InvalidRecordError, InvalidVerdictError) as error:
                found.append(error.reason)
        return found

    assert refusals() == []
    vouching = Topology(owner="v", signer=RecordSigner("v", clock=clock), clock=clock)
    vouching.vouch(NodeInfo(known, address="10.0.0.2:1"))
    topology.merge(vouching)
    assert topology.nodes.keys() == {known}
    assert refusals() == [], "who is vouched for proves nothing"
    topology.add_node(NodeInfo(known, address="10.0.0.2:1"))
    found = refusals()
    assert len(found) == (2 if is_refused else 0)
    assert all(f"also valid for '{host}'" in reason for reason in found)
    assert verifier.naming(known.partition("#")[0]) == (
        {tls.fingerprint} if is_refused else frozenset()
    )
    topology.remove_node(known)
    assert refusals() == []


def test_a_wildcard_names_all_nodes_one_level_below_it(clock: ManualClock) -> None:
    topology = Topology(clock=clock)
    for node_id in ("orders", "a.acme.example", "b.acme.example"):
        topology.add_node(NodeInfo(node_id, address="10.0.0.1:1"))
    assert topology.find_signed(["*.example", "x", "*.acme.example"]) == "*.acme.example"
    topology.remove_node("a.acme.example")
    assert topology.find_signed(["*.acme.example"])
    topology.remove_node("b.acme.example")
    assert topology.find_signed(["*.acme.example", "localhost"]) is None
    assert topology.find_signed(["orders"]) == "orders"
