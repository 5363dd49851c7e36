"""Received bytes become verdicts or are refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, KeyType, RevocationList, TLSConfig
from aegis_discovery import InvalidVerdictError, NodeInfo
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import RecordSigner, RecordVerifier, Signed
from aegis_discovery.records._codec import decode_verdict, encode_verdict
from aegis_discovery.records._record import MAX_AHEAD, Record
from aegis_discovery.records._signer import LeafKey
from aegis_discovery.records._verdict import (
    CLEAR_LEASE,
    MAX_VERDICT,
    VERDICT_CONTEXT,
    VERDICT_LEASE,
    Opinion,
    SignedVerdict,
    Verdict,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..conftest import ManualClock
from .conftest import MESH, chain_of


@pytest.fixture
def subject(ca: CertificateAuthority, clock: ManualClock) -> Record:
    signer = RecordSigner.of(ca.issue_in_memory("b"), mesh=MESH, clock=clock)
    return signer.sign_record("b", round(clock() * 1000), NodeInfo("b", address="10.0.0.1:1"))


Sign = Callable[..., Signed]


@pytest.fixture
def sign(owner: TLSConfig, clock: ManualClock) -> Sign:
    """Signs, with the key of `a`, what no honest accuser signs."""

    def signed(
        *,
        context: str = VERDICT_CONTEXT,
        mesh: str = MESH,
        trust_domain: str = owner.trust_domain or "",
        **changes: object,
    ) -> Signed:
        now = round(clock() * 1000)
        honest = Verdict("a", "life", now, now + 1000, "b", "life", now, Opinion.FAILED)
        verdict = honest._replace(**changes)  # type: ignore[arg-type]  # one name per field
        body = encode_verdict(verdict, context=context, mesh=mesh, trust_domain=trust_domain)
        key = LeafKey(owner)
        return Signed(body, key.sign(body), key.fingerprint)

    return signed


def refusal(verifier: RecordVerifier, signed: Signed) -> str:
    with pytest.raises(InvalidVerdictError) as caught:
        verifier.verify_verdict(signed)
    who = caught.value.accuser or "an unknown node"
    assert str(caught.value) == f"verdict of {who} refused: {caught.value.reason}"
    return caught.value.reason


@pytest.mark.parametrize("opinion", list(Opinion))
@pytest.mark.parametrize("held", [False, True])
def test_a_verified_verdict_equals_what_was_signed(
    signer: RecordSigner,
    verifier: RecordVerifier,
    subject: Record,
    clock: ManualClock,
    opinion: Opinion,
    held: bool,
) -> None:
    stamp = round(clock() * 1000)
    verdict = signer.sign_verdict(subject, stamp, opinion, held=held)
    assert verifier.verify_verdict(verdict.signed) == verdict
    lease = CLEAR_LEASE if opinion is Opinion.CLEAR else VERDICT_LEASE
    assert verdict.verdict == Verdict(
        accuser="a",
        accuser_instance=signer.instance,
        stamp=stamp,
        expires_at=stamp + round(lease * 1000),
        subject="b",
        subject_instance=subject.instance,
        subject_stamp=subject.stamp,
        opinion=opinion,
        held=held,
    )


def test_no_verdict_outlives_the_certificate_that_signed_it(
    ca: CertificateAuthority, verifier: RecordVerifier, subject: Record, clock: ManualClock
) -> None:
    brief = ca.issue_in_memory("brief", days=0.01)
    verifier.add_chain(chain_of(brief))
    signer = RecordSigner.of(brief, mesh=MESH, clock=clock)
    verdict = signer.sign_verdict(subject, round(clock() * 1000), Opinion.FAILED, held=False)
    assert verdict.verdict.expires_at == brief.not_after.timestamp() * 1000
    assert verifier.verify_verdict(verdict.signed) == verdict
    clock.now = brief.not_after.timestamp()
    assert refusal(verifier, verdict.signed) == "the certificate that signed it has expired"


def test_rsa_keys_sign_verdicts_as_well(
    ca: CertificateAuthority, verifier: RecordVerifier, subject: Record
) -> None:
    tls = ca.issue_in_memory("r", key_type=KeyType.RSA_2048)
    verifier.add_chain(chain_of(tls))
    signer = RecordSigner.of(tls, mesh=MESH)
    verdict = signer.sign_verdict(subject, round(time.time() * 1000), Opinion.SUSPECT, held=False)
    assert verifier.verify_verdict(verdict.signed) == verdict
    forged = verdict.signed._replace(signature=verdict.signed.signature[:-1] + b"\0")
    assert refusal(verifier, forged) == "its signature is not by r"


def test_a_verdict_that_is_held_is_not_verified_again_and_any_other_is(
    verifier: RecordVerifier, sign: Sign
) -> None:
    held = verifier.verify_verdict(sign())
    unreadable = held.signed._replace(signature=b"never looked at")

    def find(subject: str, accuser: str) -> SignedVerdict | None:
        return held if (subject, accuser) == ("b", "a") else None

    assert verifier.verify_verdict(unreadable, held=find) is held
    other = sign(held=True)._replace(signature=held.signed.signature)
    with pytest.raises(InvalidVerdictError):
        verifier.verify_verdict(other, held=find)


def test_a_forged_or_altered_verdict_is_refused(verifier: RecordVerifier, sign: Sign) -> None:
    one, other = sign(), sign(opinion=Opinion.CLEAR)
    assert refusal(verifier, one._replace(signature=other.signature)) == "its signature is not by a"
    assert refusal(verifier, one._replace(signature=b"")) == "its signature is not by a"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mesh": "other"}, "it is not a verdict of this mesh"),
        ({"trust_domain": "evil.example"}, "it is not a verdict of this mesh"),
        ({"context": "aegis.mesh.v1 record"}, "it is not a verdict of this mesh"),
        ({"accuser": "c"}, "it was signed by a"),
        ({"subject": "a"}, "a node cannot accuse itself"),
    ],
)
def test_a_verdict_that_no_honest_accuser_signs_is_refused(
    verifier: RecordVerifier, sign: Sign, changes: dict[str, str], reason: str
) -> None:
    assert refusal(verifier, sign(**changes)) == reason


@pytest.mark.parametrize("name", ["accuser", "subject"])
@pytest.mark.parametrize("value", ["", "../x", "localhost", "line\nbreak"])
def test_an_invalid_node_id_is_refused(
    verifier: RecordVerifier, sign: Sign, name: str, value: str
) -> None:
    assert "cannot be a node id" in refusal(verifier, sign(**{name: value}))


def test_stamps_and_leases_are_limited(
    verifier: RecordVerifier, sign: Sign, clock: ManualClock
) -> None:
    now = round(clock() * 1000)
    ahead = now + round(MAX_AHEAD * 1000)
    assert verifier.verify_verdict(sign(stamp=ahead)).verdict.stamp == ahead
    assert (
        refusal(verifier, sign(stamp=ahead + 1))
        == "its stamp is 300 s ahead of this clock (limit 300)"
    )
    longest = ahead + round(CLEAR_LEASE * 1000)
    assert verifier.verify_verdict(sign(expires_at=longest)).verdict.expires_at == longest
    assert refusal(verifier, sign(expires_at=longest + 1)) == "its lease is too long"


def test_a_verdict_by_an_unknown_certificate_is_refused(
    ca: CertificateAuthority, verifier: RecordVerifier, sign: Sign
) -> None:
    reason = refusal(verifier, sign()._replace(signer=b"\1" * 32))
    assert reason == "the certificate that signed it was not sent"


def test_a_verdict_of_another_trust_domain_is_refused(
    tmp_path: Path, ca: CertificateAuthority, subject: Record, clock: ManualClock
) -> None:
    elsewhere = CertificateAuthority.create(
        tmp_path, key_type=KeyType.P256, trust_domain="elsewhere.example"
    )
    stranger = elsewhere.issue_in_memory("a")
    signer = RecordSigner.of(stranger, mesh=MESH, clock=clock)
    verdict = signer.sign_verdict(subject, round(clock() * 1000), Opinion.FAILED, held=False)
    ours = RecordVerifier(ca.bundle, mesh=MESH, trust_domain=ca.trust_domain, clock=clock)
    reason = refusal(ours, verdict.signed)
    assert reason == "the certificate that signed it was not sent", "and it would be refused"


def test_a_verdict_of_a_revoked_accuser_is_refused(
    tmp_path: Path, subject: Record, clock: ManualClock
) -> None:
    ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    tls = ca.issue("a")
    verifier = RecordVerifier(ca.bundle, mesh=MESH, trust_domain=ca.trust_domain, clock=clock)
    verifier.add_chain(chain_of(tls))
    verdict = RecordSigner.of(tls, mesh=MESH, clock=clock).sign_verdict(
        subject, round(clock() * 1000), Opinion.FAILED, held=False
    )
    assert verifier.verify_verdict(verdict.signed) == verdict
    ca.revoke("a")
    crl = (ca.directory / "crl.pem").read_bytes()
    assert verifier.apply_revocations(RevocationList.from_pem(crl, ca.bundle)) == {tls.fingerprint}
    assert "was not sent" in refusal(verifier, verdict.signed)


def test_bytes_of_another_size_or_kind_are_refused(
    verifier: RecordVerifier, sign: Sign, signer: RecordSigner, clock: ManualClock
) -> None:
    reason = refusal(verifier, sign(subject_instance="x" * MAX_VERDICT))
    assert reason.endswith(f"bytes, the limit is {MAX_VERDICT}")
    assert refusal(verifier, Signed(b"\xff", b"", b"")).startswith("its bytes cannot be read")
    unspecified = mesh_pb2.VerdictBody(accuser="a", subject="b").SerializeToString()
    assert refusal(verifier, Signed(unspecified, b"", b"")) == "0 is not a known opinion"
    later = mesh_pb2.VerdictBody(accuser="a", subject="b", opinion=9)  # type: ignore[arg-type]  # of a later version
    assert (
        refusal(verifier, Signed(later.SerializeToString(), b"", b"")) == "9 is not a known opinion"
    )
    record = signer.sign_record("a", round(clock() * 1000), NodeInfo("a", address="10.0.0.1:1"))
    refusal(verifier, Signed(record.body, record.signature, record.signer))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_garbage_and_truncated_bytes_are_refused(
    verifier: RecordVerifier, sign: Sign, data: st.DataObject
) -> None:
    honest = sign()
    cut = st.integers(0, len(honest.body) - 1).map(lambda end: honest.body[:end])
    flipped = st.integers(0, 8 * len(honest.body) - 1).map(
        lambda bit: (int.from_bytes(honest.body) ^ (1 << bit)).to_bytes(len(honest.body))
    )
    body = data.draw(st.one_of(st.binary(max_size=2 * MAX_VERDICT), cut, flipped))
    for signed in (Signed(body, b"", b""), honest._replace(body=body)):
        with pytest.raises(InvalidVerdictError) as caught:
            verifier.verify_verdict(signed)
        assert str(caught.value).isprintable()


@given(
    st.builds(
        Verdict,
        *(st.text(max_size=20), st.text(max_size=20)),
        *(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
        *(st.text(max_size=20), st.text(max_size=20)),
        st.integers(0, 2**63 - 1),
        st.sampled_from(Opinion),
        st.booleans(),
    ),
    st.text(max_size=20),
)
def test_an_encoded_verdict_decodes_to_itself(verdict: Verdict, text: str) -> None:
    body = encode_verdict(verdict, context=text, mesh=text, trust_domain=text)
    assert decode_verdict(body) == (verdict, (text, text, text))
