from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest


def test_a_pipe_gets_a_plain_table_of_all_nodes(aegis, quiet_mesh: str) -> None:
    done = aegis.run("mesh", "status", "--node", quiet_mesh, "--wide")
    assert (done.returncode, done.stderr) == (0, "")
    head, source, _, header, first, second = done.stdout.splitlines()
    assert head == "2 nodes: 2 alive"
    assert source.startswith("seed says so, ")
    assert header.split() == [
        *("ID", "SERVICES", "STATUS", "HEALTH", "WHERE", "CERT", "NAME", "TYPE", "ADDRESS")
    ]
    assert {"orders-1", "orders/v1", "alive", "healthy", "89d", "generic"} <= set(first.split())
    assert second.split()[-2:] == ["gateway", quiet_mesh]
    assert "\x1b" not in done.stdout


def test_nodes_that_ended_or_hang_are_named_within_a_timeout(aegis) -> None:
    _, address = aegis.node("seed")
    other, _ = aegis.node("orders-1", "--join", address)
    hung, _ = aegis.node("orders-2", "--join", address)
    hung.stderr.until("orders-1 is here")
    hung.signal(signal.SIGSTOP)
    other.signal(signal.SIGKILL)
    other.wait()
    document = json.loads(aegis.invoke("mesh", "nodes", "--json", "--node", address).stdout)
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


def test_an_unknown_id_is_an_error_that_names_similar_ones(aegis, quiet_mesh: str) -> None:
    for name in ("why", "ping"):
        done = aegis.invoke("mesh", name, "order-1", "--node", quiet_mesh)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no node order-1; did you mean orders-1? `aegis mesh status` lists" in done.stderr


def test_a_filter_that_can_match_nothing_is_no_success(aegis, quiet_mesh: str) -> None:
    at = ("--node", quiet_mesh, "--check", "--service")
    for name in ("status", "services"):
        assert aegis.invoke("mesh", name, *at, "orders/v1").returncode == 0
        done = aegis.invoke("mesh", name, *at, "order/v1")
        assert (done.returncode, "no node provides order/v1\n" in done.stdout) == (8, True)
    done = aegis.invoke("mesh", "status", "--node", quiet_mesh, "--status", "dead")
    assert (done.returncode, "'dead' is not one of 'alive'" in done.stderr) == (2, True)


def test_no_events_are_said_to_be_none(aegis, quiet_mesh: str) -> None:
    done = aegis.invoke("mesh", "events", "--node", quiet_mesh, "--since", "0s")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("seed saw nothing change since ")


