"""Workers: node ids with a number, whose identity is the part before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest
from aegis_certs import CertificateAuthority, TLSConfig
from aegis_discovery import InvalidRecordError, InvalidVerdictError, NodeInfo, Topology
from aegis_discovery.policy import Policy, ProviderAuthorizer, ProvideRule
from aegis_discovery.records import Opinion, Record, RecordSigner, RecordVerifier, Signed
from aegis_discovery.records._codec import encode_record
from aegis_discovery.records._record import CONTEXT
from aegis_discovery.records._signer import LeafKey
from aegis_discovery.records._verdict import MAX_ACCUSATIONS, MAX_ACCUSATIONS_OF_IDENTITY
from aegis_discovery.transport import SeedPeer, open_channel, parse_seed
from cryptography.hazmat.primitives.serialization import Encoding

from .conftest import ManualClock

MESH = "test"


def node(node_id: str) -> NodeInfo:
    return NodeInfo(node_id, address="10.0.0.1:1")


def test_a_seed_peer_may_be_a_worker() -> None:
    assert parse_seed("a#7@host:1") == SeedPeer("host:1", "a#7")


# Records and verdicts


@pytest.fixture(scope="module")
def owner(ca: CertificateAuthority) -> TLSConfig:
    return ca.issue_in_memory("a")


@pytest.fixture
def verifier(ca: CertificateAuthority, owner: TLSConfig) -> RecordVerifier:
    verifier = RecordVerifier(ca.bundle, mesh=MESH, trust_domain=ca.trust_domain)
    verifier.add_chain([certificate.public_bytes(Encoding.DER) for certificate in owner.chain])
    return verifier


def signed(record: Record) -> Signed:
    return Signed(record.body, record.signature, record.signer)


@pytest.fixture
def sign(owner: TLSConfig) -> Callable[..., Signed]:
    """Signs, with the key of `a`, a record of any id by any voucher."""
    honest = RecordSigner.of(owner, mesh=MESH).sign_record("a", 1, node("a"))

    def altered(node_id: str, voucher: str | None = None) -> Signed:
        record = replace(honest, id=node_id, voucher=voucher, info=node(node_id))
        domain = owner.trust_domain or ""
        body = encode_record(record, context=CONTEXT, mesh=MESH, trust_domain=domain)
        key = LeafKey(owner)
        return Signed(body, key.sign(body), key.fingerprint)

    return altered


def test_an_identity_signs_the_records_of_its_workers_and_of_no_others(
    verifier: RecordVerifier, sign: Callable[..., Signed]
) -> None:
    assert verifier.verify(sign("a#5")).id == "a#5"
    assert verifier.verify(sign("go", "a#5")).voucher == "a#5"
    for node_id, voucher, reason in [
        ("b#5", None, "it was signed by a"),
        ("go", "b#5", "it was signed by a"),
        ("a#05", None, "cannot be a node id"),
        ("b#5", "a", "only its own identity can publish a worker"),
        ("a#6", "a#5", "only its own identity can publish a worker"),
        ("a", "a#5", "cannot vouch for itself"),
    ]:
        with pytest.raises(InvalidRecordError, match=reason):
            verifier.verify(sign(node_id, voucher))


def test_a_worker_signs_its_verdicts_with_its_identity(
    verifier: RecordVerifier, owner: TLSConfig
) -> None:
    about = RecordSigner.of(owner, mesh=MESH, node_id="a#1").sign_record("a#1", 1, node("a#1"))
    for accuser, reason in [
        ("a#5", None),
        ("b#5", "it was signed by a"),
        ("a#64", "cannot be a node id"),
        ("a#1", "a node cannot accuse itself"),
    ]:
        signer = RecordSigner.of(owner, mesh=MESH, node_id=accuser)
        verdict = signer.sign_verdict(about, 1, Opinion.FAILED, held=False)
        if reason is None:
            assert verifier.verify_verdict(verdict.signed).verdict.accuser == accuser
        else:
            with pytest.raises(InvalidVerdictError, match=reason):
                verifier.verify_verdict(verdict.signed)


# The topology


@pytest.fixture
def topology() -> Topology:
    return Topology(owner="own#0", clock=ManualClock())


def record(topology: Topology, node_id: str, stamp: int = 0, **options: object) -> Record:
    signer = RecordSigner(str(options.get("by", "")), clock=topology._clock)
    stamp += topology._now_ms()
    info = None if options.get("gone") else node(node_id)
    return signer.sign_record(node_id, stamp, info, vouched="by" in options)


def test_the_workers_of_an_identity_are_found_without_those_that_left(topology: Topology) -> None:
    names = ["b#0", "b#1", "b#2", "b-2", "c"]
    topology.merge_records([record(topology, name) for name in names])
    topology.merge_records([record(topology, "b#1", 1, gone=True)])

    def found(identity: str) -> list[str]:
        return sorted(node.id for node in topology.get_nodes_by_identity(identity))

    assert found("b") == ["b#0", "b#2"]
    assert [found("c"), found("nobody")] == [["c"], []]
    topology.merge_records([record(topology, "b", by="v"), record(topology, "go", by="v")])
    assert found("b") == ["b#0", "b#2"], "what others vouch for does not count beside its records"
    assert found("go") == ["go"]
    topology.retain(["c"])
    assert found("b") == []
    assert topology._store._workers == {}


def test_all_workers_of_an_identity_vouch_for_no_more_than_one_node(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery._topology.limits.MAX_VOUCHED", 2)
    for number in range(4):
        topology.merge_records([record(topology, f"go{number}", by=f"v#{number}")])
    assert list(topology.nodes) == ["go0", "go1"]
    topology.merge_records([record(topology, "go0", 1, by="v#7")])
    assert topology.nodes["go0"].vouched_by == "v#7", "a sibling may take over"


def test_the_verdicts_of_all_workers_of_an_identity_are_limited(topology: Topology) -> None:
    count = MAX_ACCUSATIONS_OF_IDENTITY // MAX_ACCUSATIONS + 1
    subjects = [record(topology, f"n{number}") for number in range(MAX_ACCUSATIONS)]
    accusers = [f"v#{number}" for number in range(count)]
    topology.merge_records([*subjects, *(record(topology, name) for name in accusers)])
    for name in accusers:
        signer = RecordSigner(name, clock=topology._clock)
        verdicts = [signer.sign_verdict(s, s.stamp, Opinion.FAILED, held=False) for s in subjects]
        topology.merge_verdicts(verdicts)
    kept = sum(len(topology.get_verdicts(subject.id)) for subject in subjects)
    assert kept == MAX_ACCUSATIONS_OF_IDENTITY
    for name in accusers:
        topology.merge_records([record(topology, name, 1, gone=True)])
    assert topology._verdicts._by_identity == {}


def test_a_policy_judges_a_provider_by_its_identity() -> None:
    rules = ProvideRule(services=["*"], ids=["b"])
    may_provide = ProviderAuthorizer(Policy(provide=[rules]), None)
    assert may_provide(node("b#3"), "s", "v1")
    assert not may_provide(node("c#3"), "s", "v1")


def test_a_channel_to_a_worker_checks_its_identity(
    ca: CertificateAuthority, start_provider: Callable[..., object]
) -> None:
    provider = start_provider("b")
    caller = ca.issue_in_memory("caller")
    for node_id, is_accepted in [("b#2", True), ("c#2", False)]:
        with open_channel(caller, node_id, provider.address) as channel:  # type: ignore[attr-defined]  # a fixture
            who = channel.unary_unary("/t/Who")
            if is_accepted:
                assert who(b"", timeout=10) == b"b"
            else:
                with pytest.raises(grpc.RpcError, match=r"Hostname Verification|Peer name"):
                    who(b"", timeout=10)
