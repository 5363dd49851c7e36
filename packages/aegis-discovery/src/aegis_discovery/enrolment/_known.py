"""Which issuers a process may ask, and what it keeps of their answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from aegis_certs import IssuerAddress, PublishedFiles, TLSConfig

from aegis_discovery._model import NodeStatus
from aegis_discovery._topology.topology import Topology
from aegis_discovery.documents._keeper import DocumentKeeper
from aegis_discovery.documents._store import DocumentStore
from aegis_discovery.errors import InvalidDocumentError
from aegis_discovery.proto import mesh_pb2

_log = logging.getLogger("aegis.identity")


def known_issuers(documents: DocumentStore, topology: Topology) -> tuple[IssuerAddress, ...]:
    """Returns the issuers that the CA of the mesh lists, at the addresses of their records too.

    A record alone proves nothing: any member could say in its own that it issues. So a node that is
    not listed is not asked. One that is listed may have moved.
    """
    found: dict[IssuerAddress, None] = {}
    for listed in documents.issuers:
        nodes = topology.get_nodes_by_identity(listed.node_id)
        live = [node for node in nodes if node.status is not NodeStatus.FAILED and node.address]
        found |= dict.fromkeys(IssuerAddress(listed.node_id, node.address) for node in live)
        found[IssuerAddress(listed.node_id, listed.address)] = None
    return tuple(found)


def keep_documents(
    messages: Iterable[mesh_pb2.SignedDocument], tls: TLSConfig, cert_dir: str | Path, mesh: str
) -> None:
    """Keeps the documents of an answer in the directory, as far as they verify; blocks.

    They are verified by the CAs that were trusted before the answer. What is refused, the feed
    brings.
    """
    from aegis_discovery.documents._codec import document_from_wire

    keeper = DocumentKeeper(tls, mesh=mesh, files=PublishedFiles(cert_dir))
    keeper.load()
    for message in messages:
        try:
            keeper.store.receive(document_from_wire(message))
        except InvalidDocumentError as error:
            _log.warning("%s passes over a document of the issuer: %s", tls.node_id, error)
    keeper.save()
