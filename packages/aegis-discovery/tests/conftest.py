"""Real providers on loopback: gRPC servers with mutual TLS and handlers for tests."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_discovery._model import NodeInfo, ServiceInfo
from aegis_discovery._topology.topology import Topology
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

SERVICE = ServiceInfo("echo", "v1")
WAIT = 10.0
"""Seconds that a test waits for a condition."""


class ManualClock:
    """A clock that moves only when a test sets `now`."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Provider:
    """A gRPC server with the certificate of a node.

    Its methods, all under `/t/`:
        Echo: Answers the request. Who: Answers the node id.
        Meta: Sends initial and trailing metadata.
        Fail: Fails with the status that the request names; `+` after it sends metadata first.
        Late: Appends the remaining time to `time_left`, uses 0.3 s of it, fails with UNAVAILABLE.
        Load: Answers the node id; while `sheds` is set, fails like an overloaded server.
        Hang: Waits until the call or the provider ends, or `go_on` is set; answers the request.
        Count: Streams `n` messages; then fails on `!`, hangs on `?`; `meta` first sends metadata.
        Join: Joins a stream of requests into one response. Chat: Answers each of a stream.
    """

    def __init__(self, tls: TLSConfig, port: int = 0) -> None:
        self.node_id = tls.node_id
        self.tls = tls
        self.calls: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.time_left: list[float] = []
        self.hanging = threading.Semaphore(0)
        self.ended_hanging = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.sheds = False
        self._server = grpc.server(
            ThreadPoolExecutor(32),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 32 << 20),
                ("grpc.max_send_message_length", 32 << 20),
            ],
        )
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        credentials = grpc.ssl_server_credentials(
            [(tls.private_key, tls.certificate_chain)], tls.trust_bundle, True
        )
        self.port = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def info(self) -> NodeInfo:
        return NodeInfo(self.node_id, address=self.address, services=(SERVICE,))

    def stop(self, grace: float | None = None) -> None:
        stopped = self._server.stop(grace)
        self.go_on.set()
        assert stopped.wait(WAIT)

    def hang(self, context: grpc.ServicerContext) -> None:
        """Waits until the call ends or `go_on` is set."""
        over = threading.Event()
        if not context.add_callback(over.set):
            over.set()
        self.hanging.release()
        while not over.wait(0.01) and not self.go_on.is_set():
            pass

    def fail(self, status: str, context: grpc.ServicerContext) -> None:
        name, plus, _ = status.partition("+")
        if plus:
            context.send_initial_metadata((("seen", "yes"),))
        rich = ("grpc-status-details-bin", b"\x08\x05")
        context.set_trailing_metadata((("why", "asked"), ("raw-bin", b"\x00\xff"), rich))
        context.abort(grpc.StatusCode[name], "as you wish")


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        provider = self._provider
        name = details.method.removeprefix("/t/")
        provider.calls.append(name)
        provider.metadata.append(dict(details.invocation_metadata))

        def meta(_: bytes, context: Any) -> bytes:
            context.send_initial_metadata((("first", "1"), ("first-bin", b"\x01")))
            context.set_trailing_metadata((("last", "2"),))
            return b"meta"

        def hang(request: bytes, context: Any) -> bytes:
            context.add_callback(provider.ended_hanging.release)
            provider.hang(context)
            return request

        def load(_: bytes, context: Any) -> bytes:
            if provider.sheds:
                context.set_trailing_metadata((("aegis-shed", "1"),))
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")
            return provider.node_id.encode()

        def late(_: bytes, context: Any) -> bytes:
            left = context.time_remaining()
            provider.time_left.append(left)
            ended = threading.Event()
            context.add_callback(ended.set)
            while context.time_remaining() > left - 0.3 and not ended.wait(0.01):
                pass
            context.abort(grpc.StatusCode.UNAVAILABLE, "not available")
            return b""

        def fail(request: bytes, context: Any) -> bytes:
            provider.fail(request.decode(), context)
            return b""

        def count(request: bytes, context: Any) -> Iterator[bytes]:
            text = request.decode()
            if text.endswith("?"):
                context.add_callback(provider.ended_hanging.release)
            if text.startswith("meta"):
                context.send_initial_metadata((("first", "1"),))
                context.set_trailing_metadata((("last", "2"),))
                text = text.removeprefix("meta")
            for number in range(int(text.rstrip("!?"))):
                yield f"{number}".encode()
            if text.endswith("!"):
                provider.fail("UNAVAILABLE", context)
            if text.endswith("?"):
                provider.hang(context)

        def join(requests: Any, _: Any) -> bytes:
            return b"+".join(requests)

        def chat(requests: Any, context: Any) -> Iterator[bytes]:
            for request in requests:
                if request == b"fail":
                    provider.fail("UNAVAILABLE", context)
                yield b"re: " + request

        unary = grpc.unary_unary_rpc_method_handler
        handlers = {
            "Echo": unary(lambda request, _: request),
            "Who": unary(lambda _, __: provider.node_id.encode()),
            "Meta": unary(meta),
            "Fail": unary(fail),
            "Late": unary(late),
            "Load": unary(load),
            "Hang": unary(hang),
            "Count": grpc.unary_stream_rpc_method_handler(count),
            "Join": grpc.stream_unary_rpc_method_handler(join),
            "Chat": grpc.stream_stream_rpc_method_handler(chat),
        }
        return handlers.get(name)


