"""`aegis node run --workers`: several processes under one identity."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aegis_discovery
import grpc
import pytest
from aegis_cli._identity import load_identity

CALLERS = 16
PROGRAM = """
import grpc, os, time

def answer(request, context):
    time.sleep(0.001)
    return f"{VERSION} {os.environ['AEGIS_WORKER']} {os.getpid()}".encode()

def register(server):
    handler = grpc.unary_unary_rpc_method_handler(answer)
    service = grpc.method_handlers_generic_handler("test.Orders", {"Who": handler})
    server.add_generic_rpc_handlers((service,))
"""
Eventually = Callable[[Callable[[], object], str], None]


def write_program(aegis: Any, version: str) -> None:
    path = aegis.directory / "app.py"
    path.with_suffix(".new").write_text(PROGRAM.replace("{VERSION}", version))
    path.with_suffix(".new").replace(path)


def free_ports(count: int) -> int:
    """Returns the first of some ports in a row that nobody listens on."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
        try:
            for number in range(count):
                socket.create_server(("127.0.0.1", port + number)).close()
        except OSError:
            continue
        return port


class Supervised:
    """A supervisor, and the facts that its workers print."""

    def __init__(self, aegis: Any, *options: str) -> None:
        self.port = free_ports(4)
        self.process = aegis.start(
            *("node", "run", "--id", "orders-1", "--json", "--service", "orders/v1"),
            *("--address", f"127.0.0.1:{self.port}", *options, "app:register"),
        )

    def serving(self) -> dict[str, str]:
        """Returns the address of each worker that begins to serve next, by its id."""
        facts = json.loads(self.process.stdout.until("serving"))
        return {facts["id"]: facts["address"]}


class Load:
    """Calls all workers, almost without a pause; keeps failures and the latest answers."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        self.stop = threading.Event()

    def call(self, channel: grpc.Channel) -> None:
        who = channel.unary_unary("/test.Orders/Who")
        while not self.stop.wait(0.03):
            try:
                self.answers[who(b"", timeout=10).decode()] += 1
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()} {error.details()}")  # type: ignore[attr-defined]  # it is also a call

    def seen(self, version: str) -> set[str]:
        """Returns the numbers of the workers that answered with this version since the reset."""
        answers = [answer.split() for answer in list(self.answers)]
        return {number for found, number, _ in answers if found == version}

    def pids(self) -> dict[str, int]:
        """Returns the process of each worker that answered since the reset, by its number."""
        answers = [answer.split() for answer in list(self.answers)]
        return {number: int(pid) for _, number, pid in answers}


@contextmanager
def load(certs: Path, seed: str) -> Iterator[Load]:
    tls = load_identity(certs, "ops")
    made = Load()
    with (
        aegis_discovery.connect(seed, tls=tls) as mesh,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        channel = mesh.pool.channel("orders", "v1")
        running = [pool.submit(made.call, channel) for _ in range(CALLERS)]
        try:
            yield made
        finally:
            made.stop.set()
        for caller in running:
            caller.result()


@pytest.mark.soak
def test_a_reload_under_load_replaces_all_workers_without_a_failed_call(
    aegis: Any, certs: Path, eventually: Eventually, tmp_path: Path
) -> None:
    write_program(aegis, "one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        aegis.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        _, seed = aegis.node("seed")
        aegis.environment["AEGIS_WORKERS"] = "2"
        assert manager.recv(100) == b"READY=1", "that of the seed"
        orders = Supervised(aegis, "--join", seed)
        assert orders.serving() == {"orders-1#0": f"127.0.0.1:{orders.port}"}
        assert orders.serving() == {"orders-1#1": f"127.0.0.1:{orders.port + 1}"}
        assert manager.recv(100) == b"READY=1", "only the supervisor notifies"
        with load(certs, seed) as calls:
            eventually(lambda: calls.seen("one") == {"0", "1"}, "both workers answer")
            write_program(aegis, "two")
            orders.process.signal(signal.SIGHUP)
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(100))
            assert orders.serving() == {"orders-1#2": f"127.0.0.1:{orders.port + 2}"}
            assert orders.serving() == {"orders-1#0": f"127.0.0.1:{orders.port}"}
            assert manager.recv(100) == b"READY=1"
            calls.answers.clear()
            eventually(lambda: calls.seen("two") == {"0", "2"}, "both new workers answer")
            assert calls.seen("one") == set()
            assert calls.failures == []
            pids = calls.pids()
            for pid in pids.values():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                assert b"aegis_core._node.workers.child" in command, "it is no fork"
            os.kill(pids["2"], signal.SIGKILL)
            assert orders.serving() == {"orders-1#2": f"127.0.0.1:{orders.port + 2}"}
            calls.answers.clear()
            eventually(lambda: calls.seen("two") == {"0", "2"}, "both workers answer again")
            assert calls.pids()["0"] == pids["0"]
            assert calls.pids()["2"] != pids["2"]
        orders.process.signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        assert orders.process.wait() == 0
    log = orders.process.stderr.rest()
    assert "Traceback" not in log
    assert re.search(r"^[\dT:+-]+ orders-1#2 orders-1#0 (joined|is here)", log, re.MULTILINE)


def test_reload_replaces_the_worker_when_its_program_changes(
    aegis: Any, certs: Path, eventually: Eventually
) -> None:
    write_program(aegis, "one")
    orders = Supervised(aegis, "--reload")
    (first,) = orders.serving().items()
    assert first == ("orders-1#0", f"127.0.0.1:{orders.port}")
    orders.process.stderr.until("all workers of orders-1 serve: 1")
    (aegis.directory / "app.py").write_text("syntax error")
    orders.process.stderr.until("app:register cannot be used: the import fails with SyntaxError")
    orders.process.stderr.until("the running workers continue with the old code")
    write_program(aegis, "two")
    (second,) = orders.serving().items()
    assert second == ("orders-1#1", f"127.0.0.1:{orders.port + 1}")
    orders.process.stderr.until("all workers of orders-1 serve: 1")
    # A worker ends with its supervisor, however that ends.
    orders.process.signal(signal.SIGKILL)
    orders.process.stderr.until("orders-1#1 stopped")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", orders.port + 1))


def test_workers_that_cannot_start_are_one_error(aegis: Any) -> None:
    done = aegis.run("node", "run", "--id", "orders-1", "--workers", "2", "no_such:register")
    assert done.returncode == 2
    assert "Error: orders-1#0: no_such:register cannot be used: the import fails" in done.stderr
    assert "Error: no worker of orders-1 could start" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["0", "65", "many"])
def test_a_wrong_number_of_workers_is_one_sentence(aegis: Any, workers: str) -> None:
    done = aegis.invoke("node", "run", "--id", "orders-1", AEGIS_WORKERS=workers)
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: AEGIS_WORKERS: '{workers}' is no number of workers; give 1 to 64, or 'auto'\n"
    )