def test_another_node_at_the_address_of_the_named_one_is_not_asked(aegis, quiet_mesh: str) -> None:
    done = aegis.invoke("mesh", "status", "--node", f"orders-1@{quiet_mesh}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {quiet_mesh}: seed answers there, not orders-1\n"


def test_events_end_when_nobody_reads_them_any_more(aegis, quiet_mesh: str) -> None:
    line = f"{sys.executable} -m aegis_cli mesh events --node {quiet_mesh} --follow | head -n 1"
    done = aegis.shell(line)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")


def test_an_identity_of_another_ca_is_refused_with_a_reason(
    aegis, quiet_mesh: str, tmp_path
) -> None:
    foreign = tmp_path / "foreign"
    done = aegis.invoke("certs", "init", "--dir", str(foreign), "--key-type", "p256")
    assert done.returncode == 0
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


@pytest.mark.parametrize(("options", "code"), [((), 130), (("--watch",), 0)])
def test_ctrl_c_ends_a_look_at_a_node_that_does_not_answer_at_once(
    aegis, options: tuple[str, ...], code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:
        hung.settimeout(30)
        address = f"127.0.0.1:{hung.getsockname()[1]}"
        looking = aegis.start("mesh", "status", "--node", address, *options)
        with hung.accept()[0]:
            began = time.monotonic()
            looking.signal(signal.SIGINT)
            assert (looking.wait(), looking.stderr.rest()) == (code, "")
            assert time.monotonic() - began < 3, "not when it would have given up, after 5 s"


@pytest.mark.parametrize("plain", [False, True])
def test_a_terminal_gets_colour_unless_no_color_is_set(aegis, quiet_mesh: str, plain: bool) -> None:
    shown = on_a_terminal(aegis, {"NO_COLOR": "1"} if plain else {}, "--node", quiet_mesh)
    assert ("\x1b[32m" in shown) is not plain
    assert all(len(line) <= 80 for line in re.sub("\x1b\\[[0-9;]*m", "", shown).split("\r\n"))


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


def test_json_has_the_answers_of_the_nodes(aegis, quiet_mesh: str) -> None:
    aegis.environment |= {"AEGIS_NODE": quiet_mesh, "AEGIS_IDENTITY": "ops"}
    document = json.loads(aegis.invoke("mesh", "nodes", "--json").stdout)
    nodes = {node["id"]: node for node in document["nodes"]}
    for node_id, node in nodes.items():
        assert node["answer"]["health"] == "healthy"
        assert 0 < node["answer"]["round_trip_ms"] < 3000
        stats = node["stats"]
        assert stats["node_id"] == node_id
        assert stats["calls"]["running"] == stats["calls"]["denied"] == 0
        assert (stats["feeds"]["watched"], stats["topology_nodes"]) == (1, 2)
        assert stats["certificate_not_after"] == node["certificate"]["not_after"]
    (service,) = nodes["orders-1"]["services"]
    assert (service["name"], service["version"]) == ("orders", "v1")
    assert nodes["seed"]["address"] == quiet_mesh


def test_workers_of_one_identity_are_one_line_unless_each_is_asked_for(aegis) -> None:
    seed, address = aegis.node("seed")
    for number in (0, 10, 2):
        aegis.node(
            f"orders-1#{number}", "--join", address, "--service", "orders/v1", "orders:register"
        )
        seed.stderr.until(f"orders-1#{number} joined")
    folded = aegis.invoke("mesh", "status", "--node", address).stdout
    line = next(line for line in folded.splitlines() if line.startswith("orders-1 ("))
    assert line.startswith("orders-1 (3 workers)")
    assert {"orders/v1", "alive", "healthy"} <= set(line.split())
    assert "4 nodes: 4 alive" in folded
    assert "Workers are shown together; --workers shows each of them." in folded
    each = aegis.invoke("mesh", "status", "--node", f"seed@{address}", "--workers").stdout
    ids = [line.split()[0] for line in each.splitlines()[4:8]]
    assert ids == ["orders-1#0", "orders-1#2", "orders-1#10", "seed"]
    assert "together" not in each


def test_the_doctor_examines_directory_identity_and_every_node(aegis, quiet_mesh: str) -> None:
    done = aegis.invoke("doctor", "--node", quiet_mesh, "--identity", "ops", "--json", "--check")
    found = {(one["topic"], one["level"]) for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0, done
    assert found >= {
        (topic, "ok")
        for topic in ("identity", "reachability", "clock", "addresses", "trust bundle", "versions")
    }


def test_the_doctor_reports_a_mesh_that_cannot_be_read(aegis, tmp_path) -> None:
    nowhere = str(tmp_path / "none")
    done = aegis.invoke("doctor", "--node", "127.0.0.1:1", "--cert-dir", nowhere, "--check")
    assert (done.returncode, done.stderr) == (8, "")
    assert "problem  directory" in done.stdout
    assert "problem  identity" in done.stdout


def test_the_doctor_reports_a_broken_ca_file_once(aegis, tmp_path) -> None:
    (tmp_path / "certs").mkdir(mode=0o700)
    (tmp_path / "certs" / "ca-cert.pem").write_text("garbage")
    directory = str(tmp_path / "certs")
    done = aegis.invoke("doctor", "--node", "127.0.0.1:1", "--cert-dir", directory, "--json")
    found = [(one["topic"], one["level"]) for one in json.loads(done.stdout)["findings"]]
    assert found == [("CA", "problem"), ("mesh", "skipped")]
