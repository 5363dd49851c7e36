"""Which policies a node has: what the mesh has published, and the hash of the node's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc.aio
from aegis_certs import TLSConfig
from aegis_discovery.aio import connect
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.background import in_daemon_thread
from aegis_discovery.documents import Document, DocumentKind
from aegis_discovery.policy import Policy
from aegis_discovery.proto import stats_pb2, stats_pb2_grpc
from aegis_discovery.transport import parse_seed, probe_identity

from aegis_cli.errors import CallFailedError

_TIMEOUT = 5.0


@dataclass(frozen=True)
class NodePolicies:
    """The policies of one node.

    Attributes:
        node_id: The node.
        document: The policy that the mesh has published; None if there is none.
        sequence: The sequence of that policy that the node has; None if it has none.
        own: SHA-256 of its own policy; empty if it has none.
        given: SHA-256 of the file that was given; empty without one.
    """

    node_id: str
    document: Document | None
    sequence: int | None
    own: str
    given: str

    @property
    def published(self) -> Policy | None:
        """The policy that the mesh has published."""
        value = None if self.document is None else self.document.value
        return value if isinstance(value, Policy) else None

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values."""
        document = self.document
        return {
            "id": self.node_id,
            "own": self.own or None,
            "given_is_own": self.given == self.own if self.given else None,
            "published": None if document is None else document.content_digest,
            "published_sequence": None if document is None else document.sequence,
            "node_sequence": self.sequence,
        }

    def lines(self) -> list[str]:
        """The facts in words."""
        return [self._published_line(), self._own_line()]

    def _published_line(self) -> str:
        if self.document is None:
            return "published policy: none"
        digest, sequence = self.document.content_digest[:12], self.document.sequence
        has = "the node has it"
        if self.sequence != sequence:
            what = "no published policy" if self.sequence is None else f"{_when(self.sequence)}"
            has = f"the node does not have it yet: it has {what}"
        return f"published policy: {digest} of {_when(sequence)}; {has}"

    def _own_line(self) -> str:
        own = f"{self.node_id}'s own policy"
        if not self.own:
            ignored = "; the given file is not in force there" if self.given else ""
            return f"{own}: none{ignored}"
        if not self.given:
            advice = "not asked here; give its file to decide by both"
            return f"{own}: {self.own[:12]}, {advice}"
        if self.given == self.own:
            return f"{own}: {self.own[:12]}, the given file"
        return f"{own}: {self.own[:12]}, which is NOT the given file ({self.given[:12]})"


async def policies_of(node: str, tls: TLSConfig, *, mesh: str, given: str) -> NodePolicies:
    """Asks a node which policies it has, and reads the published one from its feed.

    Args:
        node: `host:port` or `id@host:port`.
        tls: The identity to ask with.
        mesh: The name of the mesh.
        given: SHA-256 of a policy file, in hexadecimal; empty without one.

    Raises:
        CallFailedError: The node does not answer.
        ConnectError: It accepts no client.
    """
    seed = parse_seed(node)
    node_id = seed.node_id
    if node_id is None:
        node_id = (await in_daemon_thread(probe_identity, seed.address, tls)).node_id
    stats = await _stats(node_id, seed.address, tls)
    async with connect(f"{node_id}@{seed.address}", tls=tls, mesh=mesh) as client:
        document = client.documents.get(DocumentKind.POLICY)
    held = stats.get("documents")
    sequence = held.get(DocumentKind.POLICY.value) if isinstance(held, dict) else None
    return NodePolicies(node_id, document, sequence, str(stats.get("own_policy") or ""), given)


async def _stats(node_id: str, address: str, tls: TLSConfig) -> Mapping[str, Any]:
    async with open_channel(tls, node_id, address) as channel:
        stub = stats_pb2_grpc.IntrospectionStub(channel)
        try:
            answer = await stub.GetStats(stats_pb2.GetStatsRequest(), timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise CallFailedError(error) from error
    try:
        found = json.loads(answer.json)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _when(sequence: int) -> str:
    moment = datetime.fromtimestamp(sequence / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