@pytest.fixture(scope="session")
def tls(ca: CertificateAuthority) -> TLSConfig:
    """The identity of the caller."""
    return ca.issue_in_memory("caller")


@pytest.fixture(scope="session")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    path: Path = tmp_path_factory.mktemp("other-ca")
    return CertificateAuthority.create(path, key_type=KeyType.P256)


@pytest.fixture(scope="session")
def odd_certificate() -> bytes:
    """A certificate (DER) with a kind of name (x400Address) that the parser does not know."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "odd")])
    start = dt.datetime.now(dt.UTC)
    odd = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x02\xa3\x00")
    return (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(1))
        .add_extension(odd, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


StartProvider = Callable[..., Provider]


@pytest.fixture
def make_provider() -> Iterator[StartProvider]:
    """Starts providers with any identity, and stops them afterwards."""
    started: list[Provider] = []

    def make(tls: TLSConfig, port: int = 0) -> Provider:
        provider = Provider(tls, port)
        started.append(provider)
        return provider

    yield make
    for provider in started:
        provider.stop()


@cache
def issued(ca: CertificateAuthority, node_id: str) -> TLSConfig:
    """Issues an identity, once for each CA and node id: an inventory that grows takes time."""
    return ca.issue_in_memory(node_id)


@pytest.fixture
def start_provider(ca: CertificateAuthority, make_provider: StartProvider) -> StartProvider:
    """Starts providers by node id, on a free port or on the given one."""

    def start(node_id: str, port: int = 0) -> Provider:
        return make_provider(issued(ca, node_id), port)

    return start


class ProviderProcess:
    """A provider in another process, which a test can kill."""

    def __init__(self, tls: TLSConfig) -> None:
        self.node_id = tls.node_id
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        identity = (tls.certificate_chain, tls.private_key, tls.trust_bundle)
        texts = [tls.node_id, *(pem.decode() for pem in identity)]
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        self.info = NodeInfo(
            self.node_id,
            address=f"127.0.0.1:{int(self._process.stdout.readline())}",
            services=(SERVICE,),
        )

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(WAIT)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def killable_provider(ca: CertificateAuthority) -> Iterator[ProviderProcess]:
    process = ProviderProcess(issued(ca, "mortal"))
    yield process
    process.kill()


@pytest.fixture
def topology() -> Topology:
    return Topology()


def _serve() -> None:
    """Runs in the child process, until its parent exits or kills it."""
    node_id, *pems = json.loads(sys.stdin.readline())
    provider = Provider(TLSConfig(node_id, *(pem.encode() for pem in pems)))
    print(provider.port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
