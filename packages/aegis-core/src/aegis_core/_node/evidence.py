"""Why a node has its status: the verdicts on it, who watches it, and what happened to it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aegis_discovery import Topology
from aegis_discovery.records import Opinion, RecordVerifier, Verdict

from aegis_core._node.history import History

MAX_VERDICTS = 64
"""Verdicts that are listed; those that count are the first."""

MAX_SUBJECTS = 64
"""Nodes that are listed as watched by the node."""

Evidence = dict[str, Any]


def evidence_on(
    node_id: str,
    topology: Topology,
    verifier: RecordVerifier,
    observers_of: Callable[[str], frozenset[str]],
    history: History,
) -> Evidence:
    """Returns what is known of a node as JSON values.

    A verdict counts if its accuser watches the node, has not restarted since, and is about the
    node's present life.

    Args:
        node_id: The node; it may be unknown.
        topology: The topology of the node that is asked.
        verifier: Has the certificates that signed verdicts.
        observers_of: Returns who watches a node.
        history: What happened so far.
    """
    record, node = topology.get_record(node_id), topology.get_node(node_id)
    events = [event for event in history.events if event.node_id == node_id]
    if record is None:
        return {"known": False, "events": events}
    observers = observers_of(node_id)
    standing = history.standing_of(node_id)
    verdicts = sorted(
        (verdict for verdict in topology.get_verdicts(node_id) if verdict.is_about(record)),
        key=lambda one: (one.accuser not in observers, one.opinion is Opinion.CLEAR, one.accuser),
    )
    watched = [other for other in topology.nodes if node_id in observers_of(other)]
    return {
        "known": True,
        "has_left": node is None,
        "status": None if node is None else node.status,
        "since": standing.since if standing else node and node.joined_at,
        "by": list(standing.by) if standing else [],
        "instance": record.instance,
        "vouched_by": record.voucher,
        "signed": {"at": _time(record.stamp), **_signer(record.signer, verifier)},
        "lease_until": _time(record.expires_at),
        "observers": sorted(observers),
        "watches": sorted(watched)[:MAX_SUBJECTS],
        "verdicts": [
            _verdict(one, topology, verifier, observers) for one in verdicts[:MAX_VERDICTS]
        ],
        "verdicts_in_all": len(verdicts),
        "events": events,
    }


def _verdict(
    verdict: Verdict, topology: Topology, verifier: RecordVerifier, observers: frozenset[str]
) -> Evidence:
    accuser = topology.get_record(verdict.accuser)
    signed = topology.get_verdict(verdict.subject, verdict.accuser)
    same_life = accuser is not None and accuser.instance == verdict.accuser_instance
    return {
        "accuser": verdict.accuser,
        "opinion": verdict.opinion,
        "held": verdict.held,
        "counts": same_life and verdict.accuser in observers,
        "at": _time(verdict.stamp),
        "lease_until": _time(verdict.expires_at),
        **(_signer(signed.signed.signer, verifier) if signed else {}),
    }


def _signer(fingerprint: bytes, verifier: RecordVerifier) -> Evidence:
    leaf = verifier.leaf(fingerprint)
    if leaf is None:
        return {"signer": fingerprint.hex()}
    certificate = leaf.certificate
    return {
        "signer": fingerprint.hex(),
        "serial": f"{certificate.serial_number:x}",
        "issuer": certificate.issuer.rfc4514_string()[:200],
        "certificate_until": certificate.not_valid_after_utc,
    }


def _time(milliseconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None  # another node wrote it
