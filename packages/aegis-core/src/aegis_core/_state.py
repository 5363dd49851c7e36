"""What the parts of one node share: its identity, its topology and its verifiers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from aegis_certs import PublishedFiles, RevocationList, TLSConfig
from aegis_discovery import InvalidRecordError, NodeInfo, Topology
from aegis_discovery.documents import DocumentKeeper
from aegis_discovery.feed import FeedReader, remove_impersonators
from aegis_discovery.records import Record, RecordSigner, RecordVerifier
from aegis_discovery.signals import LogLimiter

from aegis_core._access.authorization import CallerVerifier
from aegis_core.errors import ConfigError


class NodeState:
    """The identity and the topology of one node.

    Attributes:
        node_id: The id of the node.
        identity: The same without the number of a worker: the name in its certificate.
        joined: Set once a peer has sent all that it knows.
        keeper: Keeps the documents of the mesh in the directory of the identity.
        documents: The documents.
        on_failure: Stops the node because of an error that it cannot continue with.
        drain: Stops the node in order, for the reason that it is given.
    """

    def __init__(
        self,
        tls: TLSConfig,
        topology: Topology,
        *,
        node_id: str,
        mesh: str,
        on_failure: Callable[[Exception], None],
        files: PublishedFiles | None = None,
    ) -> None:
        self.tls = tls
        self.keeper = DocumentKeeper(tls, mesh=mesh, files=files)
        self.documents = self.keeper.store
        self.mesh = mesh
        self.node_id = node_id
        self.identity = tls.node_id
        self.joined = asyncio.Event()
        self._signer = RecordSigner.of(tls, mesh=mesh, node_id=node_id)
        self.topology = topology
        topology.change_signer(self._signer)
        self.verifier = RecordVerifier(
            tls.bundle,
            mesh=mesh,
            trust_domain=tls.trust_domain,
            find_signed=topology.find_signed,
        )
        remove_impersonators(topology, self.verifier)
        self.chain = tls.encoded_chain
        self.caller_verifier = CallerVerifier(
            tls.bundle, tls.trust_domain, find_signed=topology.find_signed
        )
        self._log_limiter = LogLimiter(logging.getLogger("aegis.feed"))
        _check(tls, self.verifier)
        self.on_failure = on_failure
        self.drain: Callable[[str], None] = lambda _: None

    def change_identity(self, tls: TLSConfig) -> None:
        """Changes to another certificate, key or trust bundle of the same node.

        Raises:
            ConfigError: If it is not an identity of this node; the old one stays.
        """
        if tls.node_id != self.identity:
            reason = f"the certificate is {tls.node_id}'s, this node is {self.node_id}"
            raise ConfigError("tls", reason)
        _check(tls, RecordVerifier(tls.bundle, mesh=self.mesh, trust_domain=tls.trust_domain))
        self._signer.change_identity(tls)
        self.tls, self.chain = tls, tls.encoded_chain
        self.caller_verifier.change_bundle(tls.bundle)
        self.verifier.change_bundle(tls.bundle)
        self.keeper.change_identity(tls)
        self.verifier.add_chain(self.chain)
        node = self.topology.get_node(self.node_id)
        if node is not None and node.trust_bundle != tls.bundle_fingerprint:
            self.topology.update_node(replace(node, trust_bundle=tls.bundle_fingerprint))
        else:
            self.topology.republish()

    def apply_revocations(self, revocations: RevocationList) -> None:
        """Refuses revoked certificates from now on, and removes their records."""
        self.caller_verifier.apply_revocations(revocations)
        self.keeper.apply_revocations(revocations)
        self.topology.remove_revoked(self.verifier.apply_revocations(revocations))

    def new_reader(self, region: str | None = None) -> FeedReader:
        return FeedReader(
            self.topology,
            self.verifier,
            trusts_statuses=False,
            region=region,
            log_limiter=self._log_limiter,
            documents=self.documents,
        )

    @property
    def instance(self) -> str:
        """The random id of this process, which its records state."""
        return self._signer.instance

    def own_record(self) -> Record | None:
        return self.topology.get_record(self.node_id)

    def own_node(self) -> NodeInfo:
        """Returns this node as others see it; after it left, with its id only."""
        return self.topology.get_node(self.node_id) or NodeInfo(self.node_id)

    def chain_of(self, fingerprint: bytes) -> tuple[bytes, ...] | None:
        leaf = self.verifier.leaf(fingerprint)
        return leaf.chain if leaf else None

    def forget_certificates(self) -> None:
        self.verifier.retain(self.topology.signers | {self.tls.fingerprint})


def _check(tls: TLSConfig, verifier: RecordVerifier) -> None:
    """Checks that a chain is valid for a server, and that the key belongs to it."""
    try:
        verifier.add_chain(tls.encoded_chain)
    except InvalidRecordError as error:
        reason = f"{tls.node_id} cannot be a node: {error.reason}"
        raise ConfigError("tls", reason) from error
    if tls.key.public_key() != tls.certificate.public_key():
        raise ConfigError("tls", f"the private key is not that of {tls.node_id}'s certificate")
