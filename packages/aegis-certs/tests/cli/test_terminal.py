"""What the commands show on terminals, and in pipes."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    KeyType,
    list_certificates,
)
from aegis_certs._store.directory import Store
from click.testing import Result

COMMAND = Path(sysconfig.get_path("scripts")) / "aegis-certs"
DAY = dt.timedelta(days=1)
EC = ("--key-type", "p256")


@pytest.fixture
def varied(directory: Path) -> Path:
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, days=36_500)
    ca.issue("orders-1", hosts=["orders.acme.example", "10.0.0.7"], key_type=KeyType.P256)
    ca.issue("a-rather-long-node-id.region-1.acme.example", key_type=KeyType.P256)
    other = CertificateAuthority.create(directory / "other", key_type=KeyType.P256)
    stranger = other.issue_in_memory("stranger")
    (directory / "stranger-cert.pem").write_bytes(stranger.certificate_chain)
    (directory / "broken-cert.pem").write_text("junk")
    return directory


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table_fits_the_width_and_loses_nothing(
    run: Callable[..., Result], varied: Path, columns: str
) -> None:
    table = run("list", COLUMNS=columns).stdout.split("stranger: ")[0].split("broken: ")[0]
    assert max(map(len, table.splitlines())) <= int(columns)
    for word in ("orders-1", "10.0.0.7", "valid", "untrusted", "unreadable", "p256"):
        assert word in table
    squeezed = re.sub(r"\s+", "", table)
    assert "…" not in re.sub(r"[0-9a-f]{8}…", "", squeezed)


def test_a_pipe_gets_whole_lines_without_colours(varied: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    listed = subprocess.run(
        [COMMAND, "list", "--dir", varied], capture_output=True, text=True, env=environment
    )
    assert listed.returncode == 0
    assert "\x1b" not in listed.stdout
    entries = list_certificates(varied)
    header, *lines = listed.stdout.splitlines()[: 1 + len(entries)]
    assert header.split()[:4] == ["ID", "SERIAL", "KEY", "SANS"]
    assert [line.split()[0] for line in lines] == [entry.id for entry in entries]
    name = "a-rather-long-node-id.region-1.acme.example"
    (found,) = (line.split() for line in lines if line.startswith(name))
    assert found[2:4] == ["p256", f"{name},spiffe://aegis.internal/node/{name}"]
    assert found[6:] == ["89", "valid"]


def test_problems_are_listed_below_the_table(varied: Path, run: Callable[..., Result]) -> None:
    output = run("list").stdout
    assert re.search(r"stranger: the certificate of stranger is not trusted", output)
    assert re.search(r"broken: .*broken-cert\.pem cannot be used", output)
    states = {entry.id: str(entry.state) for entry in list_certificates(varied)}
    assert states["broken"] == "unreadable"
    assert states["stranger"] == "untrusted"


def test_every_state_by_dates_is_listed(directory: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=now - 9 * DAY)
    for node_id, days, age in [("a", 90, 1), ("b", 9, 8), ("c", 2, 8), ("d", 9, -1)]:
        ca.issue(node_id, key_type=KeyType.P256, days=days, at=now - age * DAY)
    states = {entry.id: str(entry.state) for entry in list_certificates(directory)}
    expected = {"ca": "valid", "a": "valid", "b": "expiring", "c": "expired"}
    assert states == {**expected, "d": "not yet valid"}


def test_an_empty_directory_has_no_certificates_to_list(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    assert "no certificate" in run("list", "--dir", str(tmp_path)).stdout


def test_a_closed_pipe_causes_no_traceback(varied: Path) -> None:
    line = f"{COMMAND} list --dir {varied} | true"
    closed = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert "Traceback" not in closed.stderr


def test_a_terminal_shows_progress_and_then_the_result(
    terminal: Callable[..., Any], directory: Path
) -> None:
    started = terminal("init", "--dir", str(directory), *EC)
    output, code = started.end()
    assert code == 0
    assert "Making a p256 key" in output
    assert "Made a CA" in output
    assert "\x1b[?25h" in output  # the cursor is back


def test_a_warning_is_not_written_on_the_line_of_the_progress(
    terminal: Callable[..., Any], tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    output, code = terminal("init", "--dir", str(tmp_path), *EC).end()
    assert code == 0
    assert "\x1b[2K\x1b[?25hWarning: all users can read" in output


def test_ctrl_c_ends_at_once_with_130_and_leaves_no_broken_file(
    terminal: Callable[..., Any], directory: Path
) -> None:
    with Store(directory).locked():  # so that the command waits until it is interrupted
        started = terminal("init", "--dir", str(directory))
        started.read_until(lambda output: "Making a rsa-4096 key" in output)
        os.kill(started.pid, signal.SIGINT)
        output, code = started.end()
    assert code == 130
    assert "Traceback" not in output
    assert "\x1b[?25h" in output  # the cursor is back
    assert {path.name for path in directory.iterdir()} == {".lock"}


def test_ctrl_c_while_the_command_loads_shows_no_traceback() -> None:
    code = (
        "import signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'click': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from aegis_certs._main import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_days_left_are_a_bar_in_the_colour_of_the_state(
    terminal: Callable[..., Any], directory: Path
) -> None:
    past = dt.datetime.now(dt.UTC) - 80 * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    for node_id, days in (("late", 100), ("over", 10), ("fresh", 285)):
        ca.issue(node_id, key_type=KeyType.P256, days=days, at=past)
    ca.issue_in_memory("brief", days=1 / 24)
    listed, _ = terminal("list", "--all", "--dir", str(directory)).end()
    bars = {
        line.split()[0]: re.search(r"\x1b\[(\d+)m(█*)\x1b\[\d*;?\d*m?(░*)", line)
        for line in listed.splitlines()
        if "…" in line
    }
    found = {name: (bar[1], len(bar[2])) for name, bar in bars.items() if bar}
    green, yellow = "32", "33"
    assert {name: found[name] for name in ("brief", "fresh", "late")} == {
        "brief": (green, 5),
        "fresh": (green, 4),
        "late": (yellow, 1),
    }
    assert re.search(r"over .*░░░░░.* -7\d .*expired", listed)


def test_a_terminal_has_colours_unless_no_color_is_set(
    terminal: Callable[..., Any], varied: Path
) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    plain, _ = terminal("list", "--dir", str(varied), NO_COLOR="1").end()
    coloured, _ = terminal("list", "--dir", str(varied)).end()
    assert not colour.search(plain)
    assert colour.search(coloured)


def test_renew_watch_runs_until_it_is_interrupted(
    terminal: Callable[..., Any], directory: Path
) -> None:
    past = dt.datetime.now(dt.UTC) - 70 * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    ca.issue("due", key_type=KeyType.P256, at=past)
    started = terminal("renew", "--watch", "--dir", str(directory))
    started.read_until(lambda output: "Renewed due" in output)
    os.kill(started.pid, signal.SIGINT)
    output, code = started.end()
    assert code == 130
    assert "until Ctrl-C" in " ".join(output.split())
    assert "Traceback" not in output


def test_renew_watch_ends_with_sigterm_too(terminal: Callable[..., Any], directory: Path) -> None:
    CertificateAuthority.create(directory, key_type=KeyType.P256)
    started = terminal("renew", "--watch", "--dir", str(directory))
    started.read_until(lambda output: "until Ctrl-C" in " ".join(output.split()))
    os.kill(started.pid, signal.SIGTERM)
    output, code = started.end()
    assert code == -signal.SIGTERM
    assert "Traceback" not in output


def test_ctrl_c_at_a_prompt_ends_with_130(terminal: Callable[..., Any], directory: Path) -> None:
    CertificateAuthority.create(directory, key_type=KeyType.P256, passphrase="geheim")
    started = terminal("issue", "n1", "--dir", str(directory))
    started.read_until(lambda output: "the CA's key: " in output)
    os.kill(started.pid, signal.SIGINT)
    assert started.end()[1] == 130


def test_an_error_on_a_terminal_is_wrapped_between_words(
    terminal: Callable[..., Any], directory: Path
) -> None:
    output, code = terminal("list", "--dir", f"{directory}/a", COLUMNS="40").end()
    assert code == 7
    assert " ".join(output.split()) == (
        f"Error: there is no certificate directory at {directory}/a; make a CA with "
        f"`aegis-certs init`, or name the directory that has one"
    )
    lines = output.splitlines()
    assert all(len(line) <= 40 or " " not in line for line in lines)


def test_a_new_passphrase_is_asked_for_twice(terminal: Callable[..., Any], directory: Path) -> None:
    started = terminal("init", *EC, "--passphrase", "--dir", str(directory))
    started.read_until(lambda output: "the CA's key: " in output)
    os.write(started.fd, b"geheim\n")
    started.read_until(lambda output: "confirmation: " in output)
    os.write(started.fd, b"geheim\n")
    assert started.end()[1] == 0
    assert CertificateAuthority.load(directory, passphrase="geheim")
