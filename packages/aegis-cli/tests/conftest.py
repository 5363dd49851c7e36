from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_cli.cli import aegis as aegis_command
from click.testing import CliRunner

BOUND = 30.0
# Since click 8.2 the streams are always separate.
SEPARATE_STREAMS: Any = (
    {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
)
EC = KeyType.P256
REGISTRARS = """
import grpc

def register(server):
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    service = grpc.method_handlers_generic_handler("test.Orders", {"Echo": handler})
    server.add_generic_rpc_handlers((service,))

def nothing(server):
    pass

def broken(server):
    raise OSError("no database")

both = [register, register]
empty = []
"""
IDENTITIES = ("seed", "orders-1", "orders-2", "ops")


class Process:
    """A running command whose output is read line by line."""

    def __init__(self, command: list[str], environment: dict[str, str], cwd: Path) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stdout = Lines(self._process.stdout)
        self.stderr = Lines(self._process.stderr)
        self.pid = self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(BOUND)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait()
        self.stdout.close()
        self.stderr.close()


class Lines:
    """The lines of a pipe, read by a thread so that waiting for one has a timeout."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.seen: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, text: str) -> str:
        """Returns the next line that contains this text."""
        deadline = time.monotonic() + BOUND
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                pytest.fail(f"no {text!r} within {BOUND:g} s, only {self.seen}")
            if line is None:
                pytest.fail(f"no {text!r} until the end, only {self.seen}")
            self.seen.append(line)
            if text in line:
                return line

    def rest(self) -> str:
        """Returns all remaining lines."""
        lines = iter(lambda: self._lines.get(timeout=BOUND), None)
        return "\n".join(line for line in lines if line is not None)

    def close(self) -> None:
        self._reader.join(BOUND)
        self._pipe.close()

    def _read(self) -> None:
        for line in self._pipe:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


class Command:
    """Runs `aegis` in its own process, as a user does."""

    def __init__(self, directory: Path, certs: Path, stack: ExitStack) -> None:
        self.directory = directory
        (directory / "orders.py").write_text(REGISTRARS)
        self._stack = stack
        kept = {name: value for name, value in os.environ.items() if "AEGIS" not in name}
        self.environment = kept | {"AEGIS_CERT_DIR": str(certs), "TMPDIR": str(directory)}
        for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            self.environment.pop(name, None)

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "aegis_cli")) -> Process:
        command = [sys.executable, *program, *arguments]
        process = Process(command, self.environment, self.directory)
        self._stack.callback(process.close)
        return process

    def run(
        self, *arguments: str, given: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "aegis_cli", *arguments],
            env=self.environment | environment,
            cwd=self.directory,
            input=given,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """Runs a line of shell, to its end."""
        return subprocess.run(
            ["/bin/sh", "-c", line],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def invoke(
        self, *arguments: str, given: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `aegis` as `run` does, but in this process, which does not have to load it."""
        unset = dict.fromkeys(os.environ.keys() - self.environment.keys())
        runner = CliRunner(env=self.environment | unset | environment, **SEPARATE_STREAMS)
        with chdir(self.directory):
            done = runner.invoke(aegis_command, arguments, input=given)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    def node(self, node_id: str, *options: str) -> tuple[Process, str]:
        """Starts a node; returns its process and its address."""
        process = self.start("node", "run", "--id", node_id, "--json", *options)
        return process, json.loads(process.stdout.until("serving"))["address"]


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate directory with a CA and some identities."""
    directory = tmp_path_factory.mktemp("certs") / "certs"
    authority = CertificateAuthority.create(directory, key_type=EC)
    for name in IDENTITIES:
        authority.issue(name, address="127.0.0.1", key_type=EC)
    return directory


@pytest.fixture
def aegis(tmp_path: Path, certs: Path) -> Iterator[Command]:
    with ExitStack() as stack:
        yield Command(tmp_path, certs, stack)


@pytest.fixture(scope="session")
def command_in() -> type[Command]:
    """Makes the command of another directory than that of one test."""
    return Command


@pytest.fixture(scope="module")
def quiet_mesh(tmp_path_factory: pytest.TempPathFactory, certs: Path) -> Iterator[str]:
    """The address of one of two nodes that no test changes."""
    with ExitStack() as stack:
        command = Command(tmp_path_factory.mktemp("quiet"), certs, stack)
        _, address = command.node("seed", "--type", "gateway")
        command.node("orders-1", "--join", address, "--service", "orders/v1", "orders:register")
        yield address


@pytest.fixture
def eventually() -> Callable[[Callable[[], object], str], None]:
    """Waits until a condition is true."""

    def wait(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + BOUND
        pause = threading.Event()
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {BOUND:g} s: {what}")
            pause.wait(0.02)

    return wait
