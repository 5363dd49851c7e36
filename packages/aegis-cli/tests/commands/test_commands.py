from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aegis_cli._commands
import click
import grpc
import pytest
from aegis_cli.cli import aegis as root
from aegis_cli.errors import CallFailedError
from click.testing import CliRunner

OWN_GROUPS = ("demo", "mesh", "node")


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, *path, name)


ALL = dict(commands(root, "aegis"))
OWN = {path: command for path, command in ALL.items() if not path.startswith("aegis certs")}


def test_all_commands_exist() -> None:
    assert {"aegis demo", "aegis node run", "aegis mesh status"} <= set(OWN)
    assert {"aegis certs init", "aegis certs issue", "aegis certs list"} <= set(ALL)


@pytest.mark.parametrize("path", OWN)
def test_help_has_examples_that_fit(path: str) -> None:
    epilog = OWN[path].epilog or ""
    assert f"  {path} " in epilog or f"  {path}\n" in f"{epilog}\n" or path == "aegis"
    assert all(len(line) <= 78 for line in epilog.splitlines() if line.startswith("  aegis"))


@pytest.mark.parametrize("path", OWN)
def test_every_option_has_an_environment_variable_in_its_help(path: str) -> None:
    options = [option for option in OWN[path].params if isinstance(option, click.Option)]
    for option in options:
        if "--version" not in option.opts:
            assert str(option.envvar).startswith("AEGIS_"), option.opts
            assert option.show_envvar, option.opts


def test_lists_of_commands_are_not_cut_at_80_columns() -> None:
    for path, command in ALL.items():
        if isinstance(command, click.Group):
            shown = (
                CliRunner().invoke(root, [*path.split()[1:], "--help"], terminal_width=80).output
            )
            assert [line for line in shown.splitlines()[1:] if line.endswith("...")] == [], path


def test_help_loads_neither_grpc_nor_cryptography() -> None:
    code = (
        "import sys, aegis_cli.cli as c; c.aegis(['mesh', 'status', '--help'], 'aegis', "
        "standalone_mode=False); print({'grpc', 'cryptography', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_command_loads_no_module_of_another_one() -> None:
    code = (
        "import sys, aegis_cli.cli as c; c.aegis(['mesh', 'status', '--help'], 'aegis', "
        "standalone_mode=False); print([m for m in sys.modules if '_commands' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['aegis_cli._commands', 'aegis_cli._commands.mesh']"


def test_a_group_knows_the_commands_of_all_modules() -> None:
    for module in pkgutil.iter_modules(aegis_cli._commands.__path__):
        found = vars(importlib.import_module(f"aegis_cli._commands.{module.name}"))
        for command in found.values():
            if isinstance(command, click.Command):
                assert command in ALL.values(), (module.name, command.name)


def test_reading_a_mesh_loads_neither_a_node_nor_what_issues_certificates() -> None:
    rare = {
        *("aegis_certs._ca.session", "aegis_core", "aegis_discovery._calls.stats"),
        *("aegis_discovery._calls.pool_base", "aegis_discovery._calls.options"),
        *("aegis_discovery.policy._rules", "difflib", "rich", "shutil", "uvloop"),
    }
    code = (
        "import sys, aegis_cli._identity, aegis_cli._mesh.live, aegis_cli._view.status; "
        f"print({rare!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_version_is_shown(aegis) -> None:
    done = aegis.run("--version")
    assert (done.returncode, done.stdout) == (0, "aegis 1!0.1.0\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mesh", "status"], "by --node, or its --registry"),
        (["mesh", "status", "--node", "a:1", "--registry", "etcd://a:1/x"], "by --node, or its"),
        (["mesh", "status", "--node", "nonsense"], "not a valid address"),
        (["mesh", "status", "--registry", "nonsense"], "a registry is etcd://"),
        (["node", "run", "--id", "a", "--registry", "etcd://a:1"], "prefix"),
        (["node", "run"], "--id"),
        (["node", "run", "--id", "../x"], "node id"),
        (["node", "run", "--id", "a", "--service", "greeter"], "NAME/VERSION"),
        (["node", "run", "--id", "a", "--join", "nowhere"], "not a valid address"),
        (["node", "run", "--id", "a", "--address", "0.0.0.0:0"], "advertise"),
        (["node", "run", "--id", "a", "--cert-file", "x"], "--key-file and --ca-file"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_usage_error_is_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, certs: Path
) -> None:
    done = CliRunner(env={"AEGIS_CERT_DIR": str(certs)}).invoke(root, arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_an_error_is_one_sentence_and_debug_adds_the_traceback(aegis) -> None:
    arguments = ("mesh", "status", "--node", "127.0.0.1:9", "--cert-dir", "nowhere")
    done = aegis.run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: there is no CA at nowhere")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in aegis.run("--debug", *arguments).stderr


def test_closed_streams_and_full_disks_are_no_faults_of_the_command(aegis) -> None:
    program = f"{sys.executable} -m aegis_cli"
    for line, code in (
        (f"{program} completion bash >&- <&-", 0),
        (f"{program} mesh status 2>&-", 2),
        (f"{program} certs list --json > /dev/full", 1),
    ):
        done = aegis.shell(line)
        assert (done.returncode, done.stdout) == (code, ""), done
        full = "Error: no space is left to write the output; free some, or write elsewhere\n"
        assert done.stderr in ("", full)


def test_a_grpc_error_becomes_a_sentence() -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "it went away"
    )
    assert str(CallFailedError(error)) == "a call failed with UNAVAILABLE: it went away"
    assert str(CallFailedError(grpc.RpcError("odd"))).endswith("an unknown code: odd")
