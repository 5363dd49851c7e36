"""What two workers serve, against one, and the calls that fail while workers are replaced.

    uv run python benchmarks/workers.py

Each call takes 5 ms of CPU in Python, so one process serves at most 200 calls a second, whatever
its threads do. The services run under `aegis_core.run_workers`; 16 callers call them through a
client of their mesh, in this process, which is niced: on a machine with two cores it would
otherwise take the time of the second worker. What counts is the ratio of calls per second.

Then SIGHUP replaces both workers under the same load, once a round, and no call may fail.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_discovery import connect
from harness import Row, alternate, estimate, judge_at_least, parser_of, print_rows, ratios

CALLERS = 16
WORK = 0.005
"""Seconds of CPU that a call takes."""

SECONDS = 3.0
"""How long each variant is measured in a round."""

PATIENCE = 60.0
TARGET = 1.7
METHOD = "/bench.Workers/Work"

MODULE = f"""
import os, time
import grpc

def work(request, context):
    until = time.thread_time() + {WORK}
    while time.thread_time() < until:
        sum(range(100))
    return str(os.getpid()).encode()

def register(server):
    handler = grpc.unary_unary_rpc_method_handler(work)
    service = grpc.method_handlers_generic_handler("bench.Workers", {{"Work": handler}})
    server.add_generic_rpc_handlers((service,))
"""
PROGRAM = """
import sys
from aegis_core import ServiceInfo, run_workers

name, workers, port, cert_dir = sys.argv[1:]
run_workers("service:register", workers=int(workers), id=name, address=f"127.0.0.1:{port}",
            cert_dir=cert_dir, services=[ServiceInfo(name, "v1")])
"""


class Service:
    """A service in some workers, and a client that calls it with 16 threads."""

    def __init__(self, name: str, workers: int, directory: Path, tls: TLSConfig) -> None:
        self.workers = workers
        port = _free_ports(workers + 1)
        arguments = [sys.executable, "program.py", name, str(workers), str(port)]
        self._supervisor = subprocess.Popen(
            [*arguments, str(directory / "certs")],
            cwd=directory,
            stderr=subprocess.DEVNULL,
        )
        self._mesh = connect(f"127.0.0.1:{port}", tls=tls, timeout=PATIENCE)
        self._work = self._mesh.pool.channel(name, "v1").unary_unary(METHOD)
        self.failures: list[str] = []
        self.pids: set[int] = set()
        self._lock = threading.Lock()

    def wait_for_workers(self, other_than: Collection[int] = ()) -> None:
        """Calls until all workers have answered, and none of these processes does."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._lock:
                self.pids.clear()
            self.run(0.5)
            if len(self.pids) == self.workers and self.pids.isdisjoint(other_than):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.workers} new workers were expected, not {self.pids}")

    def run(self, seconds: float) -> float:
        """Calls for this long; returns the calls per second."""
        stop = time.monotonic() + seconds
        done = [0] * CALLERS

        def call(number: int) -> None:
            while time.monotonic() < stop:
                try:
                    pid = int(self._work(b"", timeout=10))
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code()} {error.details()}")  # type: ignore[attr-defined]  # it is also a call
                else:
                    done[number] += 1
                    with self._lock:
                        self.pids.add(pid)

        began = time.monotonic()
        threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.monotonic() - began)

    def replace_workers(self) -> None:
        """Sends SIGHUP and calls until all workers are new ones."""
        self.wait_for_workers()
        before = set(self.pids)
        self._supervisor.send_signal(signal.SIGHUP)
        self.wait_for_workers(other_than=before)

    def stop(self) -> None:
        self._mesh.close()
        self._supervisor.terminate()
        self._supervisor.wait()


def _free_ports(count: int) -> int:
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port: int = first.getsockname()[1]
            try:
                for number in range(1, count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port + number)))
            except OSError:
                continue
            return port


@contextmanager
def services(*counts: int) -> Iterator[list[Service]]:
    """Runs one service for each number of workers."""
    with tempfile.TemporaryDirectory() as base, ExitStack() as stack:
        directory = Path(base)
        (directory / "service.py").write_text(MODULE)
        (directory / "program.py").write_text(PROGRAM)
        ca = CertificateAuthority.create(directory / "certs", key_type=KeyType.P256)
        names = [f"workers-{count}" for count in counts]
        for name in names:
            ca.issue(name, key_type=KeyType.P256)
        caller = ca.issue_in_memory("caller")
        made = []
        for name, count in zip(names, counts, strict=True):
            made.append(Service(name, count, directory, caller))
            stack.callback(made[-1].stop)
        yield made


def main() -> int:
    parser = parser_of(__doc__, rounds=12, quick=4)
    arguments = parser.parse_args()
    with services(1, 2) as (one, two):
        os.nice(19)  # of this thread and of all that it starts, not of the workers
        one.wait_for_workers()
        two.wait_for_workers()
        rates = alternate(
            {"one": lambda: one.run(SECONDS), "two": lambda: two.run(SECONDS)},
            rounds=arguments.rounds,
            warm_up=1,
        )
        failed = len(one.failures + two.failures)
        for _ in range(max(2, arguments.rounds // 4)):
            two.replace_workers()
        in_reloads = len(two.failures) + len(one.failures) - failed
    for name, rate in rates.items():
        print(f"{name:>4} worker{'s' * (name == 'two')}: {estimate(rate):.0f} calls per second")
    for failure in sorted({*one.failures, *two.failures}):
        print(f"failed: {failure}")
    return print_rows(
        [
            judge_at_least("two workers / one", ratios(rates["two"], rates["one"]), TARGET, ".2f"),
            Row("failed calls while SIGHUP replaced workers", str(in_reloads), "0", not in_reloads),
            Row("other failed calls", str(failed), "0", not failed),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
