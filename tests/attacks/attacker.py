"""A member of the mesh that lies: a valid certificate, and none of our code behind it."""

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


def held(kind: type) -> int:
    """How many of these this process holds."""
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


class Attacker:
    """Joins like any node, serves feeds in which it says what it likes, and opens feeds itself.

    Attributes:
        id: Of its certificate.
        watchers: Ids of those who hold a feed of it open.
        feeds_served: How many feeds were opened so far.
        heard: What nodes told it in the feeds that it opened, as it was signed.
    """

    def __init__(self, tls: TLSConfig) -> None:
        self.id = tls.node_id
        self.tls = tls
        self.signer = RecordSigner.of(tls, mesh=DEFAULT_MESH)
        self.chain = [certificate.public_bytes(Encoding.DER) for certificate in tls.chain]
        self.address = ""
        self.watchers: set[str] = set()
        self.feeds_served = 0
        self.heard: list[mesh_pb2.WatchResponse] = []
        self._key = load_pem_private_key(tls.private_key, password=None)
        self._stamps = itertools.count(time.time_ns() // 1_000_000)
        self._markers = itertools.count(1)
        self._script: list[bytes] = []
        self._told: dict[str, int] = defaultdict(int)
        self._news = asyncio.Event()
        self._feeds_ended = 0
        self._server = grpc.aio.server()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._listening: list[asyncio.Task[None]] = []

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
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        await self._server.stop(0)

    # What it signs

    def sign(self, body: bytes) -> dict[str, bytes]:
        """Signs any bytes at all."""
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

    def verdict(self, about: Record, opinion: Any, **changes: Any) -> mesh_pb2.SignedVerdict:
        """Signs a verdict with any changes to its fields."""
        stamp = next(self._stamps)
        honest: SignedVerdict = self.signer.sign_verdict(about, stamp, opinion, held=False)
        body = mesh_pb2.VerdictBody.FromString(honest.signed.body)
        for name, value in changes.items():
            setattr(body, name, value)
        return mesh_pb2.SignedVerdict(**self.sign(body.SerializeToString()))

    # What it says to those who watch it

    def tell(self, *signed: Signed, chains: Iterable[Iterable[bytes]] = ()) -> None:
        """Tells all who watch it, in one message."""
        message = mesh_pb2.WatchResponse(cursor=b"any")
        for piece in signed:
            is_record = isinstance(piece, mesh_pb2.SignedRecord)
            (message.records if is_record else message.verdicts).append(piece)
        message.chains.extend(mesh_pb2.Chain(certificates=chain) for chain in chains)
        self.say(message.SerializeToString())

    def say(self, data: bytes) -> None:
        """Sends any bytes to all who watch it."""
        self._script.append(data)
        self._news.set()

    def end_feeds(self) -> None:
        """Ends all feeds that are open now, in order."""
        self._feeds_ended = self.feeds_served
        self._news.set()

    def mark(self) -> str:
        """Publishes a service of its own, after all that it said; returns the service's name."""
        name = f"marker-{next(self._markers)}"
        self.tell(self.record(name))
        return name

    # What it asks for

    def request(self, record: mesh_pb2.SignedRecord | None = None) -> mesh_pb2.WatchRequest:
        return mesh_pb2.WatchRequest(
            mesh=DEFAULT_MESH,
            record=record,
            chain=mesh_pb2.Chain(certificates=self.chain) if record else None,
        )

    def watch(self, node: Any, request: mesh_pb2.WatchRequest) -> Any:
        """Opens a feed of a node."""
        if node.id not in self._channels:
            self._channels[node.id] = open_channel(self.tls, node.id, node.address)
        return mesh_pb2_grpc.MeshStub(self._channels[node.id]).Watch(request, timeout=60)

    async def join(self, node: Any) -> None:
        """Joins as an honest node does, and goes on listening to this one."""
        call = self.watch(node, self.request(self.record()))
        while not (message := await call.read()).complete:
            self.heard.append(message)
        self.heard.append(message)
        self._listening.append(asyncio.create_task(self._listen(call)))

    def caught(self, node_id: str) -> list[mesh_pb2.SignedRecord]:
        """Returns all records of a node that it was told of, the oldest first."""
        return [
            record
            for message in self.heard
            for record in message.records
            if mesh_pb2.RecordBody.FromString(record.body).id == node_id
        ]

    async def _listen(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            self.heard.append(message)

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        caller = caller_from_context(context).node_id
        self.watchers.add(caller)
        self.feeds_served += 1
        number = self.feeds_served
        chains = [mesh_pb2.Chain(certificates=self.chain)]
        first = mesh_pb2.WatchResponse(chains=chains, complete=True, cursor=b"any")
        yield first.SerializeToString()
        while number > self._feeds_ended:
            self._news.clear()
            while self._told[caller] < len(self._script):
                self._told[caller] += 1
                yield self._script[self._told[caller] - 1]
            try:
                async with asyncio.timeout(0.5):
                    await self._news.wait()
            except TimeoutError:
                yield mesh_pb2.WatchResponse(cursor=b"any").SerializeToString()
