"""Permissions, atomicity and the lock."""

from __future__ import annotations

import datetime as dt
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    CertsError,
    DirectoryError,
    ExpiredError,
    IdentitySource,
    KeyType,
    LockTimeoutError,
    load_or_generate_tls,
    request_certificate,
)
from aegis_certs._store.directory import Store, files
from aegis_certs._x509.pem import KeyPair

P256 = KeyType.P256
NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("existing", [None, 0o700, 0o755, 0o2750], ids=str)
def test_keys_are_private_whatever_the_umask_and_the_directory_were(
    tmp_path: Path, umask: int, existing: int | None
) -> None:
    directory = tmp_path / "certs"
    if existing is not None:
        directory.mkdir()
        directory.chmod(existing)
    load_or_generate_tls("node-1", directory, key_type=P256)
    assert mode(directory) == (0o700 if existing is None else existing)
    for path in directory.glob("*-key.pem"):
        assert mode(path) == 0o600
    for path in directory.glob("*-cert.pem"):
        assert mode(path) == 0o644
    assert mode(directory / ".lock") & 0o077 == 0


def test_keys_that_others_could_read_are_made_private_by_the_next_issue(
    ca: CertificateAuthority,
) -> None:
    (ca.directory / "ca-key.pem").chmod(0o755)
    ca.issue("node-1", key_type=P256)
    assert mode(ca.directory / "ca-key.pem") == 0o600


def test_the_mode_of_an_existing_directory_does_not_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o755)
    request_certificate("node-1", tmp_path, key_type=P256)
    CertificateAuthority.create(tmp_path, key_type=P256)
    assert mode(tmp_path) == 0o755
    assert {record.message for record in caplog.records} == {
        f"all users can read the directory {tmp_path}; run `chmod o-rwx {tmp_path}`"
    }


@pytest.mark.parametrize("existing", [0o720, 0o702, 0o777], ids=oct)
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, existing: int) -> None:
    tmp_path.chmod(existing)
    with pytest.raises(DirectoryError, match="run `chmod go-w"):
        request_certificate("node-1", tmp_path, key_type=P256)
    assert mode(tmp_path) == existing
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_other_users_share_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(DirectoryError, match="sticky"):
        CertificateAuthority.create(tmp_path, key_type=P256)
    assert mode(tmp_path) == 0o1777
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_ended_processes_are_removed(ca: CertificateAuthority) -> None:
    left = ca.directory / ".node-1-key.pem.0123456789abcdef.tmp"
    left.write_text("half a k")
    ca.issue("node-1", key_type=P256)
    assert not left.exists()
    assert not list(ca.directory.glob(".*.tmp"))


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, b"old", files.PRIVATE)
    with pytest.raises(TypeError):
        files.write(path, "no bytes", files.PRIVATE)  # type: ignore[arg-type]  # fails half-way
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_held_lock_is_waited_for_and_then_an_error(directory: Path) -> None:
    store = Store(directory)
    with store.locked(), pytest.raises(LockTimeoutError) as caught, store.locked(timeout=0.05):
        pass
    assert caught.value.path == directory
    assert caught.value.seconds == 0.05
    with store.locked(timeout=0):
        pass


def test_an_install_that_a_crash_interrupted_is_finished_by_the_next_load(directory: Path) -> None:
    ca = CertificateAuthority.create(directory, key_type=P256)
    ca.issue("node-1", key_type=P256)
    new = ca.issue_in_memory("node-1")
    store = Store(directory)
    pair = KeyPair.parse(new.certificate_chain, new.private_key, None, None)
    files.write(store.pending_path("node-1"), pair.key_pem + new.certificate_chain, files.PRIVATE)
    files.write(store.key_path("node-1"), pair.key_pem, files.PRIVATE)  # then the power failed
    assert load_or_generate_tls("node-1", directory) == new
    assert not store.pending_path("node-1").exists()
    assert store.certificate_path("node-1").read_bytes() == new.certificate_chain


def test_a_commit_is_read_directly_while_another_process_holds_the_lock(directory: Path) -> None:
    ca = CertificateAuthority.create(directory, key_type=P256)
    ca.issue("node-1", key_type=P256)
    new = ca.issue_in_memory("node-1")
    store = Store(directory)
    with store.locked():
        data = new.private_key + new.certificate_chain
        files.write(store.pending_path("node-1"), data, files.PRIVATE)
        assert load_or_generate_tls("node-1", directory) == new
        assert store.pending_path("node-1").exists()


