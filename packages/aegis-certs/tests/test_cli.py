from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import click
import pytest
from aegis_certs import (
    CertificateAuthority,
    CertificateSource,
    KeyType,
    TLSOptions,
    list_certificates,
    load_tls,
)
from aegis_certs._store import Store
from aegis_certs.cli import CommandGroup, certs, certs_exit_codes
from click.testing import CliRunner, Result

COMMAND = Path(sysconfig.get_path("scripts")) / "aegis-certs"
DAY = dt.timedelta(days=1)
EC = ("--key-type", "p256")
# Before click 8.2 the two streams had to be kept apart on purpose.
APART = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}


@pytest.fixture
def run(directory: Path) -> Callable[..., Result]:
    def run(*arguments: str, **environment: str) -> Result:
        settings = {"AEGIS_CERT_DIR": str(directory), "COLUMNS": None} | environment
        return CliRunner(env=settings, **APART).invoke(certs, arguments, prog_name="aegis-certs")

    return run


def test_init_issue_and_list_are_all_it_takes(run: Callable[..., Result], directory: Path) -> None:
    made = run("init", *EC, "--name", "Acme CA", "--trust-domain", "acme.example", "--days", "30")
    assert made.exit_code == 0
    assert "Acme CA" in made.stdout
    assert "aegis-certs issue NODE-ID" in made.stdout
    issued = run("issue", "orders-1", *EC, "--host", "10.0.0.7", "--host", "api.acme.example")
    assert issued.exit_code == 0
    assert "spiffe://acme.example/node/orders-1" in issued.stdout
    assert "api.acme.example, 10.0.0.7" in issued.stdout
    listed = run("list")
    assert listed.exit_code == 0
    assert re.search(r"orders-1 .* p256 .* valid", listed.stdout)
    assert CertificateAuthority.load(directory).name == "Acme CA"
    assert made.stderr + issued.stderr + listed.stderr == ""


