"""A process may die at any moment: what it leaves is the old state or the new, and loads."""

from __future__ import annotations

import functools
import os
import random
import signal
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from aegis_certs import (
    AlreadyExistsError,
    CertificateAuthority,
    KeyType,
    TLSConfig,
    load_or_generate_tls,
)

P256 = KeyType.P256
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.chmod", "os.truncate"}
COMMAND = Path(sysconfig.get_path("scripts")) / "aegis-certs"


def die_before_change(number: int, directory: Path, work: Callable[[], object]) -> bool:
    """Runs work in a child that is killed before its n-th change of a file; tells if it was."""
    child = os.fork()
    if child == 0:
        changes = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal changes
            writes = event == "open" and str(directory) in str(arguments[0])
            if event in CHANGES or (writes and int(arguments[2]) & os.O_CREAT):  # type: ignore[call-overload]  # flags are an int
                if changes == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                changes += 1

        status = 1
        try:
            sys.addaudithook(watch)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def assert_keys_are_private(directory: Path) -> None:
    for path in directory.glob("**/*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def assert_tidy(directory: Path) -> None:
    assert not list(directory.glob("*.next.pem"))
    assert not list(directory.glob(".*.tmp"))


@pytest.fixture
def open_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_a_first_start_may_die_before_any_of_its_changes(tmp_path: Path) -> None:
    number, died = 0, True
    while died:
        directory = tmp_path / str(number)
        start = functools.partial(load_or_generate_tls, "node-1", directory, key_type=P256)
        died = die_before_change(number, directory, start)
        assert_keys_are_private(directory)
        root = directory / "ca-cert.pem"
        before = root.read_bytes() if root.exists() else None
        tls = start()
        assert tls.bundle.verify(tls.chain, "server").node_id == "node-1"
        assert before in (None, tls.trust_bundle)
        assert load_or_generate_tls("node-2", directory, key_type=P256)
        assert_tidy(directory)
        number += 1
    assert number > 10


@pytest.mark.usefixtures("open_umask")
def test_a_renewal_may_die_before_any_of_its_changes(ca: CertificateAuthority) -> None:
    number, died, outcomes = 0, True, set()
    while died:
        old = ca.issue("node-1", key_type=P256)
        died = die_before_change(number, ca.directory, lambda: ca.issue("node-1", key_type=P256))
        assert_keys_are_private(ca.directory)
        found: TLSConfig = load_or_generate_tls("node-1", ca.directory)
        assert found.bundle.verify(found.chain, "server").node_id == "node-1"
        assert load_or_generate_tls("node-1", ca.directory) == found
        outcomes.add(found == old)
        ca.issue("node-2", key_type=P256)
        assert_tidy(ca.directory)
        number += 1
    assert outcomes == {True, False}


def test_the_commands_may_be_killed_at_any_time(tmp_path: Path) -> None:
    dice = random.Random(7)
    for number in range(6):
        directory = tmp_path / str(number)
        for command in (["init", "--key-type", "p256"], ["issue", "node-1", "--key-type", "p256"]):
            process = subprocess.Popen(
                [COMMAND, *command, "--dir", str(directory)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                process.wait(timeout=dice.uniform(0.15, 0.45))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            try:
                CertificateAuthority.create(directory, key_type=P256)
            except AlreadyExistsError:
                CertificateAuthority.load(directory)
        tls = load_or_generate_tls("node-1", directory, key_type=P256)
        assert tls.bundle.verify(tls.chain, "server").node_id == "node-1"
        assert_keys_are_private(directory)
        with_lock = CertificateAuthority.load(directory).issue("node-2", key_type=P256)
        assert with_lock.trust_bundle == tls.trust_bundle
        assert_tidy(directory)
