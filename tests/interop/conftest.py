"""A test double of a node in another language, such as Go, that speaks the unsigned protocol.

It is written only from the table of that protocol. It has no records and no feeds. It answers a
sync with its whole topology, and replaces that with any topology of a higher version.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MESSAGES = {
    "PingRequest": "1 sender_id string · 2 timestamp int64",
    "PingResponse": "1 receiver_id string · 2 timestamp int64 · 3 success bool",
    "HealthRequest": "1 sender_id string",
    "NodeInfoRequest": "1 sender_id string",
    "GetTopologyRequest": "1 sender_id string",
    "HealthResponse": "1 node_id string · 2 status string · 3 last_checked int64"
    " · 4 message string · 5 error string",
    "NodeInfoResponse": "1 id string · 2 name string · 3 type string · 4 address string"
    " · 5 health HealthResponse",
    "TopologySyncRequest": "1 sender_id string · 2 version int64",
    "TopologySyncResponse": "1 version int64 · 2 nodes *TopologyNode · 3 updated_at int64",
    "GetTopologyResponse": "1 version int64 · 2 nodes *TopologyNode",
    "TopologyNode": "1 id string · 2 name string · 3 type string · 4 address string"
    " · 5 joined_at int64 · 6 updated_at int64 · 7 services *Service",
    "Service": "1 name string · 2 version string",
}
METHODS = {
    "Ping": ("PingRequest", "PingResponse"),
    "GetHealth": ("HealthRequest", "HealthResponse"),
    "GetNodeInfo": ("NodeInfoRequest", "NodeInfoResponse"),
    "SyncTopology": ("TopologySyncRequest", "TopologySyncResponse"),
    "GetTopology": ("GetTopologyRequest", "GetTopologyResponse"),
}


def _message_classes() -> dict[str, Any]:
    """Builds the messages in a separate pool, since the real ones have the same names."""
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {"string": field.TYPE_STRING, "int64": field.TYPE_INT64, "bool": field.TYPE_BOOL}
    file = descriptor_pb2.FileDescriptorProto(name="seed.proto", package="aegis", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field_name, kind in (entry.split() for entry in fields.split(" · ")):
            many = kind.startswith("*")
            message.field.add(
                name=field_name,
                number=int(number),
                label=field.LABEL_REPEATED if many else field.LABEL_OPTIONAL,
                type=kinds.get(kind, field.TYPE_MESSAGE),
                type_name=None if kind in kinds else f".aegis.{kind.lstrip('*')}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"aegis.{name}"))
        for name in MESSAGES
    }


MESSAGE = _message_classes()


class GoCredentials:
    """The key and certificate that such a node makes from the CA in its directory."""

    def __init__(self, node_id: str, directory: Path) -> None:
        ca = x509.load_pem_x509_certificate((directory / "ca-cert.pem").read_bytes())
        ca_key = load_pem_private_key((directory / "ca-key.pem").read_bytes(), None)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        now = datetime.now(UTC).replace(microsecond=0)
        names: list[x509.GeneralName] = [x509.DNSName(node_id), x509.DNSName("localhost")]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ("127.0.0.1", "::1")]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=90))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), critical=False
            )
            .sign(ca_key, hashes.SHA256())
        )
        self.certificate = certificate.public_bytes(Encoding.PEM)
        self.key = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        self.ca = ca.public_bytes(Encoding.PEM)


class GoNode:
    """The test double: it serves the five calls of the protocol and can make them."""

    def __init__(self, node_id: str, credentials: GoCredentials, services: tuple[str, ...]) -> None:
        self.id = node_id
        self.credentials = credentials
        self.services = services
        self.version = 0
        self.nodes: dict[str, Any] = {}
        self.sync_senders: list[str] = []
        self.refusing: set[str] = set()
        self.address = ""
        self.health = "healthy"
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0", *registrars: Any) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(self, name), MESSAGE[asked].FromString, _serialize
            )
            for name, (asked, _) in METHODS.items()
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("aegis.MeshService", handlers),)
        )
        for register in registrars:
            register(server)
        own = self.credentials
        port = server.add_secure_port(
            address,
            grpc.ssl_server_credentials([(own.key, own.certificate)], own.ca, True),
        )
        await server.start()
        self._server = server
        self.address = f"127.0.0.1:{port}"
        self.put(self.id, self.address, *self.services)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def put(self, node_id: str, address: str, *services: str, **fields: int) -> None:
        """Adds a node to its own topology, or replaces it, and raises the version."""
        now = int(time.time())
        self.nodes[node_id] = MESSAGE["TopologyNode"](
            **{"joined_at": now, "updated_at": now, **fields},
            id=node_id,
            name=node_id,
            type="generic",
            address=address,
            services=[MESSAGE["Service"](name=name, version="v1") for name in services],
        )
        self.version += 1

    def drop(self, node_id: str) -> None:
        del self.nodes[node_id]
        self.version += 1

    def providers(self, name: str) -> list[str]:
        return sorted(
            node.id
            for node in self.nodes.values()
            if any(service.name == name for service in node.services)
        )

    async def call(self, name: str, peer_id: str, address: str, **fields: Any) -> Any:
        """Calls a peer, with its id as the TLS server name."""
        asked, answered = METHODS[name]
        async with self.channel(address, peer_id) as channel:
            method = channel.unary_unary(
                f"/aegis.MeshService/{name}", _serialize, MESSAGE[answered].FromString
            )
            request = MESSAGE[asked](**{"sender_id": self.id, **fields})
            return await method(request, timeout=10)

    async def sync(self, peer: Any) -> bool:
        """Syncs from a peer; a higher version replaces the whole topology."""
        answer = await self.call("SyncTopology", peer.id, peer.address, version=self.version)
        if answer.version <= self.version:
            return False
        self.version = answer.version
        self.nodes = {node.id: node for node in answer.nodes}
        return True

    def channel(self, address: str, server_name: str) -> grpc.aio.Channel:
        own = self.credentials
        return grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(own.ca, own.key, own.certificate),
            options=[("grpc.ssl_target_name_override", server_name)],
        )

    # The calls that it serves

    async def Ping(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        return MESSAGE["PingResponse"](
            receiver_id=self.id, timestamp=int(time.time()), success=True
        )

    async def GetHealth(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        return self._health()

    async def GetNodeInfo(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        return MESSAGE["NodeInfoResponse"](
            id=self.id, name=self.id, type="generic", address=self.address, health=self._health()
        )

    async def SyncTopology(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        self.sync_senders.append(request.sender_id)
        return MESSAGE["TopologySyncResponse"](
            version=self.version, nodes=self.nodes.values(), updated_at=int(time.time())
        )

    async def GetTopology(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        return MESSAGE["GetTopologyResponse"](version=self.version, nodes=self.nodes.values())

    def _health(self) -> Any:
        return MESSAGE["HealthResponse"](
            node_id=self.id, status=self.health, last_checked=int(time.time())
        )


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


StartGo = Callable[..., Awaitable[GoNode]]


@pytest.fixture(scope="session")
def go_credentials(cert_dir: Path) -> Callable[[str], GoCredentials]:
    """Makes the credentials of such a node, once for each id in a test run."""
    made: dict[str, GoCredentials] = {}

    def make(node_id: str) -> GoCredentials:
        if node_id not in made:
            made[node_id] = GoCredentials(node_id, cert_dir)
        return made[node_id]

    return make


@pytest.fixture
async def start_go(go_credentials: Callable[[str], GoCredentials]) -> AsyncIterator[StartGo]:
    """Starts test doubles and stops them at the end."""
    started: list[GoNode] = []

    async def start(
        node_id: str = "go-1", *services: str, address: str = "127.0.0.1:0", registrars: Any = ()
    ) -> GoNode:
        node = GoNode(node_id, go_credentials(node_id), services)
        await node.start(address, *registrars)
        started.append(node)
        return node

    yield start
    await asyncio.gather(*(node.stop() for node in started))


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls peers without a feed every 50 ms instead of every two seconds."""
    monkeypatch.setattr("aegis_core._peers.session.POLL_INTERVAL", 0.05)