def test_json_has_the_same_facts(run: Callable[..., Result], directory: Path) -> None:
    made = json.loads(run("init", *EC, "--json").stdout)
    assert made["trust_domain"] == "aegis.internal"
    assert made["certificate"] == str(directory / "ca-cert.pem")
    issued = json.loads(run("issue", "orders-1", *EC, "--client-only", "--json").stdout)
    assert issued["id"] == "orders-1"
    listed = json.loads(run("list", "--json").stdout)["certificates"]
    assert [entry["id"] for entry in listed] == ["ca", "orders-1"]
    leaf = listed[1]
    assert leaf["serial"] == issued["serial"]
    assert leaf["not_after"] == issued["not_after"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", leaf["not_before"])
    assert leaf["sans"] == ["orders-1", "spiffe://aegis.internal/node/orders-1"]
    assert (leaf["key"], leaf["days_left"], leaf["state"]) == ("p256", 89, "valid")


def test_a_life_that_the_ca_cuts_short_is_noted(run: Callable[..., Result]) -> None:
    run("init", *EC, "--days", "30")
    cut = run("issue", "n1", *EC, "--days", "3650")
    assert cut.exit_code == 0
    assert re.fullmatch(r"Note: it ends with its CA, at .* not after 3650 days\.\n", cut.stderr)
    assert run("issue", "n1", *EC, "--days", "20").stderr == ""


def test_every_option_has_an_environment_variable(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    def options(command: click.Command) -> list[click.Option]:
        own = [param for param in command.params if isinstance(param, click.Option)]
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        return own + [option for sub in inner for option in options(sub)]

    without = {o.name for o in options(certs) if not o.envvar}
    # One confirms a step, or replaces a file, and not all that come.
    assert without == {"version", "confirm", "force"}
    elsewhere = str(tmp_path / "elsewhere")
    ca = {"AEGIS_CA_KEY_TYPE": "p384", "AEGIS_CA_NAME": "Env CA", "AEGIS_JSON": "1"}
    assert json.loads(run("init", AEGIS_CERT_DIR=elsewhere, **ca).stdout)["name"] == "Env CA"
    leaf = {"AEGIS_CERT_KEY_TYPE": "p256", "AEGIS_CERT_HOSTS": "a.example 10.0.0.1"}
    issued = run("issue", "n", AEGIS_CERT_DIR=elsewhere, AEGIS_JSON="1", **leaf)
    assert json.loads(issued.stdout)["hosts"] == ["a.example", "10.0.0.1"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["list", "--dir", "nowhere"], 7, "nowhere"),
        (["issue", "n", "--dir", "nowhere"], 7, "aegis-certs init"),
        (["issue", "../x"], 2, "cannot be a node id"),
        (["issue", "n", "--host", "*.x"], 2, "wildcard"),
        (["issue", "n", "--days", "0"], 2, "days"),
        (["issue", "n", "--client-only", "--server-only"], 2, "excludes"),
        (["issue", "n", "--key-type", "ed25519"], 2, "not one of"),
        (["issue"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["init"], 1, "already a CA"),
        (["init", "--dir", "/dev/null/x"], 1, "/dev/null/x"),
    ],
)
def test_an_error_is_one_sentence_on_stderr_with_a_stable_code(
    run: Callable[..., Result],
    ca: CertificateAuthority,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert result.stdout == ""
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert says in error
    assert "Traceback" not in result.stderr


def test_a_ca_that_has_expired_ends_with_code_4(
    run: Callable[..., Result], directory: Path
) -> None:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=400)
    CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    assert run("issue", "n").exit_code == 4


def test_debug_shows_the_traceback_as_well(run: Callable[..., Result]) -> None:
    for result in (run("--debug", "issue", "n"), run("issue", "n", AEGIS_DEBUG="1")):
        assert result.exit_code == 7
        assert "Traceback" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("Error: there is no CA")


def test_another_command_mounts_the_group_and_shares_its_edge(directory: Path) -> None:
    class OtherError(Exception):
        pass

    @click.group(cls=CommandGroup, exit_codes=lambda: {**certs_exit_codes(), OtherError: 9})
    def aegis() -> None:
        """A bigger tool."""

    @aegis.command()
    @click.argument("what")
    def fail(what: str) -> None:
        if what == "interrupt":
            raise KeyboardInterrupt
        raise OtherError("two\nlines") if what == "known" else RuntimeError("a mistake of ours")

    aegis.add_command(certs)
    runner = CliRunner(env={"AEGIS_CERT_DIR": str(directory)}, **APART)

    def call(*arguments: str) -> Result:
        return runner.invoke(aegis, arguments, prog_name="aegis")

    assert "aegis certs issue NODE-ID" in call("certs", "init", *EC).stdout
    assert call("certs", "issue", "../x").exit_code == 2
    assert "Traceback" in call("--debug", "certs", "issue", "../x").stderr
    assert "Traceback" not in call("certs", "issue", "../x").stderr
    assert (call("fail", "known").exit_code, call("fail", "known").stderr) == (
        9,
        "Error: two lines\n",
    )
    unknown = call("fail", "unknown")
    assert unknown.exit_code == 1
    assert "RuntimeError: a mistake of ours" in unknown.stderr
    assert "AEGIS_DEBUG=1" in unknown.stderr
    assert call("fail", "interrupt").exit_code == 130


@pytest.fixture
def varied(directory: Path) -> Path:
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
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


def test_what_is_wrong_is_said_below_the_table(varied: Path, run: Callable[..., Result]) -> None:
    output = run("list").stdout
    assert re.search(r"stranger: the certificate of stranger is not trusted", output)
    assert re.search(r"broken: .*broken-cert\.pem cannot be used", output)
    states = {entry.id: str(entry.state) for entry in list_certificates(varied)}
    assert states["broken"] == "unreadable"
    assert states["stranger"] == "untrusted"


def test_every_state_by_dates_is_listed_as_such(directory: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=now - 9 * DAY)
    for node_id, days, age in [("a", 90, 1), ("b", 9, 8), ("c", 2, 8), ("d", 9, -1)]:
        ca.issue(node_id, key_type=KeyType.P256, days=days, at=now - age * DAY)
    states = {entry.id: str(entry.state) for entry in list_certificates(directory)}
    expected = {"ca": "valid", "a": "valid", "b": "expiring", "c": "expired"}
    assert states == {**expected, "d": "not yet valid"}


def test_an_empty_directory_has_nothing_to_list(run: Callable[..., Result], tmp_path: Path) -> None:
    assert "no certificate" in run("list", "--dir", str(tmp_path)).stdout


def test_a_closed_pipe_is_no_drama(varied: Path) -> None:
    line = f"{COMMAND} list --dir {varied} | true"
    closed = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert "Traceback" not in closed.stderr


class Terminal:
    """A command on a terminal of its own, read until something is seen.

    What is typed before a hidden prompt has shown its last blank is thrown away by the terminal.
    """

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.output = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            inherited = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
            settings = {**inherited, "COLUMNS": "80", "TERM": "xterm", **environment}
            command = ["aegis-certs", *arguments]
            os.execve(COMMAND, command, settings)  # noqa: S606 - in the child of a pty

    def read_until(self, seen: Callable[[str], bool], seconds: float = 30) -> str:
        deadline = time.monotonic() + seconds
        while not seen(self.output) and time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self.fd, 65536).decode()
                except OSError:  # the command has ended
                    break
        return self.output

    def end(self) -> tuple[str, int]:
        self.read_until(lambda _: False)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return self.output, os.waitstatus_to_exitcode(status)