def test_readers_never_see_a_key_mismatch_while_a_writer_renews(
    ca: CertificateAuthority,
) -> None:
    ca.issue("node-1", key_type=P256)
    failures: list[CertsError] = []
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(load_or_generate_tls("node-1", ca.directory).fingerprint)
            except CertsError as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    made = {ca.issue("node-1", key_type=P256).fingerprint for _ in range(40)}
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert seen & made


@pytest.fixture
def readable() -> Iterator[Path]:
    """A path for a directory that another user can reach."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        yield Path(base) / "certs"


def in_a_child_that_may_not_write(directory: Path, check: Callable[[], None]) -> None:
    """Runs the check with a read-only directory, and not as root, which may write everywhere."""
    if os.getuid() == 0:
        for path in (directory, *directory.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    directory.chmod(0o500)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            check()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    directory.chmod(0o700)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_read_only_directory_loads(readable: Path) -> None:
    tls = load_or_generate_tls("node-1", readable, key_type=P256)
    (readable / ".lock").unlink()
    before = sorted(readable.iterdir())

    def check() -> None:
        assert load_or_generate_tls("node-1", readable) == tls

    in_a_child_that_may_not_write(readable, check)
    assert sorted(readable.iterdir()) == before


def test_a_read_only_directory_can_be_polled_and_has_revocations(readable: Path) -> None:
    ca = CertificateAuthority.create(readable, key_type=P256)
    ca.issue("node-2", key_type=P256)
    ca.issue("node-1", key_type=P256)
    ca.revoke("node-2")
    (readable / "ca-key.pem").unlink()

    def check() -> None:
        source = IdentitySource.directory("node-1", readable)
        source.load()
        assert (source.poll(), source.renew()) == (None, None)
        assert len(source.revocations()) == 1

    in_a_child_that_may_not_write(readable, check)


def test_a_read_only_directory_with_an_unfinished_install_loads_the_new_pair(
    readable: Path,
) -> None:
    ca = CertificateAuthority.create(readable, key_type=P256)
    ca.issue("node-1", key_type=P256)
    new = ca.issue_in_memory("node-1")
    store = Store(readable)
    data = new.private_key + new.certificate_chain
    files.write(store.pending_path("node-1"), data, files.PRIVATE)

    def check() -> None:
        assert load_or_generate_tls("node-1", readable) == new

    in_a_child_that_may_not_write(readable, check)
    assert store.pending_path("node-1").exists()


def test_a_read_only_directory_cannot_renew(readable: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    tls = load_or_generate_tls("node-1", readable, key_type=P256, at=now)

    def check() -> None:
        due = now + dt.timedelta(days=80)
        assert load_or_generate_tls("node-1", readable, at=due) == tls
        with pytest.raises(ExpiredError, match="could not be renewed"):
            load_or_generate_tls("node-1", readable, at=now + dt.timedelta(days=100))
        with pytest.raises(DirectoryError):
            load_or_generate_tls("node-2", readable)

    in_a_child_that_may_not_write(readable, check)


def test_a_directory_without_permission_raises_a_directory_error(readable: Path) -> None:
    ca = CertificateAuthority.create(readable / "inner", key_type=P256)
    store = Store(ca.directory)
    ca.directory.chmod(0o300)  # no listing

    def check() -> None:
        for look in (store.names, store.locked().__enter__):
            with pytest.raises(DirectoryError, match="permission denied") as caught:
                look()
            assert caught.value.path == ca.directory
        os.chmod(ca.directory, 0o600)  # no entering
        for name in ("ca", "node-1"):
            with pytest.raises(DirectoryError, match="permission denied"):
                store.has_key(name)

    if os.getuid() == 0:
        for path in (
            readable,
            ca.directory,
            *(ca.directory / name for name in os.listdir(ca.directory)),
        ):
            os.chown(path, NOBODY, NOBODY)
    in_a_child_that_may_not_write(readable, check)
    ca.directory.chmod(0o700)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_the_error_for_a_full_disk_says_what_to_do() -> None:
    with pytest.raises(DirectoryError, match="no space left on device; free some space"):
        files.append(Path("/dev/full"), b"line")
