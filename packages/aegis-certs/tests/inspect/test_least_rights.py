"""A user who may not write, and who may not read keys and inventory, sees all else."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, DirectoryError, KeyType, list_certificates
from click.testing import Result

NOBODY = 65534


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a CA and two nodes that another user can reach."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        directory = Path(base) / "certs"
        ca = CertificateAuthority.create(directory, key_type=KeyType.P256, name="Acme")
        for node_id in ("node-1", "node-2"):
            ca.issue(node_id, key_type=KeyType.P256)
        ca.issue_in_memory("away")
        directory.chmod(0o755)
        yield directory


def in_a_child(directory: Path, look: Callable[[], Any], *, owner: bool) -> Any:
    """What a user sees who owns the files but may not write, or who only may read public files.

    Root may do all, so a child of root becomes another user. Any other user gives up the rights.
    """
    look()  # loads all modules, which the child may not be allowed to read
    is_root = os.getuid() == 0
    for path in (directory, *directory.iterdir()):
        private = path != directory and not path.stat().st_mode & 0o044
        if is_root and owner:
            os.chown(path, NOBODY, NOBODY)
        if not is_root and not owner and private:
            path.chmod(0)
    directory.chmod(0o555)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if is_root:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(writer, json.dumps(look()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as output:
        found = output.read()
    os.waitpid(child, 0)
    directory.chmod(0o755)
    return json.loads(found)


def in_json(run: Callable[..., Result], *command: str) -> Callable[[], Any]:
    def look() -> Any:
        done = run(*command, "--json")
        return [done.exit_code, json.loads(done.stdout or "null"), done.stderr]

    return look


def test_doctor_examines_what_it_may_read_and_names_the_rest(
    run: Callable[..., Result], directory: Path
) -> None:
    code, found, _ = in_a_child(directory, in_json(run, "doctor"), owner=False)
    levels = {finding["topic"]: finding["level"] for finding in found["findings"]}
    assert code == 0
    assert {topic for topic, level in levels.items() if level == "skipped"} == {
        *("CA", "keys", "inventory"),
    }
    assert set(levels.values()) == {"ok", "skipped"}
    texts = [finding["text"] for finding in found["findings"] if finding["topic"] == "keys"]
    key = directory / "node-1-key.pem"
    assert texts == [f"not examined: this user may not read {key} and 1 more"]


def test_doctor_still_reports_problems_to_a_user_with_few_rights(
    run: Callable[..., Result], directory: Path
) -> None:
    CertificateAuthority.load(directory).revoke("node-2")
    code, *_ = in_a_child(directory, in_json(run, "doctor"), owner=False)
    assert code == 6


def test_list_has_the_certificates_in_the_directory_and_says_that_others_are_missing(
    run: Callable[..., Result], directory: Path
) -> None:
    code, found, errors = in_a_child(directory, in_json(run, "list"), owner=False)
    assert (code, errors) == (0, "")
    ids = [one["id"] for one in found["certificates"]]
    assert ids == ["ca", "node-1", "node-2"]
    (reason,) = found["not_read"]
    assert str(directory / "issued.json") in reason

    def text() -> Any:
        done = run("list")
        return [done.exit_code, done.stdout, done.stderr]

    code, output, errors = in_a_child(directory, text, owner=False)
    assert (code, "node-1" in output) == (0, True)
    assert "issued.json" in errors
    whole = json.loads(run("list", "--json").stdout)
    if os.getuid() == 0:
        assert whole["not_read"] == []
        assert [one["id"] for one in whole["certificates"]] == ["ca", "away", "node-1", "node-2"]


def test_verify_checks_a_certificate_whose_key_it_may_not_read(
    run: Callable[..., Result], directory: Path
) -> None:
    code, found, _ = in_a_child(directory, in_json(run, "verify", "node-1"), owner=False)
    assert (code, found["ok"]) == (0, True)
    assert found["checks"]["key"] == {
        "ok": None,
        "detail": "its key is here, and this user may not read it",
    }


@pytest.mark.parametrize("owner", [True, False], ids=["read-only", "other-user"])
def test_the_status_of_a_rotation_needs_neither_the_key_nor_the_right_to_write(
    run: Callable[..., Result], directory: Path, owner: bool
) -> None:
    ca = CertificateAuthority.load(directory)
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    directory.joinpath(".lock").unlink()
    code, found, _ = in_a_child(directory, in_json(run, "rotate-ca", "status"), owner=owner)
    assert (code, found["phase"], found["issuing"]) == (0, "activated", "Acme G2")
    seen = ["node-1", "node-2"]
    assert found["certificates_of_old"] == (["away", *seen] if owner else seen)
    assert len(found["not_read"]) == (0 if owner else 1)
    assert not directory.joinpath(".lock").exists()


def test_the_status_of_a_rotation_needs_no_passphrase(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    ca = CertificateAuthority.create(tmp_path / "c", key_type=KeyType.P256, passphrase="geheim")
    assert run("rotate-ca", "status", "--dir", str(ca.directory)).exit_code == 0
    assert run("rotate-ca", "status", "--dir", str(tmp_path)).exit_code == 7


def test_an_inventory_that_fails_in_another_way_is_an_error(directory: Path) -> None:
    (directory / "issued.json").unlink()
    (directory / "issued.json").mkdir()
    with pytest.raises(DirectoryError, match="is a directory"):
        list_certificates(directory)
