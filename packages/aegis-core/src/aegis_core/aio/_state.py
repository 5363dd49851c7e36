"""What the parts of one node share: who it is, what it knows, whom it believes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aegis_certs import TLSConfig
from aegis_discovery import InvalidRecordError, NodeIdInUseError, NodeInfo, Topology
from aegis_discovery.feed import FeedReader, Received
from aegis_discovery.records import Record, RecordAuthor, RecordVerifier
from cryptography.hazmat.primitives.serialization import Encoding

from aegis_core._caller_check import CallerCheck
from aegis_core.errors import ConfigError

_log = logging.getLogger("aegis.node")


class NodeState:
    """The identity and the knowledge of one node.

    Attributes:
        joined: Set once a peer told everything that it knows.
    """

    def __init__(
        self, tls: TLSConfig, *, mesh: str, on_failure: Callable[[Exception], None]
    ) -> None:
        self.tls = tls
        self.mesh = mesh
        self.node_id = tls.node_id
        self.joined = asyncio.Event()
        self._author = RecordAuthor.of(tls, mesh=mesh)
        self.topology = Topology(owner=tls.node_id, author=self._author)
        self.verifier = RecordVerifier(tls.bundle, mesh=mesh, trust_domain=tls.trust_domain)
        self.chain = _chain(tls)
        self.check = CallerCheck()
        self._learn_own()
        self._on_failure = on_failure

    def change_identity(self, tls: TLSConfig) -> None:
        """Goes on with another certificate, key or trust bundle of the same node."""
        self.tls, self.chain = tls, _chain(tls)
        self.verifier.trust(tls.bundle)
        self._learn_own()
        self._author.change_identity(tls)
        self.topology.republish()

    def _learn_own(self) -> None:
        try:
            self.verifier.learn(self.chain)
        except InvalidRecordError as error:
            reason = f"{self.node_id} cannot be a node: {error.reason}"
            raise ConfigError("tls", reason) from error

    def new_reader(self) -> FeedReader:
        """Makes the reading end of one more feed."""
        return FeedReader(self.topology, self.verifier, trusts_verdicts=False)

    def own_record(self) -> Record | None:
        """Returns the record that this node publishes of itself."""
        return self.topology.get_record(self.node_id)

    def own_node(self) -> NodeInfo:
        """Returns this node as others see it; after it left, only its id."""
        return self.topology.get_node(self.node_id) or NodeInfo(self.node_id)

    def chain_of(self, fingerprint: bytes) -> tuple[bytes, ...] | None:
        """Finds the chain of a certificate that signed a record we hold."""
        leaf = self.verifier.leaf(fingerprint)
        return leaf.chain if leaf else None

    def forget_certificates(self) -> None:
        """Lets go of certificates that sign no record any more."""
        signers = {record.signer for record in self.topology.snapshot().records}
        self.verifier.keep(signers | {self.tls.fingerprint})

    def received(self, received: Received) -> None:
        """Takes note of what a feed's message meant for this node itself."""
        if received.foreign is not None:
            self.met_foreign(received.foreign)
        if received.complete and not self.joined.is_set():
            self.joined.set()

    def met_foreign(self, record: Record) -> None:
        """Answers a newer record of our own id that another process wrote.

        While joining, it is of an earlier life of this node: go on above it. Later, somebody else
        runs under this id: give way, rather than fight.
        """
        if record.info is None or not self.joined.is_set():
            self.topology.republish()
            return
        self._on_failure(NodeIdInUseError(self.node_id, record.info.address))


def _chain(tls: TLSConfig) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in tls.chain)
