"""The processes of the comparisons: servers of four kinds with the same handlers, and a caller.

A server is a node or plain gRPC, blocking or async. The plain ones are what a service would be
without the mesh: the same mutual TLS, the same channel arguments and as many threads, and no
registered methods (they would make an async server slower). A node also has a policy.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import grpc.aio
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from frames import Connection, UnaryCalls, client_context

SERVER, CALLER = "server", "caller"
NAME = "bench.Work"
THREADS = 32
SMALL, CHUNK, LARGE = b"x" * 64, b"x" * 65_536, b"x" * (3 * 1024 * 1024)
MAX_MESSAGE = 4 * 1024 * 1024


def path(method: str) -> str:
    return f"/{NAME}/{method}"


def identities(*names: str) -> list[TLSConfig]:
    """Issues certificates of one CA."""
    with tempfile.TemporaryDirectory() as directory:
        ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
        return [ca.issue_in_memory(name) for name in names]


class Child:
    """A process of one of the benchmarks' modules, which gets its settings on standard input."""

    def __init__(self, role: str, settings: object, tls: TLSConfig, module: str = __file__) -> None:
        self._process = subprocess.Popen(
            [sys.executable, module, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started: Any = self.ask([to_text(tls), settings])

    def ask(self, what: object) -> Any:
        """Sends one line and returns the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu(self) -> float:
        """Returns the CPU seconds of all its threads, to the nanosecond."""
        return time.clock_gettime((~self.pid) << 3 | 2)  # Linux: the clock of another process

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """Ends it. Its input must be open until here."""
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def told() -> tuple[TLSConfig, Any]:
    """Reads what the parent process sends first: an identity and settings."""
    identity, settings = json.loads(sys.stdin.readline())
    return from_text(identity), settings


def to_text(tls: TLSConfig) -> list[str]:
    pems = (tls.certificate_chain, tls.private_key, tls.trust_bundle)
    return [tls.node_id, *(pem.decode() for pem in pems)]


def from_text(identity: Sequence[str]) -> TLSConfig:
    node_id, *pems = identity
    return TLSConfig(node_id, *(pem.encode() for pem in pems))


def answer(what: object) -> None:
    print(json.dumps(what), flush=True)


@contextmanager
def children(*started: Callable[[], Child]) -> Iterator[list[Child]]:
    """Starts processes, and stops them at the end."""
    with ExitStack() as stack:
        running = []
        for start in started:
            running.append(start())
            stack.callback(running[-1].stop)
        yield running


# Blocking handlers.
def echo(request: bytes, context: Any) -> bytes:
    return request


def download(request: bytes, context: Any) -> Iterator[bytes]:
    for _ in range(int(request)):
        yield SMALL


def upload(requests: Iterator[bytes], context: Any) -> bytes:
    return b"%d" % sum(map(len, requests))


def sleep(request: bytes, context: Any) -> bytes:
    time.sleep(float(request))
    return b""


# The same for async servers.
async def echo_async(request: bytes, context: Any) -> bytes:
    return request


async def download_async(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(int(request)):
        yield SMALL


async def upload_async(requests: AsyncIterator[bytes], context: Any) -> bytes:
    taken = 0
    async for request in requests:
        taken += len(request)
    return b"%d" % taken


async def sleep_async(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(float(request))
    return b""


def register(server: Any, is_aio: bool) -> None:
    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo_async if is_aio else echo),
        "Download": grpc.unary_stream_rpc_method_handler(download_async if is_aio else download),
        "Upload": grpc.stream_unary_rpc_method_handler(upload_async if is_aio else upload),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep_async if is_aio else sleep),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


def node_options(tls: TLSConfig, is_aio: bool) -> dict[str, Any]:
    from aegis_core import CallRule, Policy
    from aegis_discovery import ServiceInfo

    rules = [
        CallRule(ids=["billing-*"], services=["shop.*"]),
        CallRule(ids=[f"{CALLER}*"], services=[NAME]),
    ]
    return {
        "address": "127.0.0.1:0",
        "tls": tls,
        "services": [ServiceInfo(NAME, "v1")],
        "registrars": [lambda server: register(server, is_aio)],
        "policy": Policy(call=rules),
        "max_workers": THREADS,
        "max_receive_message_length": MAX_MESSAGE,
        "grace": 0,
    }


def plain_options() -> Sequence[tuple[str, Any]]:
    """Returns the channel arguments that a node gives to its server."""
    from aegis_core._node.options import NodeOptions  # so that both have the same ones

    options = NodeOptions(SERVER, address="127.0.0.1:0", max_receive_message_length=MAX_MESSAGE)
    return (*options.server_options, ("grpc.so_reuseport", 0), ("grpc.http2.bdp_probe", 0))


def plain_credentials(tls: TLSConfig) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate_chain)], tls.trust_bundle, require_client_auth=True
    )


def serve_blocking(tls: TLSConfig, is_node: bool) -> None:
    if is_node:
        from aegis_core import Node

        with Node(tls.node_id, **node_options(tls, is_aio=False)) as node:
            answer(node.address)
            sys.stdin.read()
        return
    server = grpc.server(ThreadPoolExecutor(THREADS), options=plain_options())
    register(server, is_aio=False)
    port = server.add_secure_port("127.0.0.1:0", plain_credentials(tls))
    server.start()
    answer(f"127.0.0.1:{port}")
    sys.stdin.read()
    server.stop(0).wait()


async def serve_async(tls: TLSConfig, is_node: bool) -> None:
    if is_node:
        from aegis_core.aio import Node

        async with Node(tls.node_id, **node_options(tls, is_aio=True)) as node:
            answer(node.address)
            await asyncio.to_thread(sys.stdin.read)
        return
    server = grpc.aio.server(options=plain_options())
    register(server, is_aio=True)
    port = server.add_secure_port("127.0.0.1:0", plain_credentials(tls))
    await server.start()
    answer(f"127.0.0.1:{port}")
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


class Caller:
    """Makes the calls of the caller's process, at each of the servers."""

    def __init__(self, tls: TLSConfig, targets: dict[str, str]) -> None:
        context = client_context(tls)
        credentials = grpc.ssl_channel_credentials(
            tls.trust_bundle, tls.private_key, tls.certificate_chain
        )
        options = [
            ("grpc.ssl_target_name_override", SERVER),
            ("grpc.max_receive_message_length", MAX_MESSAGE),
        ]
        self._unary, self._channels = {}, {}
        for name, address in targets.items():
            connection = Connection(address, SERVER, context)
            self._unary[name] = UnaryCalls(connection, path("Echo"), SMALL)
            channel = grpc.secure_channel(address, credentials, options=options)
            self._channels[name] = channel

    def calls(self, target: str, count: int, at_once: int) -> None:
        self._unary[target](count, at_once)

    def download(self, target: str, count: int) -> None:
        stream = self._channels[target].unary_stream(path("Download"))
        got = sum(1 for _ in stream(b"%d" % count, timeout=60))
        assert got == count, got

    def upload(self, target: str, count: int) -> None:
        call = self._channels[target].stream_unary(path("Upload"))
        assert call((CHUNK for _ in range(count)), timeout=60) == b"%d" % (count * len(CHUNK))

    def large(self, target: str, count: int) -> None:
        call = self._channels[target].unary_unary(path("Echo"))
        for _ in range(count):
            assert len(call(LARGE, timeout=60)) == len(LARGE)


def call_on_request(tls: TLSConfig, targets: dict[str, str]) -> None:
    """Makes the calls that standard input requests, until it ends."""
    calls = Caller(tls, targets)
    answer("ready")
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        began = time.perf_counter()
        getattr(calls, what)(*arguments)
        answer(time.perf_counter() - began)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark itself ends its processes
    role = sys.argv[1]
    tls, settings = told()
    if role == "call":
        call_on_request(tls, settings)
    elif role == "serve":
        is_node, is_aio = settings
        if is_aio:
            asyncio.run(serve_async(tls, is_node))
        else:
            serve_blocking(tls, is_node)


if __name__ == "__main__":
    main()
