"""The effect on callers of a rolling restart, and of the renewal of all certificates.

    uv run python benchmarks/restarts.py

Each provider is a node in its own process. The callers are threads of one client of their mesh, and
some of them read streams. SIGTERM stops each provider, which is started again: at its old port in
the first round, and at a new one in the second. Then each certificate is renewed in the directory
three times, as `aegis-certs renew` does. A row passes if no call failed and every step was
observed: each new process answers calls; each node presents its new certificate in a TLS handshake
and has a record signed with it; and each node sees the client's new certificate.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from aegis_certs import CertificateAuthority, KeyType
from aegis_discovery import Mesh, connect
from cryptography import x509
from failures import CALLERS, Call, callers
from harness import METHOD, SERVICE, Row, parser_of, print_rows

STREAM = METHOD.replace("Echo/Echo", "Echo/Stream")
STREAMING = CALLERS // 4
"""Callers that read streams."""

NODES = ("one", "two", "three")
CALLER = "caller"
TIMEOUT = 10.0
"""Seconds that a call may take."""

PATIENCE = 30.0
"""Seconds after which an expected step counts as missing."""


class NodeProcess:
    """A node that provides the service, in its own process."""

    def __init__(self, node_id: str, cert_dir: str, address: str, seeds: list[str]) -> None:
        options = {"id": node_id, "cert_dir": cert_dir, "address": address, "seed_peers": seeds}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--node", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError(f"{node_id} did not start")
        self.id = node_id
        self._cert_dir = cert_dir
        self.name = f"{node_id}@{self._process.pid}"

    def shown_serial(self) -> int:
        """Does a TLS handshake as the client; returns the serial of the node's certificate."""
        directory = Path(self._cert_dir)
        context = ssl.create_default_context(cafile=directory / "ca-cert.pem")
        context.load_cert_chain(directory / f"{CALLER}-cert.pem", directory / f"{CALLER}-key.pem")
        context.set_alpn_protocols(["h2"])
        host, port = self.address.split(":")
        with (
            socket.create_connection((host, int(port)), TIMEOUT) as raw,
            context.wrap_socket(raw, server_hostname=self.id) as connection,
        ):
            der = connection.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit status."""
        self._process.terminate()
        self._process.communicate()
        return self._process.returncode


def stop_with_input(stopping: threading.Event) -> None:
    """Stops this process when the benchmark ends."""
    sys.stdin.read()
    stopping.set()


def serve(options: dict[str, Any]) -> None:
    """Runs the node. Its answers name the process and the caller's certificate that it saw."""
    from aegis_core import Node, caller_from_context  # the callers' process does not need it

    name = f"{options['id']}@{os.getpid()}"

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        return f"{name} {caller_from_context(context).certificate.serial_number}".encode()

    def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in range(20):
            time.sleep(0.01)
            yield answer(request, context)

    def register(server: grpc.Server) -> None:
        handlers: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(answer),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
        }
        service = METHOD.split("/")[1]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with Node(**options, services=[SERVICE], registrars=[register]) as node:
        print(node.address, flush=True)
        threading.Thread(target=stop_with_input, args=[stopping], daemon=True).start()
        stopping.wait()


