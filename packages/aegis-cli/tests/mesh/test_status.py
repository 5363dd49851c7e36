from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import pytest


def test_a_pipe_gets_a_plain_table_of_all_nodes(aegis, quiet_mesh: str) -> None:
    done = aegis.run("mesh", "status", "--node", quiet_mesh)
    assert (done.returncode, done.stderr) == (0, "")
    header, first, second, *rest = done.stdout.splitlines()
    assert header.split() == [
        *("ID", "NAME", "TYPE", "ADDRESS", "SERVICES", "STATUS", "HEALTH"),
        *("ROUND", "TRIP", "CERT", "DAYS"),
    ]
    assert first.split()[:3] == ["orders-1", "orders-1", "generic"]
    assert {"orders/v1", "alive", "healthy", "ms", "89"} <= set(first.split())
    assert second.split()[:4] == ["seed", "seed", "gateway", quiet_mesh]
    assert "nodes    2 (2 alive)" in rest
    assert "\x1b" not in done.stdout


def test_json_has_the_answers_of_the_nodes(aegis, quiet_mesh: str) -> None:
    aegis.environment |= {"AEGIS_NODE": quiet_mesh, "AEGIS_IDENTITY": "ops"}
    document = json.loads(aegis.run("mesh", "status", "--json").stdout)
    first, second = document["nodes"]
    assert (first["id"], second["address"]) == ("orders-1", quiet_mesh)
    assert first["services"] == [{"name": "orders", "version": "v1"}]
    assert first["health"]["status"] == "healthy"
    assert 0 < first["round_trip_ms"] < 3000
    assert first["certificate"]["days_left"] == 89
    assert len(document["digest"]) == 64


def test_nodes_that_ended_or_hang_are_shown_so_within_a_timeout(aegis) -> None:
    _, address = aegis.node("seed")
    other, _ = aegis.node("orders-1", "--join", address)
    hung, _ = aegis.node("orders-2", "--join", address)
    hung.stderr.until("orders-1 is here")
    hung.signal(signal.SIGSTOP)
    other.signal(signal.SIGKILL)
    other.wait()
    document = json.loads(aegis.run("mesh", "status", "--json", "--node", address).stdout)
    problems = {node["id"]: node["problem"] for node in document["nodes"]}
    assert problems == {
        "orders-1": "it refused the connection; is a node listening there?",
        "orders-2": "no answer within 3 s",
        "seed": None,
    }


def test_an_unreachable_node_is_one_sentence(aegis) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = "{}:{}".format(*closed.getsockname())
    done = aegis.run("mesh", "status", "--node", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {address} refused the connection; is a node listening there?\n"


def test_another_node_at_the_address_of_the_named_one_is_not_asked(aegis, quiet_mesh: str) -> None:
    done = aegis.run("mesh", "status", "--node", f"orders-1@{quiet_mesh}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {quiet_mesh}: seed answers there, not orders-1\n"


def test_an_identity_of_another_ca_is_refused_with_a_reason(
    aegis, quiet_mesh: str, tmp_path
) -> None:
    foreign = tmp_path / "foreign"
    assert aegis.run("certs", "init", "--dir", str(foreign), "--key-type", "p256").returncode == 0
    done = aegis.run("mesh", "status", "--node", quiet_mesh, "--cert-dir", str(foreign))
    assert done.returncode == 1
    assert "certificate is not trusted" in done.stderr


def test_watch_runs_until_it_is_interrupted(aegis) -> None:
    _, address = aegis.node("seed")
    other, _ = aegis.node("orders-1", "--join", address)
    watch = aegis.start("mesh", "status", "--node", address, "--watch", "--json")
    assert len(json.loads(watch.stdout.until("orders-1"))["nodes"]) == 2
    other.signal(signal.SIGTERM)
    while len(json.loads(watch.stdout.until("{"))["nodes"]) == 2:
        pass
    watch.signal(signal.SIGINT)
    assert watch.wait() == 0
    assert watch.stderr.rest() == ""


@pytest.mark.parametrize("plain", [False, True])
def test_a_terminal_gets_colour_unless_no_color_is_set(aegis, quiet_mesh: str, plain: bool) -> None:
    shown = on_a_terminal(aegis, {"NO_COLOR": "1"} if plain else {}, "--node", quiet_mesh)
    assert ("\x1b[32m" in shown) is not plain
    assert "A wider terminal also shows: name." in shown


def on_a_terminal(aegis, environment: dict[str, str], *options: str) -> str:
    """What `aegis mesh status` shows on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [sys.executable, "-m", "aegis_cli", "mesh", "status", *options],
            env=aegis.environment | {"TERM": "xterm"} | environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux raises EIO if the other end is closed
            while data := screen.read(4096):
                shown += data
        assert process.wait(30) == 0
    return shown.decode()


def test_json_has_the_counters_of_each_node(aegis, quiet_mesh: str) -> None:
    done = aegis.run("mesh", "status", "--node", quiet_mesh, "--json")
    nodes = {node["id"]: node for node in json.loads(done.stdout)["nodes"]}
    for node_id, other in (("seed", "orders-1"), ("orders-1", "seed")):
        stats = nodes[node_id]["stats"]
        assert stats["node_id"] == node_id
        assert stats["calls"]["running"] == stats["calls"]["denied"] == 0
        assert stats["feeds"]["watched"] == 1, other
        assert stats["topology_nodes"] == 2
        assert stats["certificate_not_after"] == nodes[node_id]["certificate"]["not_after"]
        assert stats["pool"] == {"services": []}


def test_workers_of_one_identity_are_one_line_unless_each_is_asked_for(aegis) -> None:
    seed, address = aegis.node("seed")
    for number in (0, 10, 2):
        aegis.node(
            f"orders-1#{number}", "--join", address, "--service", "orders/v1", "orders:register"
        )
        seed.stderr.until(f"orders-1#{number} joined")
    folded = aegis.run("mesh", "status", "--node", address).stdout
    line = next(line for line in folded.splitlines() if line.startswith("orders-1"))
    assert line.startswith("orders-1 (3 workers)")
    assert {"+2", "orders/v1", "alive", "healthy"} <= set(line.split())
    assert "nodes    4 (4 alive)" in folded
    assert "Workers are shown together; --workers shows each of them." in folded
    each = aegis.run("mesh", "status", "--node", f"seed@{address}", "--workers").stdout
    ids = [line.split()[0] for line in each.splitlines()[1:5]]
    assert ids == ["orders-1#0", "orders-1#2", "orders-1#10", "seed"]
    assert "together" not in each
