"""Lets the CA of an issuer rotate itself: asks its plan again and again, and says what it did."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from aegis_certs import CertificateAuthority, CertsError, MeshView, RotationDecision, RotationStep
from aegis_discovery import NodeStatus
from aegis_discovery.background import sleep
from aegis_discovery.signals import LogLimiter

from aegis_core._state import NodeState

_log = logging.getLogger("aegis.issuer")

_DAY = 86_400.0
_SHORTEST, _LONGEST = 5.0, 600.0  # seconds
_PARTS = 100  # of the CA's life; an issuer that has just started does not know the mesh yet
_RETRY = 60.0
_GONE = (NodeStatus.FAILED, NodeStatus.LEFT)


class CARotation:
    """Rotates the CA of one issuer when it is time.

    Several issuers may share a directory: each step is done by one of them.

    Args:
        authority: The CA.
        state: The node, which sees the mesh.
    """

    def __init__(self, authority: CertificateAuthority, state: NodeState) -> None:
        self._authority = authority
        self._state = state
        self._log_limiter = LogLimiter(_log, period=_DAY, counts=False)

    async def run(self) -> None:
        """Runs until cancelled."""
        ca = self._authority.certificate
        life = (ca.not_valid_after_utc - ca.not_valid_before_utc).total_seconds()
        # At first it would see no node that lags, and no peer that needs the new CA by hand.
        await sleep(min(max(life / _PARTS, _SHORTEST), _LONGEST))
        while True:
            view = view_of(self._state)
            try:
                decision = await asyncio.to_thread(self._authority.advance_rotation, view)
            except CertsError as error:
                line = "the CA cannot be rotated now; it is tried again: %s"
                self._log_limiter.warn("error", str(error), line, error)
                pause = _RETRY
            else:
                self._report(decision)
                pause = (decision.check_at - datetime.now(UTC)).total_seconds()
            await sleep(max(pause, 1.0))

    def _report(self, decision: RotationDecision) -> None:
        name, lagging = self._authority.name, ", ".join(decision.lagging)
        if decision.step is RotationStep.PREPARE:
            _log.info(
                "the next CA is prepared; every node trusts it from now on, and %s still issues",
                name,
            )
        elif decision.step is RotationStep.ACTIVATE and lagging:
            line = "%s issues from now on, although these nodes do not trust it: %s"
            _log.warning(line, name, lagging)
        elif decision.step is RotationStep.ACTIVATE:
            _log.info("%s issues from now on; all live nodes trust it", name)
        elif decision.step is RotationStep.RETIRE:
            _log.info("the old CA is retired; %s is the only one now", name)
        elif lagging:
            line = "the next CA waits for nodes that do not trust it yet: %s"
            self._log_limiter.warn("lagging", lagging, line, lagging)
        if decision.blocked:
            line = "the CA does not rotate itself: %s"
            self._log_limiter.warn("blocked", decision.blocked, line, decision.blocked)


def view_of(state: NodeState) -> MeshView:
    """What a node knows about the trust of all live nodes, itself among them."""
    bundles, certificates, unsigned = {}, {}, set()
    for node in state.topology.nodes.values():
        if node.status in _GONE:
            continue
        if node.vouched_by:
            unsigned.add(node.id)
            continue
        bundles[node.id] = node.trust_bundle
        certificate = state.verifier.certificate_of(state.topology.get_record(node.id))
        if certificate is not None:
            certificates[node.id] = certificate
    return MeshView.of(bundles, certificates, unsigned)
