"""Removes nodes whose certificate TLS also accepts for a node that joins."""

from __future__ import annotations

import logging

from aegis_certs import owner_of

from aegis_discovery._topology.events import EventKind, TopologyEvent
from aegis_discovery._topology.topology import Topology
from aegis_discovery.records._verifier import RecordVerifier

_log = logging.getLogger("aegis.topology")

_IS_THERE = (EventKind.JOINED, EventKind.UPDATED)


def remove_impersonators(topology: Topology, verifier: RecordVerifier) -> None:
    """Removes nodes, from now on, when a node joins that one of their DNS names belongs to.

    The verifier refuses the records of such nodes only while that node is in the topology.
    """

    def on_event(event: TopologyEvent) -> None:
        node = event.node
        if event.kind not in _IS_THERE or node.vouched_by is not None:
            return
        signers = verifier.naming(owner_of(node.id))
        if signers:
            for other in sorted({leaf.node_id for s in signers if (leaf := verifier.leaf(s))}):
                line = (
                    "%s is refused from now on: its certificate is also valid for %s, which "
                    "joined; issue one without that name"
                )
                _log.warning(line, other, node.id)
            topology.remove_revoked(signers)

    topology.subscribe(on_event)
