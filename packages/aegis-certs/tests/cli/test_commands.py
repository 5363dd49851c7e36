"""The options, output and exit codes of the commands."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from inspect import signature
from pathlib import Path

import click
import pytest
from aegis_certs import (
    CertificateAuthority,
    KeyType,
)
from aegis_certs.cli import CommandGroup, certs, certs_exit_codes
from click.testing import CliRunner, Result

EC = ("--key-type", "p256")
# Before click 8.2 the two streams were mixed by default.
SEPARATE_STREAMS = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}


def test_init_issue_and_list_work_one_after_the_other(
    run: Callable[..., Result], directory: Path
) -> None:
    made = run("init", *EC, "--name", "Acme CA", "--trust-domain", "acme.example", "--days", "99")
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


def test_a_note_says_that_a_ca_cuts_a_certificate_short(
    run: Callable[..., Result], directory: Path
) -> None:
    run("init", *EC, "--days", "30")
    request = str(directory / "n2_csr.pem")
    run("csr", "n2", *EC)
    for command in (("issue", "n1", *EC), ("sign", request, "--out", request), ("renew", "n1")):
        done = run(*command, *(("--force",) if "--out" in command else ()))
        assert done.exit_code == 0
        assert re.fullmatch(
            r"Note: the CA ends at .* cuts the certificate of n\d short; .*`aegis-certs rotate-ca "
            r"prepare`.*\n",
            done.stderr,
        )
    assert run("issue", "n1", *EC, "--days", "20").stderr == ""
    assert run("renew", "n1").stderr == ""


def test_every_option_has_an_environment_variable(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    def options(command: click.Command) -> list[click.Option]:
        own = [param for param in command.params if isinstance(param, click.Option)]
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        return own + [option for sub in inner for option in options(sub)]

    without = {o.name for o in options(certs) if not o.envvar}
    # These confirm one step, replace one file, or take out a root once, and not always.
    others = {"listing", "cancel"}  # these do something else than the command without them
    assert without == {"version", "confirm", "force", "remove", "every"} | others
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


def test_an_expired_ca_ends_with_code_4(run: Callable[..., Result], directory: Path) -> None:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=400)
    CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    assert run("issue", "n").exit_code == 4


def test_debug_shows_the_traceback_as_well(run: Callable[..., Result]) -> None:
    for result in (run("--debug", "issue", "n"), run("issue", "n", AEGIS_DEBUG="1")):
        assert result.exit_code == 7
        assert "Traceback" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("Error: there is no CA")


def test_another_command_can_mount_the_group_and_share_its_error_handling(directory: Path) -> None:
    class OtherError(Exception):
        pass

    @click.group(cls=CommandGroup, exit_codes=lambda: {**certs_exit_codes(), OtherError: 9})
    def aegis() -> None:
        """Another tool."""

    @aegis.command()
    @click.argument("what")
    def fail(what: str) -> None:
        if what == "interrupt":
            raise KeyboardInterrupt
        raise OtherError("two\nlines") if what == "known" else RuntimeError("an internal fault")

    aegis.add_command(certs)
    runner = CliRunner(env={"AEGIS_CERT_DIR": str(directory)}, **SEPARATE_STREAMS)

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
    assert "RuntimeError: an internal fault" in unknown.stderr
    assert "AEGIS_DEBUG=1" in unknown.stderr
    assert call("fail", "interrupt").exit_code == 130


def test_ctrl_c_while_the_options_are_read_ends_with_130() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    @click.group(cls=CommandGroup)
    @click.option("--slow", callback=interrupt)
    def aegis(slow: str) -> None:
        """Another tool."""

    done = CliRunner(**SEPARATE_STREAMS).invoke(aegis, ["--slow", "x", "any"])
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("arguments", [["--help"], ["init", "--help"], ["--version"]])
def test_help_loads_no_slow_module(arguments: list[str]) -> None:
    code = (
        "import sys; from aegis_certs.cli import certs\n"
        f"certs({arguments}, standalone_mode=False)\n"
        "print([m for m in ('cryptography', 'rich', 'grpc') if m in sys.modules])"
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


def test_hints_name_the_commands_as_the_user_called_them(
    acme: Callable[..., Result], directory: Path
) -> None:
    @click.group(cls=CommandGroup)
    def aegis() -> None: ...

    @aegis.command()
    def other() -> None:
        CertificateAuthority.load("nowhere")

    aegis.add_command(certs)
    runner = CliRunner(env={"AEGIS_CERT_DIR": str(directory)}, **SEPARATE_STREAMS)
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


def test_every_command_has_json(directory: Path) -> None:
    def leaves(command: click.Command) -> list[click.Command]:
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        return [leaf for sub in inner for leaf in leaves(sub)] or [command]

    lacking = [one.name for one in leaves(certs) if not any(p.name == "json" for p in one.params)]
    assert lacking == []


def test_examples_name_the_commands_as_the_user_called_them() -> None:
    @click.group(cls=CommandGroup)
    def aegis() -> None: ...

    aegis.add_command(certs)
    for arguments, name in (
        (("certs", "--help"), "aegis certs init"),
        (("certs", "issue", "--help"), "aegis certs issue orders-1"),
        (("certs", "rotate-ca", "prepare", "--help"), "aegis certs rotate-ca prepare"),
    ):
        text = CliRunner(**SEPARATE_STREAMS).invoke(aegis, arguments, prog_name="aegis").stdout
        assert f"    {name}" in text
        assert "aegis-certs" not in text
