from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

AS_IT_IS = ("-m", "aegis_cli")
# The same with keys that are made fast.
QUICK_CODE = """
from functools import partial
from aegis_certs import KeyType
from aegis_cli import main
from aegis_cli.demo import _steps
_steps.run_demo = partial(_steps.run_demo, keys=(KeyType.P256, KeyType.P256))
main()
"""
QUICK = ("-c", QUICK_CODE)


@pytest.fixture
def demo(aegis, eventually):
    """Starts the demo, and checks afterwards that it left nothing behind."""
    mark = uuid.uuid4().hex
    aegis.environment["AEGIS_DEMO_MARK"] = mark
    before = list(aegis.directory.iterdir())
    yield lambda *options, program=QUICK: aegis.start("demo", *options, program=program)
    eventually(lambda: not processes_with(mark), "no process of the demo is left")
    assert list(aegis.directory.iterdir()) == before


def processes_with(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it has ended, or belongs to another user
    return found


def test_it_shows_what_it_promises(demo) -> None:
    process = demo("--json", program=AS_IT_IS)
    assert process.wait() == 0
    printed = json.loads(process.stdout.rest())
    assert [node["id"] for node in printed["nodes"]] == ["front", "greeter-1", "greeter-2"]
    assert {node["status"] for node in printed["mesh"]["nodes"]} == {"alive"}
    assert all(node["health"] == "healthy" for node in printed["mesh"]["nodes"])
    for calls, caller in zip(printed["calls"], ("front", "client"), strict=True):
        assert (calls["caller"], calls["calls"], calls["failed"]) == (caller, 200, 0)
        assert min(calls["by_provider"].values()) >= 80
        assert calls["providers_say_caller_is"] == [caller]
    assert [calls["loaded_aegis_core"] for calls in printed["calls"]] == [True, False]
    killed = printed["kill"]
    assert killed["victim"]["id"] == "greeter-2"
    assert [calls["failed"] for calls in killed["calls"]] == [0, 0]
    statuses = {node["id"]: node["status"] for node in killed["mesh"]["nodes"]}
    assert statuses == {"front": "alive", "greeter-1": "alive", "greeter-2": "failed"}


def test_a_kept_mesh_shows_its_status_until_ctrl_c(demo, aegis) -> None:
    process = demo("--keep")
    command = shlex.split(process.stdout.until("mesh status --node"))
    shown = aegis.run(*command[command.index("mesh") :])
    assert shown.returncode == 0, shown.stderr
    assert "3 nodes: 1 failed, 2 alive" in shown.stdout
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert "nothing is left behind" in process.stdout.rest()
    assert "Traceback" not in process.stderr.rest()


async def test_the_facts_are_those_that_all_processes_see() -> None:
    """The demo's own feed may be behind those of its processes."""
    from aegis_cli._mesh.reader import Reader
    from aegis_cli._view.model import Seen, View
    from aegis_cli.demo._steps import _facts
    from aegis_discovery import NodeInfo, NodeStatus

    class Behind(Reader):
        def __init__(self) -> None:
            self.statuses = iter((NodeStatus.ALIVE, NodeStatus.SUSPECTED, NodeStatus.FAILED))

        async def read(self, **_: object) -> View:
            victim = Seen(NodeInfo("greeter-2", status=next(self.statuses)))
            return View(datetime.now(UTC), "front", 1, "", datetime.now(UTC), (victim,))

    shown = await _facts(Behind(), {"greeter-2": "failed"})
    assert [node.info.status for node in shown.nodes] == ["failed"]


def test_the_status_command_fits_how_the_demo_was_run(monkeypatch, tmp_path) -> None:
    from aegis_cli.demo._steps import _status_command

    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    (tmp_path / "aegis").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = "mesh status --node 127.0.0.1:5 --cert-dir '/a b'"
    with_path = _status_command("127.0.0.1:5", Path("/a b"))
    assert with_path == f"aegis {arguments}"
    monkeypatch.setenv("PATH", os.devnull)
    without_path = _status_command("127.0.0.1:5", Path("/a b"))
    assert without_path == f"{sys.executable} -m aegis_cli {arguments}"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert _status_command("127.0.0.1:5", Path("/a b")) == f"uv run aegis {arguments}"


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGKILL, "Creating a CA"),
        (signal.SIGTERM, "the CA"),
        (signal.SIGINT, "Starting three"),
        (signal.SIGKILL, "Starting three"),
        (signal.SIGKILL, "Killing"),
    ],
)
def test_nothing_remains_on_the_machine_however_the_demo_ends(
    demo, number: signal.Signals, moment: str
) -> None:
    process = demo("--json")
    process.stderr.until(moment)
    process.signal(number)
    code = process.wait()
    assert code == (130 if number is signal.SIGINT else -number)
    assert process.stdout.rest() == ""
    assert "Traceback" not in process.stderr.rest()
