"""Shared by the benchmarks: paired rounds, confidence intervals, judged rows, echo servers.

Variants of the same work are compared in one run: every round runs each once, in random order, so
that other load on the machine affects all of them. The measure is the CPU time of this process
(`time.process_time`: user and system, all threads); the servers are other processes.
"""

from __future__ import annotations

import gc
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_discovery import NodeInfo, ServiceInfo

SERVICE = ServiceInfo("echo", "v1")
METHOD = "/bench.Echo/Echo"
GATE = 1.10
"""The largest allowed ratio to raw gRPC; a larger one cannot be noise."""


@dataclass(frozen=True)
class Estimate:
    """A median and its 95 % confidence interval."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def estimate(samples: Sequence[float], resamples: int = 2000) -> Estimate:
    """Returns the median with a bootstrap interval (Efron, 1979: the percentile method)."""
    chosen = random.Random(1)
    medians = sorted(
        statistics.median(chosen.choices(samples, k=len(samples))) for _ in range(resamples)
    )
    edge = int(resamples * 0.025)
    return Estimate(statistics.median(samples), medians[edge], medians[-edge - 1])


@dataclass(frozen=True)
class Row:
    """A measured figure, its limit, and whether it is within the limit."""

    what: str
    figure: str
    at_most: str
    ok: bool


def judge(what: str, measured: Estimate, at_most: float, spec: str, unit: str = "") -> Row:
    """Makes the row of an estimate; missed if the lower end of its interval is above the limit."""
    figure, target = f"{measured:{spec}} {unit}".rstrip(), f"{at_most:{spec}} {unit}".rstrip()
    return Row(what, figure, target, measured.low <= at_most)


def print_rows(rows: Sequence[Row]) -> int:
    """Prints one line for each row; returns the exit status, 1 if a limit was missed."""
    print("\nA figure with an interval is missed if the whole interval is above the target.")
    lines = [("", "measured", "at most", "")]
    lines += [(row.what, row.figure, row.at_most, "ok" if row.ok else "MISSED") for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip(), flush=True)
    return 0 if all(row.ok for row in rows) else 1


def paired_rounds(
    variants: Mapping[str, Callable[[int], object]], *, rounds: int, calls: int
) -> dict[str, list[float]]:
    """Runs all variants once a round; returns their CPU microseconds per call, by round.

    Args:
        variants: By name, the function that makes the given number of calls.
        rounds: Rounds that count, after two rounds of warm-up.
        calls: Calls per variant and round.
    """
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(-2, rounds):
        order = list(variants)
        random.shuffle(order)
        for name in order:
            gc.collect()
            began = time.process_time()
            variants[name](calls)
            spent = (time.process_time() - began) / calls * 1e6
            if number >= 0:
                taken[name].append(spent)
    return taken


class EchoProcess:
    """Echo servers with mutual TLS in one separate process.

    Args:
        identities: One per server.
        delay: Seconds that each call takes.
        workers: Concurrent calls of each server.
    """

    def __init__(
        self, identities: Sequence[TLSConfig], delay: float = 0.0, workers: int = 4
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        settings = {
            "identities": [_to_text(tls) for tls in identities],
            "delay": delay,
            "workers": workers,
        }
        print(json.dumps(settings), file=self._process.stdin, flush=True)
        ports = json.loads(self._process.stdout.readline())
        self.nodes = [
            NodeInfo(tls.node_id, address=f"127.0.0.1:{port}", services=(SERVICE,))
            for tls, port in zip(identities, ports, strict=True)
        ]

    @property
    def info(self) -> NodeInfo:
        """The node info of the first server."""
        return self.nodes[0]

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """Sends SIGTERM; calls under way may end."""
        self._process.terminate()
        self._process.communicate()


@contextmanager
def echo_processes(
    count: int, delays: Sequence[float] = (), workers: int = 32
) -> Iterator[tuple[list[EchoProcess], TLSConfig]]:
    """Runs echo servers in one process each; yields them and an identity to call them with."""
    with _identities(count) as (identities, caller), ExitStack() as stack:
        processes = []
        for tls, delay in zip(identities, delays or [0.001] * count, strict=True):
            processes.append(EchoProcess([tls], delay, workers))
            stack.callback(processes[-1].stop)
        yield processes, caller


@contextmanager
def echo_servers(count: int) -> Iterator[tuple[list[NodeInfo], TLSConfig]]:
    """Runs echo servers in one other process; yields their node infos and a caller's identity."""
    with _identities(count) as (identities, caller):
        process = EchoProcess(identities)
        try:
            yield process.nodes, caller
        finally:
            process.stop()


@contextmanager
def _identities(count: int) -> Iterator[tuple[list[TLSConfig], TLSConfig]]:
    with tempfile.TemporaryDirectory() as directory:
        ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
        yield (
            [ca.issue_in_memory(f"echo-{number}") for number in range(count)],
            ca.issue_in_memory("caller"),
        )


def _to_text(tls: TLSConfig) -> list[str]:
    pems = (tls.certificate_chain, tls.private_key, tls.trust_bundle)
    return [tls.node_id, *(pem.decode() for pem in pems)]


class _Echo(grpc.GenericRpcHandler):
    def __init__(self, delay: float) -> None:
        self._delay = delay

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if details.method != METHOD:
            return None
        if not self._delay:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        return grpc.unary_unary_rpc_method_handler(self._slowly)

    def _slowly(self, request: bytes, _: grpc.ServicerContext) -> bytes:
        time.sleep(self._delay)
        return request


def _serve() -> None:
    """Serves until SIGTERM, or until the benchmark ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    settings = json.loads(sys.stdin.readline())
    servers, ports = [], []
    for node_id, *pems in settings["identities"]:
        tls = TLSConfig(node_id, *(pem.encode() for pem in pems))
        server = grpc.server(ThreadPoolExecutor(settings["workers"]))
        server.add_generic_rpc_handlers((_Echo(settings["delay"]),))
        credentials = grpc.ssl_server_credentials(
            [(tls.private_key, tls.certificate_chain)], tls.trust_bundle, require_client_auth=True
        )
        ports.append(server.add_secure_port("127.0.0.1:0", credentials))
        server.start()
        servers.append(server)
    print(json.dumps(ports), flush=True)
    try:
        sys.stdin.read()
    finally:
        for stopped in [server.stop(5) for server in servers]:
            stopped.wait()


if __name__ == "__main__":
    _serve()
