"""`Node.run` serves until a signal; then calls in flight end as they would have without it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import Node, NodeStateError, aio
from aegis_discovery.aio.transport import open_channel

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
CALLS = 5
WAIT = 20.0

PROGRAM = """
import asyncio, logging, pathlib, sys, threading, time
import grpc
from aegis_core import Node, aio

face, cert_dir, grace = sys.argv[1], sys.argv[2], float(sys.argv[3])

def blocking_call(request, context):
    print("called", flush=True)
    while not pathlib.Path("release").exists():
        time.sleep(0.01)
    return b"done"

async def call(request, context):
    print("called", flush=True)
    while not pathlib.Path("release").exists():
        await asyncio.sleep(0.01)
    return b"done"

async def stream(request, context):
    while True:
        yield b"x"
        await asyncio.sleep(0.01)

def register(server):
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", {
        "Call": grpc.unary_unary_rpc_method_handler(call if face == "aio" else blocking_call),
        "Block": grpc.unary_unary_rpc_method_handler(blocking_call),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    })])

options = dict(address="127.0.0.1:0", cert_dir=cert_dir, registrars=[register], grace=grace)
logging.basicConfig(level=logging.INFO, format="%(message)s")
if face == "aio":
    node = aio.Node("node", **options)
    asyncio.run(node.run(on_ready=lambda: print(node.address, flush=True)))
else:
    node = Node("node", **options)
    node.run(on_ready=lambda: print(node.address, flush=True))
"""


class Program:
    """A program that runs a node, in its own directory."""

    def __init__(self, directory: Path, *arguments: object, **environment: str) -> None:
        self.directory = directory
        (directory / "program.py").write_text(PROGRAM)
        with (directory / "out").open("wb") as out, (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "program.py", *map(str, arguments)],
                cwd=directory,
                stdout=out,
                stderr=log,
                env={"PATH": "/usr/bin:/bin", **environment},
            )

    @property
    def lines(self) -> list[str]:
        return (self.directory / "out").read_text().splitlines()

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def running(directory: Path, *arguments: object, **environment: str) -> Iterator[Program]:
    program = Program(directory, *arguments, **environment)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()


async def read_to_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


FACES = pytest.mark.parametrize("face", ["aio", "blocking"])


@FACES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
async def test_after_a_signal_calls_in_flight_complete_and_long_streams_become_unavailable(
    face: str,
    number: signal.Signals,
    cert_dir: Path,
    tmp_path: Path,
    identity: MakeIdentity,
    until: Until,
) -> None:
    with running(tmp_path, face, cert_dir, 3) as program:
        await until(lambda: program.lines)
        async with open_channel(identity("caller"), "node", program.lines[0]) as channel:
            call = channel.unary_unary("/t/Call")
            calls = [call(b"", timeout=WAIT) for _ in range(CALLS)]
            stream: Any = channel.unary_stream("/t/Stream")(b"", timeout=WAIT)
            assert await stream.read() == b"x"
            await until(lambda: program.lines.count("called") == CALLS)
            program.process.send_signal(number)
            program.process.send_signal(number)  # a wrapper passed the same signal on
            await until(lambda: f"node stops after {number.name}" in program.log)
            (tmp_path / "release").touch()
            assert await asyncio.gather(*calls) == [b"done"] * CALLS
            with pytest.raises(grpc.aio.AioRpcError):
                await read_to_end(stream)
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
            assert "try another provider" in await stream.details()
        await until(lambda: program.has_ended)
        assert program.process.returncode == 0
        assert "node stopped" in program.log
        assert "Traceback" not in program.log


@FACES
async def test_a_second_signal_ends_the_process_at_once(
    face: str, cert_dir: Path, tmp_path: Path, identity: MakeIdentity, until: Until
) -> None:
    with running(tmp_path, face, cert_dir, 1000) as program:
        await until(lambda: program.lines)
        async with open_channel(identity("caller"), "node", program.lines[0]) as channel:
            call = channel.unary_unary("/t/Call")(b"", timeout=WAIT)
            await until(lambda: "called" in program.lines)
            program.process.send_signal(signal.SIGTERM)
            await until(lambda: "node stops after SIGTERM" in program.log)
            program.process.send_signal(signal.SIGINT)
            await until(lambda: program.has_ended)
            assert program.process.returncode == -signal.SIGINT
            call.cancel()


@FACES
async def test_a_service_manager_learns_of_the_start_and_of_the_stop(
    face: str, cert_dir: Path, tmp_path: Path, until: Until
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(WAIT)
        path = tmp_path / "notify"
        manager.bind(str(path))
        with running(tmp_path, face, cert_dir, 5, NOTIFY_SOCKET=str(path)) as program:
            assert await asyncio.to_thread(manager.recv, 100) == b"READY=1"
            program.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(manager.recv, 100) == b"STOPPING=1"
            await until(lambda: program.has_ended)
            assert program.process.returncode == 0


async def test_the_signal_handlers_from_before_are_restored(identity: MakeIdentity) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    node = aio.Node("a", address="127.0.0.1:0", tls=identity("a"))
    await node.run(on_ready=lambda: signal.raise_signal(signal.SIGTERM))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with pytest.raises(NodeStateError):
        await node.run()


@pytest.fixture
def hangups() -> Iterator[None]:
    """SIGHUP as it is without `nohup`, which may run the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
