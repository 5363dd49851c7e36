"""Programs that fork get a clear error for objects from before the fork, and can start new ones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .process import PATIENCE, NodeProcess, Process

HERE = Path(__file__).parent
POLLING = ("(_serve)", "(_poll_wrapper)")
"""How the names end of the threads in which gRPC polls: a server's, and that of asyncio."""


def test_objects_from_before_a_fork_raise_in_the_child_and_still_work_in_the_parent(
    identity: Callable[[str], Any], cert_dir: Path, tmp_path: Path
) -> None:
    for node_id in "abc":
        identity(node_id)
    log = tmp_path / "fork.log"
    process = Process("fork_process.py", {"cert_dir": str(cert_dir)}, log)
    try:
        stacks = process.wait(lambda message: "stacks" in message)["stacks"]
        # Threads that gRPC starts in the child must not get the stacks of those that polled.
        polling = {stacks.pop(name) for name in [*stacks] if name.endswith(POLLING)}
        assert len(polling) == bool(stacks), "both have the same size"
        assert not polling & set(stacks.values())
        child = process.wait(lambda message: "child" in message)["child"]
        quiet = {"node.stop", "mesh.close", "pool.close"}
        assert {name for name, outcome in child.items() if outcome == "fine"} == quiet
        assert child.pop("later.topology") == "NodeStateError: node b was not started"
        for name in child.keys() - quiet:
            assert re.fullmatch(
                r"ForkedError: the (node a|mesh|pool) was started before this process was forked, "
                r"and does not survive that; start it after the fork, in each worker",
                child[name],
            ), (name, child[name])
        parent = process.wait(lambda message: "parent" in message)["parent"]
        assert set(parent.values()) == {"fine"}, parent
        assert process.wait_exit() == 0
    finally:
        process.kill()


class Gunicorn:
    """A real gunicorn server with two workers."""

    def __init__(self, **options: str) -> None:
        command = [
            *(sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", "127.0.0.1:0"),
            *("--graceful-timeout", "5", "--timeout", "20", "--config", "gunicorn_app.py"),
            "gunicorn_app:app",
        ]
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MESH_OPTIONS": json.dumps(options), "PYTHONUNBUFFERED": "1"},
        )
        self.log: list[str] = []
        self.url = self._until(r"Listening at: (\S+)")
        for _ in range(2):
            self._until(r"Booting worker with pid: (\d+)")

    def _until(self, pattern: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(pattern, line):
                return found[1]
        pytest.fail(f"no {pattern!r} in {self.log}")

    def get(self) -> tuple[int, str, str]:
        try:
            with urllib.request.urlopen(self.url, timeout=PATIENCE) as response:  # noqa: S310 - a loopback address
                return response.status, response.read().decode(), response.headers["X-Worker"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers["X-Worker"]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        self.log += self.process.stderr
        self.process.stderr.close()
        return self.process.wait(PATIENCE)


@pytest.fixture
def gunicorn(
    spawn: Callable[..., NodeProcess], identity: Callable[[str], Any], cert_dir: Path
) -> Iterator[Callable[[str], Gunicorn]]:
    identity("web")
    started: list[Gunicorn] = []

    def start(when: str) -> Gunicorn:
        server = Gunicorn(start=when, seed=spawn("a").address, cert_dir=str(cert_dir))
        started.append(server)
        return server

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("when", ["post_fork", "lazily"])
def test_workers_of_gunicorn_that_connect_after_the_fork_call_the_mesh(
    gunicorn: Callable[[str], Gunicorn], when: str
) -> None:
    server = gunicorn(when)
    answers = [server.get() for _ in range(20)]
    assert {(status, body) for status, body, _ in answers} == {(200, "a web")}
    assert server.stop() == 0, server.log


def test_using_the_mesh_of_the_gunicorn_master_in_a_worker_is_a_clear_error(
    gunicorn: Callable[[str], Gunicorn],
) -> None:
    server = gunicorn("import")
    for _ in range(4):
        status, body, _ = server.get()
        assert status == 500
        assert body.startswith("the mesh was started before this process was forked")
    assert server.stop() == 0, server.log
