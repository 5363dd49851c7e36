"""Records and verdicts: how nodes write, sign and verify them. For code that builds nodes."""

from aegis_discovery.records._codec import (
    decode_record,
    decode_verdict,
    node_to_unsigned,
    nodes_from_unsigned,
    signed_from_wire,
)
from aegis_discovery.records._count import (
    UNREFUTED,
    UNREFUTED_ELSEWHERE,
    VerdictCounter,
    accusations,
    is_unanswered,
    valid_accusations,
)
from aegis_discovery.records._protocol import Verifier
from aegis_discovery.records._record import (
    LEASE,
    MAX_AHEAD,
    MAX_PLACE,
    MAX_RECORD,
    MAX_REGION,
    REPUBLISH_EVERY,
    TOMBSTONE_LEASE,
    Record,
    Signed,
    place_problem,
)
from aegis_discovery.records._signer import RecordSigner
from aegis_discovery.records._verdict import VERDICT_LEASE, Opinion, SignedVerdict, Verdict
from aegis_discovery.records._verifier import RecordVerifier

__all__ = [
    "LEASE",
    "MAX_AHEAD",
    "MAX_PLACE",
    "MAX_RECORD",
    "MAX_REGION",
    "REPUBLISH_EVERY",
    "TOMBSTONE_LEASE",
    "UNREFUTED",
    "UNREFUTED_ELSEWHERE",
    "VERDICT_LEASE",
    "Opinion",
    "Record",
    "RecordSigner",
    "RecordVerifier",
    "Signed",
    "SignedVerdict",
    "Verdict",
    "VerdictCounter",
    "Verifier",
    "accusations",
    "decode_record",
    "decode_verdict",
    "is_unanswered",
    "node_to_unsigned",
    "nodes_from_unsigned",
    "place_problem",
    "signed_from_wire",
    "valid_accusations",
]
