"""Records: how nodes write, sign and believe what the topology holds. For those who build nodes."""

from aegis_discovery._author import RecordAuthor
from aegis_discovery._codec import node_to_seed, nodes_from_seed, signed_from_wire
from aegis_discovery._record import (
    LEASE,
    MAX_RECORD,
    REPUBLISH_EVERY,
    TOMBSTONE_LEASE,
    Record,
    SignedRecord,
)
from aegis_discovery._verifier import RecordVerifier

__all__ = [
    "LEASE",
    "MAX_RECORD",
    "REPUBLISH_EVERY",
    "TOMBSTONE_LEASE",
    "Record",
    "RecordAuthor",
    "RecordVerifier",
    "SignedRecord",
    "node_to_seed",
    "nodes_from_seed",
    "signed_from_wire",
]
