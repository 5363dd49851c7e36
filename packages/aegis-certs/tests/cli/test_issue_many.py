"""One command issues the certificates of many nodes, and loads little for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority
from aegis_certs._ca.inventory import Inventory
from aegis_certs._store.directory import Store
from click.testing import Result

EC = ("--key-type", "p256")


def issued(directory: Path) -> list[str]:
    return [entry.id for entry in Inventory.load(Store(directory))]


def test_issue_takes_many_ids(acme: Callable[..., Result], directory: Path) -> None:
    done = acme("issue", "a", "b", "a", "c", *EC)
    assert done.exit_code == 0
    assert [line.split(",")[0] for line in done.stdout.splitlines()[:-1]] == [
        f"Issued a certificate for {name}" for name in "abc"
    ]
    assert issued(directory)[-3:] == ["a", "b", "c"]
    for name in "abc":
        assert acme("verify", name).exit_code == 0


def test_issue_takes_ids_from_a_file(
    acme: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_bytes(b"\xef\xbb\xbf# of the shop\r\nb  # a comment\r\n\r\nc\r\n")
    done = acme("issue", "a", "--from-file", str(nodes), *EC, "--json")
    found = json.loads(done.stdout)["issued"]
    assert [one["id"] for one in found] == ["a", "b", "c"]
    assert issued(directory)[-3:] == ["a", "b", "c"]
    assert acme("issue", "--from-file", str(tmp_path / "nowhere")).exit_code == 7
    nodes.write_text("# nothing")
    assert acme("issue", "--from-file", str(nodes)).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a", "B"], "'B' cannot be a node id"),
        (["a", "b", "--host", "x.example"], "belongs to one node"),
        ([], "at least one ID"),
    ],
)
def test_nothing_is_issued_if_an_argument_is_wrong(
    acme: Callable[..., Result], directory: Path, arguments: list[str], reason: str
) -> None:
    before = issued(directory)
    refused = acme("issue", *arguments, *EC)
    assert refused.exit_code == 2
    assert reason in refused.stderr
    assert issued(directory) == before


def test_those_before_a_failure_are_issued_and_shown(
    acme: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    other = CertificateAuthority.create(tmp_path / "other", key_type="p256")
    other.issue("b", key_type="p256")
    (directory / "b-cert.pem").write_bytes((other.directory / "b-cert.pem").read_bytes())
    done = acme("issue", "a", "b", "c", *EC, "--json")
    assert done.exit_code == 1
    assert "b-cert.pem" in done.stderr
    assert [one["id"] for one in json.loads(done.stdout)["issued"]] == ["a"]
    assert issued(directory)[-1] == "a"


@pytest.mark.parametrize(
    "arguments",
    [["issue", "a", *EC], ["renew", "orders-1"], ["revoke", "laptop"], ["list"]],
    ids=" ".join,
)
@pytest.mark.usefixtures("acme")
def test_commands_load_no_modules_that_they_do_not_need(
    directory: Path, arguments: list[str]
) -> None:
    code = (
        "import sys; from aegis_certs.cli import certs\n"
        f"certs({[*arguments, '--dir', str(directory)]}, standalone_mode=False)\n"
        "print([m for m in ('rich', 'asyncio', 'importlib.metadata') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    "arguments", [["issue", "a", "b", "c", *EC], ["remove", "old"]], ids=["issue", "remove"]
)
def test_a_command_has_one_warning_of_its_directory(directory: Path, arguments: list[str]) -> None:
    directory.chmod(0o755)
    arguments = [*arguments, "--dir", str(directory)]
    code = f"from aegis_certs.cli import certs; certs({arguments})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.count("all users can read the directory") == 1
    assert done.stderr.startswith("Warning: all users")


def test_a_file_that_was_edited_by_hand_keeps_its_entries(
    acme: Callable[..., Result], directory: Path
) -> None:
    path = directory / "issued.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    assert acme("issue", "a", *EC).exit_code == 0
    assert issued(directory) == ["orders-1", "laptop", "a"]
    lines = path.read_text().splitlines()
    assert acme("issue", "b", *EC).exit_code == 0
    assert path.read_text().splitlines()[1:3] == lines[1:3]
    assert issued(directory) == ["orders-1", "laptop", "a", "b"]