def test_a_terminal_shows_progress_and_then_the_result(directory: Path) -> None:
    terminal = Terminal("init", "--dir", str(directory), *EC)
    output, code = terminal.end()
    assert code == 0
    assert "Making a p256 key" in output
    assert "Made a CA" in output
    assert "\x1b[?25h" in output  # the cursor is back


def test_ctrl_c_ends_at_once_with_130_and_leaves_no_broken_file(directory: Path) -> None:
    with Store(directory).locked():  # so that the command is at work for as long as it takes
        terminal = Terminal("init", "--dir", str(directory))
        terminal.read_until(lambda output: "Making a rsa-4096 key" in output)
        os.kill(terminal.pid, signal.SIGINT)
        output, code = terminal.end()
    assert code == 130
    assert "Traceback" not in output
    assert "\x1b[?25h" in output  # the cursor is back
    assert {path.name for path in directory.iterdir()} == {".lock"}


def test_ctrl_c_while_the_command_loads_is_as_quiet() -> None:
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


def test_the_days_that_are_left_are_a_bar_in_the_colour_of_the_state(directory: Path) -> None:
    past = dt.datetime.now(dt.UTC) - 80 * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    for node_id, days in (("late", 100), ("over", 10), ("fresh", 285)):
        ca.issue(node_id, key_type=KeyType.P256, days=days, at=past)
    ca.issue_in_memory("brief", days=1 / 24)
    listed, _ = Terminal("list", "--dir", str(directory)).end()
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


def test_colours_are_for_terminals_that_want_them(varied: Path) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    plain, _ = Terminal("list", "--dir", str(varied), NO_COLOR="1").end()
    coloured, _ = Terminal("list", "--dir", str(varied)).end()
    assert not colour.search(plain)
    assert colour.search(coloured)