class Providers:
    """The nodes, and the directory of the certificates of the nodes and the client."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
        for node_id in (*NODES, CALLER):
            self._ca.issue(node_id, key_type=KeyType.P256)
        self.nodes: dict[str, NodeProcess] = {}

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes.values()]

    @property
    def names(self) -> set[str]:
        return {node.name for node in self.nodes.values()}

    def connect(self) -> Mesh:
        return connect(*self.addresses, node_id=CALLER, cert_dir=self._directory)

    def start(self, node_id: str, address: str = "127.0.0.1:0") -> None:
        seeds = [node.address for other, node in self.nodes.items() if other != node_id]
        self.nodes[node_id] = NodeProcess(node_id, self._directory, address, seeds)

    def renew(self, node_id: str) -> int:
        """Renews a certificate; returns the new serial number."""
        return self._ca.renew(node_id).certificate.serial_number

    def stop(self) -> None:
        for node in self.nodes.values():
            node.stop()


@contextmanager
def providers() -> Iterator[Providers]:
    with tempfile.TemporaryDirectory() as directory:
        started = Providers(directory)
        try:
            for node_id in NODES:
                started.start(node_id)
            yield started
        finally:
            started.stop()


@contextmanager
def load(mesh: Mesh) -> Iterator[tuple[list[Call], set[str]]]:
    """Runs the callers; yields their calls and the answers."""
    channel: Any = mesh.pool.channel(SERVICE.name, SERVICE.version)
    unary, stream = channel.unary_unary(METHOD), channel.unary_stream(STREAM)
    answers: set[str] = set()

    def call() -> None:
        answers.add(unary(b"x", timeout=TIMEOUT).decode())

    def read() -> None:
        for answer in stream(b"x", timeout=TIMEOUT):
            answers.add(answer.decode())

    with callers([call] * (CALLERS - STREAMING) + [read] * STREAMING, 0.02) as calls:
        yield calls, answers


def happens(what: Callable[..., bool], *arguments: object) -> bool:
    """Waits for a condition; returns whether it became true."""
    deadline = time.monotonic() + PATIENCE
    while not what(*arguments):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def answers_came(by: set[str], answers: set[str]) -> bool:
    return by <= {answer.split()[0] for answer in answers.copy()}


def certificate_is_used(node: NodeProcess, serial: int, mesh: Mesh) -> bool:
    of_record = mesh.get_certificate(node.id)
    return (
        node.shown_serial() == serial
        and of_record is not None
        and of_record.serial_number == serial
    )


def restart_all(running: Providers, answers: set[str], rounds: int) -> int:
    """Restarts the providers one by one; returns how many exited with 0 and then answered calls."""
    seen = 0
    for number in range(rounds):
        for node_id in NODES:
            old = running.nodes[node_id]
            status = old.stop()
            running.start(node_id, "127.0.0.1:0" if number % 2 else old.address)
            new = {running.nodes[node_id].name}
            seen += status == 0 and happens(answers_came, new, answers)
            time.sleep(1)
    return seen


def renew_all(running: Providers, answers: set[str], mesh: Mesh, rounds: int) -> int:
    """Renews all certificates; returns how many of the new ones came into use."""
    seen = 0
    for _ in range(rounds):
        serials = {node_id: running.renew(node_id) for node_id in (*NODES, CALLER)}
        for node_id in NODES:
            node, serial = running.nodes[node_id], serials[node_id]
            seen += happens(certificate_is_used, node, serial, mesh)
        wanted = {f"{name} {serials[CALLER]}" for name in running.names}
        seen += happens(wanted.issubset, answers)
        time.sleep(1)
    return seen


def under_load(
    what: str, happened: str, expected: int, act: Callable[[Providers, set[str], Mesh], int]
) -> Row:
    """Runs an action on the providers under load; counts the calls that failed."""
    with providers() as running, running.connect() as mesh, load(mesh) as (calls, answers):
        if not happens(answers_came, running.names, answers):
            raise RuntimeError("not all providers are called")
        time.sleep(1)
        seen = act(running, answers, mesh)
        time.sleep(1)
    failed = [call for call in calls if call.failed]
    slowest = max(call.took for call in calls)
    print(f"{what:35} {len(calls):6}   {len(failed):6}   {slowest:10.2f}   {seen:2} of {expected}")
    for (code, details), count in Counter((call.code, call.details) for call in failed).items():
        print(f"  {count} failed with {code.name}: {details}")
    figure = f"{len(failed)} of {len(calls):,}, {seen} of {expected} {happened}"
    return Row(f"failed calls, {what}", figure, "0", not failed and seen == expected)


def report(rounds: int = 2) -> list[Row]:
    restarts, renewals = rounds, rounds + 1
    print(f"{CALLERS} callers, {STREAMING} of them with streams")
    print("                                     calls   failed   slowest, s   seen to happen")
    return [
        under_load(
            "rolling restart of three providers",
            "restarts seen",
            restarts * len(NODES),
            lambda running, answers, _: restart_all(running, answers, restarts),
        ),
        under_load(
            "rotation of every certificate",
            "new ones seen",
            renewals * (len(NODES) + 1),
            lambda running, answers, mesh: renew_all(running, answers, mesh, renewals),
        ),
    ]


def main() -> None:
    parser = parser_of(__doc__, rounds=2, quick=1)  # of restarts and of renewals
    parser.add_argument("--node", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.node:
        serve(json.loads(arguments.node))
    else:
        sys.exit(print_rows(report(arguments.rounds)))


if __name__ == "__main__":
    main()