async def test_a_closed_terminal_stops_an_asyncio_node(identity: MakeIdentity) -> None:
    node = aio.Node("a", address="127.0.0.1:0", tls=identity("a"))
    await node.run(on_ready=lambda: signal.raise_signal(signal.SIGHUP))
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.usefixtures("hangups")
def test_a_closed_terminal_stops_a_blocking_node(identity: MakeIdentity) -> None:
    Node("a", address="127.0.0.1:0", tls=identity("a")).run(
        on_ready=lambda: signal.raise_signal(signal.SIGHUP)
    )
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.parametrize("ignored", [True, False])
def test_a_hangup_that_is_ignored_or_handled_stops_no_node(
    identity: MakeIdentity, ignored: bool
) -> None:
    heard: list[int] = []
    own = signal.SIG_IGN if ignored else lambda number, _: heard.append(number)
    before = signal.signal(signal.SIGHUP, own)
    stopped_by: list[int] = []

    def hang_up_and_stop() -> None:
        signal.raise_signal(signal.SIGHUP)
        stopped_by.append(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    try:
        Node("a", address="127.0.0.1:0", tls=identity("a")).run(on_ready=hang_up_and_stop)
        assert signal.getsignal(signal.SIGHUP) is own
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (heard, stopped_by) == ([] if ignored else [signal.SIGHUP], [signal.SIGTERM])


def test_a_blocking_node_restores_the_signal_handlers_too(identity: MakeIdentity) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    node = Node("a", address="127.0.0.1:0", tls=identity("a"))
    node.run(on_ready=lambda: signal.raise_signal(signal.SIGTERM))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with pytest.raises(NodeStateError):
        node.run()


def test_a_node_in_another_thread_runs_until_stop(identity: MakeIdentity) -> None:
    node = Node("a", address="127.0.0.1:0", tls=identity("a"))
    ready = threading.Event()
    thread = threading.Thread(target=node.run, kwargs={"on_ready": ready.set})
    thread.start()
    assert ready.wait(WAIT)
    node.stop()
    thread.join(WAIT)
    assert not thread.is_alive()


async def test_a_signal_ends_a_node_that_still_starts(identity: MakeIdentity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        seed = f"127.0.0.1:{silent.getsockname()[1]}"
        options: dict[str, Any] = {"tls": identity("a"), "seed_peers": [seed]}
        node = aio.Node("a", address="127.0.0.1:0", join_timeout=1000, **options)
        running = asyncio.create_task(node.run())
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(running, WAIT)
        assert node.failure is None


@FACES
async def test_after_the_grace_no_handler_holds_the_process(
    face: str, cert_dir: Path, tmp_path: Path, identity: MakeIdentity, until: Until
) -> None:
    with running(tmp_path, face, cert_dir, 0.1) as program:
        await until(lambda: program.lines)
        async with open_channel(identity("caller"), "node", program.lines[0]) as channel:
            call = channel.unary_unary("/t/Block")(b"", timeout=WAIT)
            await until(lambda: "called" in program.lines)
            program.process.send_signal(signal.SIGTERM)
            await until(lambda: program.has_ended)
            assert program.process.returncode == 0
            assert await call.code() is grpc.StatusCode.UNAVAILABLE


def test_a_signal_does_not_stop_a_blocking_node_before_on_ready_returned(
    identity: MakeIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aegis")
    node = Node("a", address="127.0.0.1:0", tls=identity("a"))
    stops: list[bool] = []

    def on_ready() -> None:
        signal.raise_signal(signal.SIGTERM)
        # It runs in the node's loop, after whatever the signal began there.
        node.sync_topology_with_all_peers()
        stops.append("a stops after SIGTERM" in caplog.text)

    node.run(on_ready=on_ready)
    assert stops == [False]
    assert "a stops after SIGTERM" in caplog.text
