"""The guide "From one machine to many", with each machine in a network namespace of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .network import Host, Network

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "many-machines.md"
STEP = re.compile(
    r"^<!-- (?:on (?P<machine>[\w-]+): (?P<how>run|background)"
    r"|carry (?P<file>[\w-]+): (?P<source>[\w-]+) to (?P<target>[\w-]+)) -->\n"
    r"(?:```console\n(?P<text>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
PATIENCE = 60


class Machine:
    """A host of the network with a home directory of its own."""

    def __init__(self, host: Host, home: Path) -> None:
        self._host = host
        self.home = home
        self._running: list[subprocess.Popen[str]] = []
        home.mkdir()

    def run(self, command: str) -> str:
        done = subprocess.run(
            self._words(command),
            cwd=self.home,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, command: str) -> str:
        """Starts a command that stays; returns its first line."""
        with (self.home / "log").open("ab") as log:
            process = subprocess.Popen(
                self._words(command),
                cwd=self.home,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._running.append(process)
        assert process.stdout is not None
        # A command that says nothing is ended, so that the line is not waited for for ever.
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        assert line, (self.home / "log").read_text()
        return line

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _words(self, command: str) -> list[str]:
        return [
            *self._host.prefix,
            "sh",
            "-c",
            f"exec {command}" if "|" not in command else command,
        ]

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if "AEGIS" not in name}
        return {**kept, "PATH": path, "PYTHONUNBUFFERED": "1", "HOME": str(self.home)}


@pytest.fixture
def machines(
    make_network: Callable[[int], Network], tmp_path: Path
) -> Iterator[dict[str, Machine]]:
    network = make_network(3)
    names = ("ca-1", "orders-1", "billing-1")
    found = {
        name: Machine(host, tmp_path / name)
        for name, host in zip(names, network.hosts, strict=True)
    }
    yield found
    for machine in found.values():
        machine.stop()


def _commands(text: str) -> Iterator[tuple[str, list[str]]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *output = part.splitlines()
        yield command, output


def _matches(output: list[str], printed: str) -> bool:
    pattern = r"\n".join(
        ".*"
        if line == "..."
        else r"\s*".join(".*" if word == "..." else re.escape(word) for word in line.split())
        + r"[^\n]*"
        for line in output
    )
    return re.search(pattern, printed, re.DOTALL) is not None


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_the_guide_works_as_it_is_written(machines: dict[str, Machine]) -> None:
    typed: dict[str, list[str]] = {name: [] for name in machines}
    carried = []
    for step in STEP.finditer(GUIDE.read_text()):
        if step["file"]:
            source, target = machines[step["source"]], machines[step["target"]]
            shutil.copy(source.home / step["file"], target.home / step["file"])
            carried.append(step["file"])
            continue
        machine = machines[step["machine"]]
        for command, output in _commands(step["text"]):
            typed[step["machine"]].append(command)
            if step["how"] == "background":
                assert _matches(output, machine.start(command)), command
                continue
            deadline = time.monotonic() + PATIENCE
            # A mesh takes a moment to tell everybody that a node has joined.
            while not _matches(output, printed := machine.run(command)):
                assert command.startswith(("aegis mesh", "aegis certs renew")), printed
                assert time.monotonic() < deadline, printed
    assert carried == ["token", "token"]
    # From an empty machine to a serving node: one command.
    assert len(typed["billing-1"]) == 1
    for name in ("orders-1", "billing-1"):
        files = {path.name for path in (machines[name].home / "certs").iterdir()}
        assert {"ca-cert.pem", f"{name}-cert.pem", f"{name}-key.pem"} <= files
        assert "ca-key.pem" not in files
        assert not any(file.startswith("ca-1") for file in files)
