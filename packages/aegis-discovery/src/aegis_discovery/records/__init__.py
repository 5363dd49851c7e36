"""Records and verdicts: how nodes write, sign and verify them. For code that builds nodes."""

from aegis_discovery.records._codec import (
    decode_record,
    decode_verdict,
    node_to_unsigned,
    nodes_from_unsigned,
    signed_from_wire,
)
from aegis_discovery.records._record import (
    LEASE,
    MAX_AHEAD,
    MAX_RECORD,
    MAX_REGION,
    REPUBLISH_EVERY,
    TOMBSTONE_LEASE,
    Record,
    Signed,
)
from aegis_discovery.records._signer import RecordSigner
from aegis_discovery.records._verdict import VERDICT_LEASE, Opinion, SignedVerdict, Verdict
from aegis_discovery.records._verifier import RecordVerifier, Verifier

__all__ = [
    "LEASE",
    "MAX_AHEAD",
    "MAX_RECORD",
    "MAX_REGION",
    "REPUBLISH_EVERY",
    "TOMBSTONE_LEASE",
    "VERDICT_LEASE",
    "Opinion",
    "Record",
    "RecordSigner",
    "RecordVerifier",
    "Signed",
    "SignedVerdict",
    "Verdict",
    "Verifier",
    "decode_record",
    "decode_verdict",
    "node_to_unsigned",
    "nodes_from_unsigned",
    "signed_from_wire",
]
