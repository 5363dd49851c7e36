"""`run_workers`: the settings of workers, and how their supervisor ends."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import MAX_WORKERS, TLSConfig
from aegis_core import ConfigError, FunctionHealthChecker, Node, RegistrarError, run_workers
from aegis_core._node.workers.cores import usable_cores
from aegis_core._node.workers.job import Job, numbered_address, receive_job, receive_path
from aegis_core._node.workers.run import parse_workers
from aegis_discovery.aio.transport import open_channel

Until = Callable[[Callable[[], object]], Awaitable[None]]
MODULE = """
import grpc, os, pathlib, threading

def hang(request, context):
    pathlib.Path("pid").write_text(str(os.getpid()))
    threading.Event().wait()

def register(server):
    handler = grpc.unary_unary_rpc_method_handler(hang)
    service = grpc.method_handlers_generic_handler("t", {"Hang": handler})
    server.add_generic_rpc_handlers((service,))
"""
PROGRAM = """
import sys
from aegis_core import run_workers

run_workers("hanging:register", workers=1, id="orders-1", cert_dir=sys.argv[1],
            address="127.0.0.1:" + sys.argv[2], grace=600)
"""


async def test_a_second_signal_ends_all_workers_at_once(
    tmp_path: Path,
    cert_dir: Path,
    identity: Callable[[str], TLSConfig],
    until: Until,
    unused_tcp_port: int,
) -> None:
    identity("orders-1")
    (tmp_path / "hanging.py").write_text(MODULE)
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = [sys.executable, "program.py", str(cert_dir), str(unused_tcp_port)]
    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen(arguments, cwd=tmp_path, stderr=log)  # noqa: ASYNC220 - only its start
    try:
        await until(lambda: " orders-1#0 INFO aegis" in (tmp_path / "log").read_text())
        address = f"127.0.0.1:{unused_tcp_port}"
        async with open_channel(identity("caller"), "orders-1#0", address) as channel:
            hang = channel.unary_unary("/t/Hang")(b"", timeout=60, wait_for_ready=True)
            hang.add_done_callback(lambda _: None)
            await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            worker = int((tmp_path / "pid").read_text())
            program.send_signal(signal.SIGTERM)
            await until(lambda: "orders-1#0 stops after SIGTERM" in (tmp_path / "log").read_text())
            assert program.poll() is None, "a call is in flight"
            program.send_signal(signal.SIGINT)
            await until(lambda: program.poll() is not None)
            assert program.returncode == -signal.SIGINT
            await until(lambda: not is_running(worker))
            hang.cancel()
    finally:
        program.kill()
        program.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def receive(encoded: bytes) -> Job:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(encoded)
    try:
        assert receive_path(read) == ["/somewhere"]
        return receive_job(read)
    finally:
        os.close(read)


class Made(dict[str, Any]):
    def __init__(self, **options: Any) -> None:
        super().__init__(options)


def test_a_worker_has_a_number_a_port_and_its_siblings_as_seed_peers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "aegis.toml"
    config.write_text('[node]\nid = "other"\nworkers = 4\nmesh = "shop"\ntype = "web"\n')
    monkeypatch.setenv("AEGIS_JOIN", "seed@10.0.0.1:1")
    job = Job(
        identity="orders-1",
        number=3,
        target="",
        options={"address": "[::1]:50051", "advertise": "10.0.0.7:6000", "type": "api"},
        config=str(config),
        siblings=("orders-1#0@10.0.0.7:6000",),
        python_path=("/somewhere",),
    )
    made = receive(job.encode()).make(Made)
    assert (made["id"], made["address"], made["advertise"]) == (
        "orders-1#3",
        "[::1]:50054",
        "10.0.0.7:6003",
    )
    assert made["seed_peers"] == ["seed@10.0.0.1:1", "orders-1#0@10.0.0.7:6000"]
    assert (made["mesh"], made["type"], made["registrars"]) == ("shop", "api", [])
    assert numbered_address("127.0.0.1:0", 3) == "127.0.0.1:0"
    with pytest.raises(ConfigError, match="worker 3 would listen at port 65536"):
        numbered_address("127.0.0.1:65533", 3)


def test_an_option_that_another_process_cannot_have_is_an_error() -> None:
    checker = FunctionHealthChecker("x", lambda: None)  # type: ignore[arg-type,return-value]  # never called
    with pytest.raises(ConfigError, match="an option cannot be sent to a worker"):
        run_workers("m:f", workers=1, id="a", health_checkers=[checker])
    monkey = type("Checker", (), {"__module__": "__main__"})
    job = Job(identity="a", number=0, target="", options={"x": pickle.dumps(monkey.__module__)})
    with pytest.raises(ConfigError, match="defined in the program itself"):
        job.encode()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"id": "a#1"}, "a#1 has a number already"),
        ({"id": "A"}, "cannot be a node id"),
        ({"id": "a", "workers": 65}, "65 is no number of workers; give 1 to 64, or 'auto'"),
        ({"id": "a", "workers": True}, "True is no number of workers"),
        ({"id": "a", "workers": 64, "address": "127.0.0.1:65500"}, "would listen at port 65563"),
        ({"id": "a", "max_workers": 0}, "can run no blocking handler"),
    ],
)
def test_wrong_options_are_found_before_any_worker_starts(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Exception, match=reason):
        run_workers("m:f", **options)


def test_one_node_is_not_several_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "aegis.toml"
    config.write_text("[node]\nworkers = 4\n")
    with pytest.raises(ConfigError, match=r"workers in .*: a Node is one process"):
        Node.from_env(id="a", config=config)
    monkeypatch.setenv("AEGIS_WORKERS", "auto")
    with pytest.raises(ConfigError, match="AEGIS_WORKERS: a Node is one process"):
        Node.from_env(id="a")


def test_auto_is_one_worker_for_each_core_that_may_be_used(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    cores = len(os.sched_getaffinity(0))
    assert usable_cores(quota) == parse_workers("auto") == min(cores, MAX_WORKERS - 1)
    for text, expected in (("max 100000", cores), ("150000 100000", min(2, cores)), ("1 9", 1)):
        quota.write_text(text)
        assert usable_cores(quota) == expected
    assert parse_workers("64") == 64


def test_a_registrar_that_cannot_be_loaded_is_named() -> None:
    job = Job(identity="a", number=0, target="", registrars=("no_such:register",))
    with pytest.raises(RegistrarError, match="no_such:register cannot be used: the import fails"):
        job.make(Made)