@pytest.mark.parametrize("arguments", [["--help"], ["init", "--help"], ["--version"]])
def test_help_loads_nothing_slow(arguments: list[str]) -> None:
    code = (
        "import sys; from aegis_certs.cli import certs\n"
        f"certs({arguments}, standalone_mode=False)\n"
        "print([m for m in ('cryptography', 'rich', 'filelock', 'grpc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_shows_examples_and_exit_codes(run: Callable[..., Result]) -> None:
    for group in ((), ("rotate-ca",)):
        assert "..." not in run(*group, "--help").stdout.split("Commands:")[1]
    assert "7 not found" in " ".join(run("--help").stdout.split())
    for command in ("init", "issue", "list"):
        text = run(command, "--help").stdout
        assert f"  aegis-certs {command}" in text
        assert "AEGIS_CERT_DIR" in text


def test_the_version_is_that_of_the_wheel(run: Callable[..., Result]) -> None:
    assert run("--version").stdout == f"aegis-certs {version('aegis-certs')}\n"


# --- the lifecycle ---------------------------------------------------------------------------


@pytest.fixture
def acme(run: Callable[..., Result]) -> Callable[..., Result]:
    """The commands on a directory with a CA and two nodes."""
    for arguments in (
        ("init", *EC, "--name", "Acme"),
        ("issue", "orders-1", *EC),
        ("issue", "laptop", *EC, "--client-only", "--days", "7"),
    ):
        assert run(*arguments).exit_code == 0
    return run


def as_json(result: Result) -> Any:
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_a_request_travels_to_the_ca_and_back(
    acme: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    away, signed = tmp_path / "away", tmp_path / "signed.pem"
    away.mkdir()
    shutil.copy(directory / "ca-cert.pem", away)
    host = ("--host", "a.example")
    made = as_json(acme("csr", "n1", *EC, *host, "--dir", str(away), "--json"))
    request = made["request"]
    assert acme("sign", request, "--id", "n2").exit_code == 2
    answer = as_json(acme("sign", request, "--out", str(signed), "--json"))
    assert answer["dropped"] == ["DNS name a.example"]
    assert acme("sign", request, "--out", str(signed)).exit_code == 1
    again = acme("sign", request, "--out", str(signed), "--force")
    assert "DNS name a.example" in again.stdout
    assert (
        as_json(acme("install", str(signed), "--dir", str(away), "--json"))["trust_bundle"]
        == f"{away}/ca-cert.pem"
    )
    assert acme("verify", "n1", "--dir", str(away)).exit_code == 0


def test_what_to_do_next_is_told_with_the_directory_that_was_named(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    at = ("--dir", str(tmp_path / "my certs"))
    named = f"--dir '{tmp_path}/my certs'"
    for arguments, hint in {
        ("init", *EC): f"issue NODE-ID {named}",
        ("issue", "n1", *EC): f"list {named}",
        ("csr", "n2", *EC): f"install n2_signed.pem {named}",
        ("revoke", "n1"): f"list {named}",
        ("rotate-ca", "prepare"): f"activate --confirm {named}, once",
        ("rotate-ca", "activate"): f"rotate-ca retire {named}",
        ("rotate-ca", "retire"): f"rotate-ca prepare {named}",
    }.items():
        assert hint in run(*arguments, *at).stdout
    assert run("rotate-ca", "status", AEGIS_CERT_DIR=at[1]).stdout.endswith("rotate-ca prepare\n")


def test_verify_says_which_check_failed_and_ends_with_its_code(
    acme: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    assert acme("verify", "orders-1", "--usage", "server").exit_code == 0
    wrong = acme("verify", "laptop", "--usage", "server", "--name", "api.example")
    assert wrong.exit_code == 5
    lines = {line.split()[1]: line[0] for line in wrong.stdout.splitlines()}
    assert lines == {
        **dict.fromkeys(("dates", "chain", "key"), "✓"),
        **dict.fromkeys(("usage", "name"), "✗"),
        "revocation": "-",
    }
    other = CertificateAuthority.create(tmp_path / "o", key_type=KeyType.P256)
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(other.issue_in_memory("orders-1").certificate_chain)
    found = as_json_of_failure(acme("verify", str(stranger), "--json"), 5)
    assert [name for name, check in found["checks"].items() if check["ok"] is False] == ["chain"]
    shutil.copy(directory / "laptop-key.pem", directory / "orders-1-key.pem")
    told = acme("verify", "orders-1").stdout
    assert re.search(
        r"key in \S+/orders-1-key.pem does not belong .* in \S+/orders-1-cert.pem", told
    )
    assert acme("verify", "orders-1").exit_code == 5
    assert acme("verify", "nobody").exit_code == 7


def as_json_of_failure(result: Result, code: int) -> Any:
    assert result.exit_code == code
    return json.loads(result.stdout)


@pytest.mark.parametrize(("days", "age", "code"), [(90, 10, 0), (90, 70, 3), (90, 100, 4)])
def test_verify_and_doctor_tell_the_dates_by_their_codes(
    run: Callable[..., Result], directory: Path, days: int, age: int, code: int
) -> None:
    past = dt.datetime.now(dt.UTC) - age * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    ca.issue("n", key_type=KeyType.P256, days=days, at=past)
    assert run("verify", "n").exit_code == code
    doctor = run("doctor")
    assert doctor.exit_code == code
    marks = {line[0] for line in doctor.stdout.splitlines() if line.split()[1] == "expiry"}
    assert marks == {{0: "✓", 3: "!", 4: "✗"}[code], "✓"}
    assert ("of the rest, next is ca" in doctor.stdout) == (code != 0)


def test_a_revoked_node_is_listed_verified_and_diagnosed_as_such(
    acme: Callable[..., Result],
) -> None:
    found = as_json(acme("revoke", "orders-1", "--reason", "key-compromise", "--json"))
    assert found["reason"] == "key-compromise"
    states = {e["id"]: e["state"] for e in as_json(acme("list", "--json"))["certificates"]}
    assert states == {"ca": "valid", "laptop": "valid", "orders-1": "revoked"}
    for command in (("verify", "orders-1"), ("doctor",), ("renew", "orders-1")):
        assert acme(*command).exit_code == 6
    assert acme("revoke", "orders-9").exit_code == 7
    assert "Revoked laptop" in acme("revoke", "laptop").stdout


def test_what_is_revoked_already_is_told_and_stays(
    acme: Callable[..., Result], directory: Path
) -> None:
    acme("revoke", "orders-1", "--reason", "key-compromise")
    files = {name: (directory / name).read_bytes() for name in ("crl.pem", "audit.jsonl")}
    again = acme("revoke", "orders-1", "--reason", "superseded")
    assert again.exit_code == 0
    assert re.search(r"already revoked on \S+ \S+ UTC \(reason key-compromise\)", again.stdout)
    assert {name: (directory / name).read_bytes() for name in files} == files


def test_renew_does_one_or_all_that_are_due(run: Callable[..., Result], directory: Path) -> None:
    past = dt.datetime.now(dt.UTC) - 70 * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    for node_id, days in (("due", 90), ("fresh", 300)):
        ca.issue(node_id, key_type=KeyType.P256, days=days, at=past)
    renewed = as_json(run("renew", "--json"))["renewed"]
    assert [one["id"] for one in renewed] == ["due"]
    assert "is due" in run("renew").stdout
    assert "Renewed fresh" in run("renew", "fresh").stdout
    assert run("renew", "nobody").exit_code == 7
    assert run("renew", "fresh", "--watch").exit_code == 2


def test_renew_watch_goes_on_until_it_is_interrupted(directory: Path) -> None:
    past = dt.datetime.now(dt.UTC) - 70 * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    ca.issue("due", key_type=KeyType.P256, at=past)
    terminal = Terminal("renew", "--watch", "--dir", str(directory))
    terminal.read_until(lambda output: "Renewed due" in output)
    os.kill(terminal.pid, signal.SIGINT)
    output, code = terminal.end()
    assert code == 130
    assert "until Ctrl-C" in " ".join(output.split())
    assert "Traceback" not in output


def test_renew_watch_ends_with_sigterm_too(directory: Path) -> None:
    CertificateAuthority.create(directory, key_type=KeyType.P256)
    terminal = Terminal("renew", "--watch", "--dir", str(directory))
    terminal.read_until(lambda output: "until Ctrl-C" in " ".join(output.split()))
    os.kill(terminal.pid, signal.SIGTERM)
    output, code = terminal.end()
    assert code == -signal.SIGTERM
    assert "Traceback" not in output


def test_a_ca_is_rotated_in_three_steps(acme: Callable[..., Result], directory: Path) -> None:
    assert as_json(acme("rotate-ca", "status", "--json"))["phase"] == "none"
    assert "Acme G2" in acme("rotate-ca", "prepare").stdout
    asked = acme("rotate-ca", "activate", AEGIS_CONFIRM="1")
    assert asked.exit_code == 1
    assert "laptop, orders-1" in asked.stderr
    assert "`--confirm`" in asked.stderr
    assert "Next: aegis-certs rotate-ca activate --confirm" in acme("rotate-ca", "status").stdout
    assert acme("rotate-ca", "activate", "--confirm").exit_code == 0
    assert "laptop, orders-1" in acme("rotate-ca", "retire").stderr
    assert "Renewed laptop" in acme("renew").stdout
    retired = as_json(acme("rotate-ca", "retire", "--json"))
    assert (retired["phase"], retired["issuing"]) == ("none", "Acme G2")
    assert acme("doctor").exit_code == 0


def test_export_gives_the_bundle_or_an_identity_for_files_and_environments(
    acme: Callable[..., Result], directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert acme("export").stdout == (directory / "ca-cert.pem").read_text()
    whole = acme("export", "orders-1").stdout
    assert [whole.count(f"BEGIN {what}") for what in ("PRIVATE KEY", "CERTIFICATE")] == [1, 2]
    out = tmp_path / "orders-1.env"
    assert acme("export", "orders-1", "--env", "--out", str(out)).stdout == ""
    assert out.stat().st_mode & 0o077 == 0
    for line in out.read_text().splitlines():
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    assert load_tls(TLSOptions(source=CertificateSource.ENV)).node_id == "orders-1"
    assert as_json(acme("export", "orders-1", "--json")).keys() == {
        *("key", "certificate", "trust_bundle"),
    }
    assert acme("export", "nobody").exit_code == 7
    refused = acme("export", "--out", str(out))
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert acme("export", "--out", os.devnull, "--force").exit_code == 1  # a device stays one
    assert acme("export", "--out", str(out), "--force").exit_code == 0
    assert out.read_text() == (directory / "ca-cert.pem").read_text()


def test_a_ca_is_verified_as_what_it_is(acme: Callable[..., Result], tmp_path: Path) -> None:
    found = as_json(acme("verify", "ca", "--json"))
    assert found["ok"]
    assert found["checks"]["chain"]["detail"] == "it is in the trust bundle"
    assert found["checks"]["usage"]["ok"] is None
    for asked in (("--usage", "server"), ("--name", "ca.example")):
        assert acme("verify", "ca", *asked).exit_code == 5
    other = CertificateAuthority.create(tmp_path / "o", key_type=KeyType.P256, passphrase="p")
    wrong = acme("verify", str(other.directory / "ca-cert.pem"))
    assert wrong.exit_code == 5
    assert "this CA is not in the trust bundle" in wrong.stdout
    assert "its key has a passphrase" in wrong.stdout


def test_a_serial_of_a_retired_ca_is_told_to_need_no_revocation(
    acme: Callable[..., Result],
) -> None:
    serial = as_json(acme("list", "--json"))["certificates"][-1]["serial"]
    for step in (
        ("rotate-ca", "prepare"),
        ("rotate-ca", "activate", "--confirm"),
        ("renew",),
        ("rotate-ca", "retire"),
    ):
        assert acme(*step).exit_code == 0
    told = acme("revoke", serial)
    assert told.exit_code == 5
    assert "nothing to revoke" in told.stderr


def test_hints_name_the_commands_as_the_reader_called_them(
    acme: Callable[..., Result], directory: Path
) -> None:
    @click.group(cls=CommandGroup)
    def aegis() -> None: ...

    @aegis.command()
    def other() -> None:
        CertificateAuthority.load("nowhere")

    aegis.add_command(certs)
    runner = CliRunner(env={"AEGIS_CERT_DIR": str(directory)}, **APART)
    (directory / "issued.json").unlink()
    for arguments in (
        ("issue", "n", "--dir", "nowhere"),
        ("export", "nobody"),
        ("revoke", "nobody"),
        ("rotate-ca", "activate"),
        ("doctor", "--dir", str(directory / "..")),
    ):
        mounted = runner.invoke(aegis, ("certs", *arguments), prog_name="aegis")
        alone = acme(*arguments)
        assert mounted.exit_code == alone.exit_code != 0
        assert "aegis-certs" not in mounted.output
        assert "`aegis certs" not in alone.output
    assert "`aegis certs init`" in runner.invoke(aegis, ("other",), prog_name="aegis").stderr


def test_show_tells_what_is_in_a_file(acme: Callable[..., Result], directory: Path) -> None:
    acme("revoke", "laptop")
    acme("csr", "n1", *EC)
    for what, word in {
        "orders-1": "certificate of orders-1",
        "ca": "certificate of Acme",
        str(directory / "crl.pem"): "revocation list of Acme",
        str(directory / "n1_csr.pem"): "request for n1",
        str(directory / "orders-1-key.pem"): "not shown",
    }.items():
        shown = acme("show", what)
        assert word in shown.stdout
        assert "PRIVATE" not in shown.stdout
        assert as_json(acme("show", what, "--json"))
    assert acme("show", "nobody").exit_code == 7
    assert acme("show", "../x").exit_code == 7
    for port in ("0", "65536", "99999", "9999999"):
        wrong = acme("show", f"127.0.0.1:{port}")
        assert (wrong.exit_code, "from 1 to 65535" in wrong.stderr) == (2, True)


@contextlib.contextmanager
def serving(directory: Path, node_id: str) -> Iterator[int]:
    """A TLS server that wants a client certificate, and greets whoever has one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory / "ca-cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(directory / f"{node_id}-cert.pem", directory / f"{node_id}-key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with (
                        contextlib.suppress(OSError),
                        connection,
                        context.wrap_socket(connection, server_side=True) as tls,
                    ):
                        tls.sendall(b"hello")
                        tls.recv(1)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_show_looks_at_a_live_server_with_and_without_a_certificate(
    acme: Callable[..., Result], directory: Path
) -> None:
    with serving(directory, "orders-1") as port:
        place = f"127.0.0.1:{port}"
        server, leaf, *_ = as_json(acme("show", place, "--json"))
        assert (server["its_answer"], server["trusted"]) == ("refused", "yes, as orders-1")
        assert leaf["subject"] == "CN=orders-1"
        server, *_ = as_json(acme("show", place, "--identity", "laptop", "--json"))
        assert (server["its_answer"], server["protocol"]) == ("accepted", "TLSv1.3")
    assert acme("show", place).exit_code == 7


def test_doctor_finds_what_is_wrong(acme: Callable[..., Result], directory: Path) -> None:
    assert acme("doctor").exit_code == 0
    (directory / "orders-1-key.pem").chmod(0o644)
    (directory / "issued.json").unlink()
    future = time.time() + 86_400
    os.utime(directory / "laptop-cert.pem", (future, future))
    (directory / "crl.pem").write_text("junk")
    found = as_json_of_failure(acme("doctor", "--json"), 1)["findings"]
    wrong = {finding["topic"] for finding in found if finding["level"] != "ok"}
    assert wrong == {"permissions", "clock", "inventory", "revocations"}
    assert "chmod go-rwx" in acme("doctor").stdout


def test_doctor_has_an_eye_on_everything_that_it_names(
    acme: Callable[..., Result], directory: Path
) -> None:
    def levels() -> dict[str, str]:
        found = json.loads(acme("doctor", "--json").stdout)["findings"]
        return {finding["topic"]: finding["level"] for finding in reversed(found)}

    assert set(levels()) == {
        *("permissions", "clock", "CA", "certificates", "keys", "installs", "inventory"),
        *("revocations", "rotation", "expiry"),
    }
    assert set(levels().values()) == {"ok"}
    shutil.copy(directory / "laptop-key.pem", directory / "orders-1-key.pem")
    (directory / ".orders-1-key.pem.0123.tmp").write_text("half of")
    (directory / "laptop-cert.pem").write_text("junk")
    changed = {topic: level for topic, level in levels().items() if level != "ok"}
    assert changed == {"installs": "warning", "keys": "problem", "certificates": "problem"}
    (directory / "ca-cert.pem").unlink()
    assert levels()["CA"] == "problem"


def test_a_passphrase_comes_from_a_file_the_environment_or_a_terminal(
    run: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim\n")
    file = ("--passphrase-file", str(secret))
    assert run("init", *EC, *file).exit_code == 0
    assert b"ENCRYPTED" in (directory / "ca-key.pem").read_bytes()
    none = run("issue", "n1", *EC)
    assert none.exit_code == 1
    assert "no passphrase" in none.stderr
    assert run("issue", "n1", *EC, AEGIS_CA_PASSPHRASE="wrong").exit_code == 1
    assert run("issue", "n1", *EC, *file).exit_code == 0
    assert run("issue", "n1", *EC, AEGIS_CA_PASSPHRASE="geheim").exit_code == 0
    assert run("issue", "n1", *EC, "--passphrase-file", "nowhere").exit_code == 7
    secret.write_text("\n")
    assert run("issue", "n1", *EC, *file).exit_code == 2
    env = str(tmp_path / "env")
    assert run("init", *EC, "--dir", env, AEGIS_CA_PASSPHRASE="geheim").exit_code == 0
    assert CertificateAuthority.load(env, passphrase="geheim")
    assert run("init", *EC, "--passphrase", "--dir", str(tmp_path / "x")).exit_code == 2
    terminal = Terminal("issue", "n2", *EC, "--dir", str(directory))
    terminal.read_until(lambda output: "the CA's key: " in output)
    os.write(terminal.fd, b"geheim\n")
    output, code = terminal.end()
    assert code == 0
    assert "geheim" not in output


def test_ctrl_c_at_a_prompt_ends_with_130_as_anywhere(directory: Path) -> None:
    CertificateAuthority.create(directory, key_type=KeyType.P256, passphrase="geheim")
    terminal = Terminal("issue", "n1", "--dir", str(directory))
    terminal.read_until(lambda output: "the CA's key: " in output)
    os.kill(terminal.pid, signal.SIGINT)
    assert terminal.end()[1] == 130


def test_an_error_on_a_terminal_ends_its_lines_between_words(directory: Path) -> None:
    told, code = Terminal("list", "--dir", f"{directory}/a", COLUMNS="40").end()
    assert code == 7
    assert " ".join(told.split()) == (
        f"Error: there is no certificate directory at {directory}/a; make a CA with "
        f"`aegis-certs init`, or name the directory that has one"
    )
    lines = told.splitlines()
    assert all(len(line) <= 40 or " " not in line for line in lines)


def test_a_new_passphrase_is_asked_for_twice(directory: Path) -> None:
    terminal = Terminal("init", *EC, "--passphrase", "--dir", str(directory))
    terminal.read_until(lambda output: "the CA's key: " in output)
    os.write(terminal.fd, b"geheim\n")
    terminal.read_until(lambda output: "confirmation: " in output)
    os.write(terminal.fd, b"geheim\n")
    assert terminal.end()[1] == 0
    assert CertificateAuthority.load(directory, passphrase="geheim")


def test_the_root_of_an_intermediate_is_written_apart(
    run: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    root = tmp_path / "usb"
    made = as_json(run("init", *EC, "--intermediate", "--root-dir", str(root), "--json"))
    assert made["root"] == str(root)
    assert (root / "ca-key.pem").exists()
    shutil.rmtree(root)  # carried away
    assert run("issue", "n1", *EC).exit_code == 0
    assert run("verify", "n1").exit_code == 0
    assert run("rotate-ca", "prepare").exit_code == 7


def test_every_command_has_json(directory: Path) -> None:
    def leaves(command: click.Command) -> list[click.Command]:
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        return [leaf for sub in inner for leaf in leaves(sub)] or [command]

    lacking = [one.name for one in leaves(certs) if not any(p.name == "json" for p in one.params)]
    assert lacking == []


LIFE = """
    0 init --key-type p256 --name Acme
    1 init
    0 issue orders-1 --key-type p256 --host a.example
    0 issue laptop --key-type p256 --client-only
    0 issue old --key-type p256
    2 issue ../x
    0 csr billing-1 --key-type p256 --host b.example
    0 show {dir}/billing-1_csr.pem
    0 sign {dir}/billing-1_csr.pem --out {dir}/signed
    0 install {dir}/signed
    0 list
    7 list --dir {dir}/nowhere
    0 show orders-1
    0 show {dir}/ca-cert.pem
    2 show 127.0.0.1:99999
    0 verify orders-1
    0 verify ca
    5 verify laptop --usage server
    7 verify nobody
    0 renew
    0 renew orders-1
    0 revoke old --reason superseded
    0 revoke old
    7 revoke nobody
    6 verify old
    0 show {dir}/crl.pem
    0 rotate-ca status
    0 rotate-ca prepare
    1 rotate-ca activate
    0 rotate-ca activate --confirm
    1 rotate-ca retire
    0 list
    0 renew
    0 rotate-ca retire
    0 export
    0 export orders-1
    5 doctor
"""


@pytest.mark.parametrize("json_flag", [(), ("--json",)], ids=["text", "json"])
def test_a_whole_life_in_a_pipe_is_plain_or_json_with_its_codes(
    run: Callable[..., Result], directory: Path, json_flag: tuple[str, ...]
) -> None:
    for line in LIFE.strip().splitlines():
        code, *arguments = line.format(dir=directory).split()
        done = run(*arguments, *json_flag)
        assert done.exit_code == int(code), line
        assert "\x1b" not in done.output
        assert all(text == text.rstrip() for text in done.stdout.splitlines()), line
        assert bool(done.stderr) == (not done.stdout), line  # one of them has it all
        if json_flag and done.stdout:
            json.loads(done.stdout)


def test_the_examples_of_a_request_work_one_after_the_other(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", *EC, AEGIS_CERT_DIR="certs").exit_code == 0
    for name in ("csr", "sign", "install", "verify"):
        for line in (certs.commands[name].epilog or "").splitlines():
            if line.startswith("  aegis-certs "):
                done = run(*line.split()[1:], AEGIS_CERT_DIR="certs")
                assert done.exit_code == 0, (line, done.output)


def test_examples_call_the_commands_as_the_reader_does() -> None:
    @click.group(cls=CommandGroup)
    def aegis() -> None: ...

    aegis.add_command(certs)
    for arguments, name in (
        (("certs", "--help"), "aegis certs init"),
        (("certs", "issue", "--help"), "aegis certs issue orders-1"),
        (("certs", "rotate-ca", "prepare", "--help"), "aegis certs rotate-ca prepare"),
    ):
        text = CliRunner(**APART).invoke(aegis, arguments, prog_name="aegis").stdout
        assert f"    {name}" in text
        assert "aegis-certs" not in text
