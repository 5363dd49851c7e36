"""A malicious node: it has a valid certificate, but sends whatever a test wants."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from aegis_certs import TLSConfig
from aegis_core import caller_from_context
from aegis_discovery import DEFAULT_MESH, NodeInfo, ServiceInfo
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import mesh_pb2, mesh_pb2_grpc
from aegis_discovery.records import Record, RecordSigner, SignedVerdict
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

Signed = mesh_pb2.SignedRecord | mesh_pb2.SignedVerdict


def count_instances(kind: type) -> int:
    """Returns how many objects of a class exist in this process."""
    gc.collect()
    return sum(isinstance(found, kind) for found in gc.get_objects())


class Attacker:
    """Joins like any node, serves feeds with any content, and opens feeds itself.

    Attributes:
        id: The node id in its certificate.
        watchers: Ids of all nodes and clients that have opened a feed from it.
        feeds_served: The number of feeds opened so far.
        received: The messages of the feeds that it opened at other nodes.
        minted: Ids of the workers that it has entered.
    """

    def __init__(self, tls: TLSConfig) -> None:
        self.id = tls.node_id
        self.tls = tls
        self.signer = RecordSigner.of(tls, mesh=DEFAULT_MESH)
        self.chain = [certificate.public_bytes(Encoding.DER) for certificate in tls.chain]
        self.address = ""
        self.watchers: set[str] = set()
        self.feeds_served = 0
        self.received: list[mesh_pb2.WatchResponse] = []
        self.minted: frozenset[str] = frozenset()
        self._key = load_pem_private_key(tls.private_key, password=None)
        self._stamps = itertools.count(time.time_ns() // 1_000_000)
        self._markers = itertools.count(1)
        self._script: list[bytes] = []
        self._sent: dict[str, int] = defaultdict(int)
        self._changed = asyncio.Event()
        self._feeds_ended = 0
        self._server = grpc.aio.server()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._reading: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        handlers = {"Watch": grpc.unary_stream_rpc_method_handler(self._watch)}
        service = grpc.method_handlers_generic_handler("aegis.mesh.v1.Mesh", handlers)
        self._server.add_generic_rpc_handlers((service,))
        credentials = grpc.ssl_server_credentials(
            [(self.tls.private_key, self.tls.certificate_chain)], self.tls.trust_bundle, True
        )
        port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        await self._server.stop(0)

    # What it signs

    def sign(self, body: bytes) -> dict[str, bytes]:
        """Signs any bytes."""
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        signature = self._key.sign(body, ec.ECDSA(hashes.SHA256()))
        return {"body": body, "signature": signature, "signer": self.tls.fingerprint}

    def record(self, *services: str, node_id: str = "", **changes: Any) -> mesh_pb2.SignedRecord:
        """Signs a record, its own by default, with any changes to its fields."""
        node_id = node_id or self.id
        info = NodeInfo(
            node_id,
            address=self.address,
            services=tuple(ServiceInfo(service, "v1") for service in services),
        )
        stamp = changes.pop("stamp", None) or next(self._stamps)
        signer = changes.pop("signer", self.signer)
        record: Record = signer.sign_record(node_id, stamp, info)
        if not changes:
            return mesh_pb2.SignedRecord(
                body=record.body, signature=record.signature, signer=record.signer
            )
        body = mesh_pb2.RecordBody.FromString(record.body)
        for name, value in changes.items():
            setattr(body, name, value)
        return mesh_pb2.SignedRecord(**self.sign(body.SerializeToString()))

    def signer_of(self, node_id: str) -> RecordSigner:
        """Returns what signs as another node, such as a worker, with the key of this one."""
        return RecordSigner.of(self.tls, mesh=DEFAULT_MESH, node_id=node_id)

    def verdict(self, about: Record, opinion: Any, **changes: Any) -> mesh_pb2.SignedVerdict:
        """Signs a verdict with any changes to its fields."""
        stamp = next(self._stamps)
        signer = changes.pop("signer", self.signer)
        honest: SignedVerdict = signer.sign_verdict(about, stamp, opinion, held=False)
        body = mesh_pb2.VerdictBody.FromString(honest.signed.body)
        for name, value in changes.items():
            setattr(body, name, value)
        return mesh_pb2.SignedVerdict(**self.sign(body.SerializeToString()))

    # What it sends in its feeds

    def send(self, *signed: Signed, chains: Iterable[Iterable[bytes]] = ()) -> None:
        """Sends records and verdicts to all watchers, in one message."""
        message = mesh_pb2.WatchResponse(cursor=b"any")
        for piece in signed:
            is_record = isinstance(piece, mesh_pb2.SignedRecord)
            (message.records if is_record else message.verdicts).append(piece)
        message.chains.extend(mesh_pb2.Chain(certificates=chain) for chain in chains)
        self.send_bytes(message.SerializeToString())

    def send_bytes(self, data: bytes) -> None:
        """Sends any bytes to all watchers."""
        self._script.append(data)
        self._changed.set()

    def end_feeds(self) -> None:
        """Ends all open feeds without an error."""
        self._feeds_ended = self.feeds_served
        self._changed.set()

    def publish_marker(self) -> str:
        """Publishes a new service after everything sent so far; returns the service's name."""
        name = f"marker-{next(self._markers)}"
        self.send(self.record(name))
        return name

    # What it requests

    def request(self, record: mesh_pb2.SignedRecord | None = None) -> mesh_pb2.WatchRequest:
        return mesh_pb2.WatchRequest(
            mesh=DEFAULT_MESH,
            record=record,
            chain=mesh_pb2.Chain(certificates=self.chain) if record else None,
        )

    def watch(self, node: Any, request: mesh_pb2.WatchRequest) -> Any:
        """Opens a feed from a node."""
        if node.id not in self._channels:
            self._channels[node.id] = open_channel(self.tls, node.id, node.address)
        return mesh_pb2_grpc.MeshStub(self._channels[node.id]).Watch(request, timeout=60)

    async def join(self, node: Any) -> None:
        """Joins as an honest node does, and continues to read this node's feed."""
        call = self.watch(node, self.request(self.record()))
        while not (message := await call.read()).complete:
            self.received.append(message)
        self.received.append(message)
        self._reading.append(asyncio.create_task(self._read(call)))

    def records_of(self, node_id: str) -> list[mesh_pb2.SignedRecord]:
        """Returns all received records of a node, oldest first."""
        return [
            record
            for message in self.received
            for record in message.records
            if mesh_pb2.RecordBody.FromString(record.body).id == node_id
        ]

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            self.received.append(message)

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        caller = caller_from_context(context).node_id
        self.watchers.add(caller)
        self.feeds_served += 1
        number = self.feeds_served
        chains = [mesh_pb2.Chain(certificates=self.chain)]
        first = mesh_pb2.WatchResponse(chains=chains, complete=True, cursor=b"any")
        yield first.SerializeToString()
        while number > self._feeds_ended:
            self._changed.clear()
            while self._sent[caller] < len(self._script):
                self._sent[caller] += 1
                yield self._script[self._sent[caller] - 1]
            try:
                async with asyncio.timeout(0.5):
                    await self._changed.wait()
            except TimeoutError:
                yield mesh_pb2.WatchResponse(cursor=b"any").SerializeToString()
