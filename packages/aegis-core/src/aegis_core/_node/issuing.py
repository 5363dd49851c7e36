"""Publishes the documents of an issuer."""

from __future__ import annotations

import asyncio
import logging

from aegis_certs import CertificateAuthority, CertsError
from aegis_discovery import InvalidDocumentError
from aegis_discovery.background import sleep_until_tick
from aegis_discovery.documents import AuthorityDocuments
from aegis_discovery.signals import LogLimiter

from aegis_core._state import NodeState

_log = logging.getLogger("aegis.documents")

PUBLISH_INTERVAL = 1.0
"""Seconds between two looks at the directory of the CA."""


async def publish_documents(authority: CertificateAuthority, state: NodeState) -> None:
    """Publishes what the directory of a CA says, and each change of it, until cancelled."""
    documents = AuthorityDocuments(authority, mesh=state.mesh, store=state.documents)
    limiter = LogLimiter(_log)
    while True:
        try:
            for signed in await asyncio.to_thread(lambda: list(documents.poll())):
                state.documents.receive(signed)
        except (CertsError, InvalidDocumentError) as error:
            line = "%s could not publish what its CA says; it tries again: %s"
            limiter.log_change(logging.WARNING, "publish", str(error), line, state.node_id, error)
        else:
            limiter.forget("publish")
        await sleep_until_tick(PUBLISH_INTERVAL)
