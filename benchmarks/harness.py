"""Shared by the benchmarks: paired rounds, confidence intervals, judged rows, echo servers.

Variants of the same work are compared in one run: every round runs each once, forwards and then
backwards (ABBA), so that other load on the machine affects all of them alike. The measure is the
CPU time (user and system, all threads) of this process, or of the server's where that is compared.
Every run says how busy other processes kept the machine, and how much slower than at its best the
processor was, which other guests of the same host can cause unseen. Where either is much, figures
with a unit (microseconds, seconds) are shown and not judged; ratios and counts are judged always.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
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
from functools import cache
from typing import TypeVar

import grpc
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_discovery import NodeInfo, ServiceInfo
from machine import speed, was_busy

SERVICE = ServiceInfo("echo", "v1")
METHOD = "/bench.Echo/Echo"
GATE = 1.10
"""The largest allowed ratio to raw gRPC; a larger one cannot be noise."""

TOLERANCE = 1.05
"""How far the median of interleaved runs may be above its target."""

T = TypeVar("T")


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


def parser_of(doc: str | None, rounds: int, quick: int) -> argparse.ArgumentParser:
    """Makes the parser of a benchmark, with the options that all of them have."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    how_often = parser.add_mutually_exclusive_group()
    how_often.add_argument("--rounds", type=int, default=rounds, help=f"(default {rounds})")
    how_often.add_argument(
        "--quick", dest="rounds", action="store_const", const=quick, help=f"{quick} rounds"
    )
    return parser


@dataclass(frozen=True)
class Row:
    """A measured figure, its limit, and whether it is within the limit.

    Attributes:
        depends_on_load: Whether other processes change the figure, so that it is judged on a
            quiet machine only.
    """

    what: str
    figure: str
    at_most: str
    ok: bool
    depends_on_load: bool = False


def within(value: float, at_most: float) -> bool:
    """Tells whether a measured value is at most its target, with the tolerance of all rows."""
    return value <= at_most * TOLERANCE


def judge(what: str, measured: Estimate, at_most: float, spec: str, unit: str = "") -> Row:
    """Makes the row of an estimate; a figure with a unit depends on the load of the machine.

    The row is missed if the median is out of tolerance and the whole interval above the limit.
    """
    figure, target = f"{measured:{spec}} {unit}".rstrip(), f"{at_most:{spec}} {unit}".rstrip()
    ok = within(measured.median, at_most) or measured.low <= at_most
    return Row(what, figure, target, ok, bool(unit))


def judge_at_least(what: str, measured: Estimate, at_least: float, spec: str) -> Row:
    """Makes the row of a ratio that may not be lower."""
    ok = measured.median >= at_least / TOLERANCE or measured.high >= at_least
    return Row(what, f"{measured:{spec}}", f"{at_least:{spec}} or more", ok)


def print_rows(rows: Sequence[Row]) -> int:
    """Prints one line for each row; returns the exit status, 1 if a limit was missed."""
    busy, line = was_busy()
    print(f"\n{line}", "Figures with a unit are not judged." * busy)
    print(f"Missed is a median {TOLERANCE - 1:.0%} off its target, if its whole interval is off.")
    lines = [("", "measured", "at most", "")]
    missed = False
    for row in rows:
        verdict = "ok" if row.ok else "busy" if busy and row.depends_on_load else "MISSED"
        missed |= verdict == "MISSED"
        lines.append((row.what, row.figure, row.at_most, verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip(), flush=True)
    return int(missed)


def alternate(
    variants: Mapping[str, Callable[[], T]], *, rounds: int, warm_up: int = 2
) -> dict[str, list[T]]:
    """Runs all variants once a round, every other round backwards; returns their results."""
    results: dict[str, list[T]] = {name: [] for name in variants}
    order = list(variants)
    for number in range(-warm_up, rounds):
        for name in order:
            gc.collect()
            speed.look()
            result = variants[name]()
            if number >= 0:
                results[name].append(result)
        order.reverse()
    return results


def paired_rounds(
    variants: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    calls: int,
    turn: int | None = None,
) -> dict[str, list[float]]:
    """Runs all variants once a round; returns the CPU microseconds a call of this process.

    Args:
        variants: By name, the function that makes the given number of calls.
        rounds: Rounds that count, after two rounds of warm-up.
        calls: Calls per variant and round.
        turn: How many of them a variant makes before the next one's turn; all by default. With few,
            all variants have the same share of what else happens on the machine.
    """
    turn = turn or calls

    def take_turns() -> dict[str, float]:
        taken = dict.fromkeys(variants, 0.0)
        order = list(variants)
        for _ in range(calls // turn):
            for name in order:
                began = time.process_time()
                variants[name](turn)
                taken[name] += time.process_time() - began
            order.reverse()
        return taken

    results = alternate({"all": take_turns}, rounds=rounds)["all"]
    made = calls // turn * turn
    return {name: [taken[name] / made * 1e6 for taken in results] for name in variants}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Returns the estimate of the ratio of paired samples."""
    return estimate([one / other for one, other in zip(ours, theirs, strict=True)])


def command_cpu(*commands: Sequence[str]) -> float:
    """Runs commands one after the other; returns their CPU milliseconds, of whole processes.

    Python finds the bytecode of all modules, as it does where pip installed them: the first run
    compiles it. Each must succeed.
    """
    environment = with_bytecode()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def python_cpu(code: str, *arguments: str) -> float:
    """`command_cpu` of a new Python that runs this code."""
    return command_cpu([sys.executable, "-c", code, *arguments])


def with_bytecode() -> dict[str, str]:
    """Returns the environment of a process that finds bytecode, or leaves it for the next one."""
    settings = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": _bytecode().name}
    return {**os.environ, **settings}


@cache
def _bytecode() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="aegis-bytecode-")


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
