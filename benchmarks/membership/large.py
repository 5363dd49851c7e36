"""Rows of a large topology: most of its nodes do not run, but all signatures are real."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from operator import truediv

import grpc
from aegis_certs import CertificateAuthority, TLSConfig
from aegis_discovery import Topology
from aegis_discovery.feed import HEARTBEAT, FeedWriter
from aegis_discovery.proto import mesh_pb2, mesh_pb2_grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from machine import speed
from population import Population, SignedNode
from process_group import Worker
from table import Measured, Row

FRAMING = 5 + 9 + 22 + 52
"""Bytes around one message: gRPC, HTTP/2, TLS 1.3 (header, tag, type), IPv4 and TCP with times."""

MIB = 1 << 20
JOINS = 3
"""Clients that join one after the other; their median counts."""

LOOKS = 20
"""Looks at how fast the machine is, before and after each join and while the records are made."""

SAMPLE = 2000
"""Records whose RSA verifications are measured alone."""

FEW = 500
"""Records that a client holds at the first measurement, so that fixed costs do not count."""


class Server(mesh_pb2_grpc.MeshServicer):
    """Serves the feed of a topology, as a node does, without watching any node."""

    def __init__(self) -> None:
        self.topology = Topology()
        self.largest = 0
        self._chains: dict[bytes, tuple[bytes, ...]] = {}

    def take(self, signed_nodes: Iterable[SignedNode]) -> None:
        """Adds nodes to the topology."""
        signed_nodes = list(signed_nodes)
        self._chains |= {one.record.signer: (one.certificate,) for one in signed_nodes}
        self.topology.merge_records([one.record for one in signed_nodes], version=1)

    def writer(self, request: mesh_pb2.WatchRequest) -> FeedWriter:
        """Makes the feed writer of one watcher."""
        return FeedWriter(self.topology, self._chains.get, watcher="client", request=request)

    async def Watch(  # noqa: N802 - the name in the protocol
        self, request: mesh_pb2.WatchRequest, context: object
    ) -> AsyncIterator[mesh_pb2.WatchResponse]:
        writer = self.writer(request)
        while True:
            for message in writer.messages():
                self.largest = max(self.largest, message.ByteSize())
                yield message
            await asyncio.sleep(HEARTBEAT)
            yield writer.heartbeat()

    @asynccontextmanager
    async def serving(self, tls: TLSConfig) -> AsyncIterator[str]:
        """Serves until the block ends; yields the seed peer."""
        server = grpc.aio.server()
        mesh_pb2_grpc.add_MeshServicer_to_server(self, server)
        credentials = grpc.ssl_server_credentials(
            [(tls.private_key, tls.certificate_chain)], tls.trust_bundle, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            yield f"{tls.node_id}@127.0.0.1:{port}"
        finally:
            await server.stop(0)


@asynccontextmanager
async def client(seed: str, tls: TLSConfig) -> AsyncIterator[Worker]:
    """Runs a client as a process, until the block ends."""
    pems = (tls.certificate_chain, tls.private_key, tls.trust_bundle)
    texts = dict(zip(("chain", "key", "bundle"), (pem.decode() for pem in pems), strict=True))
    worker = await Worker.start("client.py", {"id": tls.node_id, "seed": seed, **texts})
    try:
        yield worker
    finally:
        await worker.end()


def edge(nodes: int) -> Measured:
    """One node of many changes its record: the bytes on one edge of the mesh."""
    with tempfile.TemporaryDirectory() as directory:
        population = Population(CertificateAuthority.create(directory))
        signed_nodes = list(population.make(nodes))
    server = Server()
    server.take(signed_nodes)
    writer = server.writer(mesh_pb2.WatchRequest())
    whole = sum(message.ByteSize() for message in writer.messages())
    server.topology.merge_records([signed_nodes[0].changed()], version=2)
    sizes = [message.ByteSize() + FRAMING for message in writer.messages()]
    note = f"{len(sizes)} message, {FRAMING} bytes of it framing; the whole topology {whole:,}"
    return Measured((sum(sizes),), note)


async def join(nodes: int) -> Measured:
    """A client joins a large mesh: the CPU time of its whole process, and the largest message.

    It is compared with the CPU time of its RSA verifications alone, measured after each join: two
    for each record, the CA's signature on the certificate and the node's on the record.
    """
    with tempfile.TemporaryDirectory() as directory:
        ca = CertificateAuthority.create(directory)
        server = Server()
        signed_nodes = []
        for number, one in enumerate(Population(ca).make(nodes)):
            signed_nodes.append(one)
            if number % (nodes // LOOKS or 1) == 0:
                speed.look()
        server.take(signed_nodes)
        identity, caller = ca.issue_in_memory("server"), ca.issue_in_memory("client")
    verify_all = bare_verifications(ca.certificate, signed_nodes[:SAMPLE])
    used, bare, imported = [], [], []
    async with server.serving(identity) as seed:
        for _ in range(JOINS):
            speed.look(LOOKS)
            async with client(seed, caller) as worker:
                report = await worker.wait(lambda message: "joined" in message)
            if report["joined"] != nodes:
                raise RuntimeError(f"the client believes {report['joined']} of {nodes} records")
            used.append(report["cpu"])
            imported.append(report["imported"])
            began = time.process_time()
            verify_all()
            bare.append((time.process_time() - began) / len(signed_nodes[:SAMPLE]) * nodes)
            speed.look(LOOKS)
    middle = statistics.median
    note = (
        f"median of {JOINS}; {middle(imported):.2f} s of it imports; the RSA verifications alone "
        f"take {middle(bare):.2f} s: {middle(map(truediv, used, bare)):.2f} times as much in all"
    )
    return Measured((middle(used), server.largest / MIB), note)


def bare_verifications(
    ca: x509.Certificate, signed_nodes: Sequence[SignedNode]
) -> Callable[[], None]:
    """Makes a function that verifies what a record needs, with everything parsed before."""
    ca_key, scheme, sha256 = ca.public_key(), padding.PKCS1v15(), hashes.SHA256()
    assert isinstance(ca_key, rsa.RSAPublicKey)
    checks: list[tuple[rsa.RSAPublicKey, bytes, bytes]] = []
    for one in signed_nodes:
        leaf = x509.load_der_x509_certificate(one.certificate)
        key = leaf.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        checks.append((ca_key, leaf.signature, leaf.tbs_certificate_bytes))
        checks.append((key, one.record.signature, one.record.body))

    def verify_all() -> None:
        for key, signature, data in checks:
            key.verify(signature, data, scheme, sha256)

    return verify_all


async def memory(nodes: int) -> Measured:
    """A client receives thousands of nodes: the memory for each after the first few."""
    with tempfile.TemporaryDirectory() as directory:
        ca = CertificateAuthority.create(directory)
        # All of them first: making them takes so long that the client would change to another feed.
        signed_nodes = list(Population(ca).make(nodes))
        identity, caller = ca.issue_in_memory("server"), ca.issue_in_memory("client")
    server = Server()
    server.take(signed_nodes[:FEW])
    async with server.serving(identity) as seed, client(seed, caller) as worker:
        before = await worker.ask("resident", str(FEW))
        server.take(signed_nodes[FEW:])
        after = await worker.ask("resident", str(nodes))
    grown = (after["resident"] - before["resident"]) / (nodes - FEW)
    note = f"resident, from {FEW:,} to {nodes:,} records; all are RSA-2048"
    return Measured((grown / 1000,), note)


ROWS = (
    Row(
        *("edge", "bytes on the wire for one change, per edge (certificate by reference)"),
        *((1000,), "B", 10_000, edge),
    ),
    Row(
        *("join", "full join of one client, all signatures verified: CPU / largest message"),
        *((3, 1), "s / MiB", 10_000, lambda nodes: asyncio.run(join(nodes))),
        cpu_values=1,
    ),
    Row(
        *("memory", "memory per record held, certificate included"),
        *((3,), "kB", 10_000, lambda nodes: asyncio.run(memory(nodes))),
    ),
)
