"""What the benchmarks share: paired rounds, medians with confidence intervals, echo servers.

Two ways to do the same thing are compared in one run: in every round each runs once, in random
order, so that whatever else the machine does meets both. What counts is the CPU time of this
process (`time.process_time`: user and system, all threads); the servers are another process.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_discovery import NodeInfo, ServiceInfo

SERVICE = ServiceInfo("echo", "v1")
METHOD = "/bench.Echo/Echo"


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


def paired_rounds(
    variants: Mapping[str, Callable[[int], object]], *, rounds: int, calls: int
) -> dict[str, list[float]]:
    """Runs all variants once a round; returns their CPU microseconds per call, by round.

    Args:
        variants: By name, what makes the given number of calls.
        rounds: Rounds that count; two more come first to warm up.
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


@contextmanager
def echo_servers(count: int) -> Iterator[tuple[list[NodeInfo], TLSConfig]]:
    """Runs echo servers with mutual TLS in another process; gives their entries and an identity."""
    with tempfile.TemporaryDirectory() as directory:
        ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
        identities = [ca.issue_in_memory(f"echo-{number}") for number in range(count)]
        caller = ca.issue_in_memory("caller")
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        print(json.dumps([_to_text(tls) for tls in identities]), file=process.stdin, flush=True)
        ports = json.loads(process.stdout.readline())
        yield (
            [
                NodeInfo(tls.node_id, address=f"127.0.0.1:{port}", services=(SERVICE,))
                for tls, port in zip(identities, ports, strict=True)
            ],
            caller,
        )
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _to_text(tls: TLSConfig) -> list[str]:
    pems = (tls.certificate_chain, tls.private_key, tls.trust_bundle)
    return [tls.node_id, *(pem.decode() for pem in pems)]


class _Echo(grpc.GenericRpcHandler):
    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)


def _serve() -> None:
    """Serves until the standard input ends, as it does with the benchmark that started this."""
    servers, ports = [], []
    for node_id, *pems in json.loads(sys.stdin.readline()):
        tls = TLSConfig(node_id, *(pem.encode() for pem in pems))
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((_Echo(),))
        credentials = grpc.ssl_server_credentials(
            [(tls.private_key, tls.certificate_chain)], tls.trust_bundle, require_client_auth=True
        )
        ports.append(server.add_secure_port("127.0.0.1:0", credentials))
        server.start()
        servers.append(server)
    print(json.dumps(ports), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
