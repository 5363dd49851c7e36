"""Every file access of this package: private from creation on, atomic, durable, under a lock.

A file is written under a temporary name, synced and renamed, and its directory is synced. So a
reader, or a process that starts after a crash, sees either the old content or the new. A log is
appended to and synced; a crash may leave a part of its last line, and readers skip that part.

Every function raises DirectoryError, with the path and the reason, if the system refuses.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aegis_certs.errors import DirectoryError, LockTimeoutError

logger = logging.getLogger("aegis_certs")

PRIVATE = 0o600
PUBLIC = 0o644
LOCK = ".lock"
_TEMPORARY = ".{name}.{nonce}.tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT)
UNFINISHED = _TEMPORARY.format(name="*", nonce="*")
StatKey = tuple[int, ...]
_LOCK_POLL = 0.02  # seconds
LOCK_SECONDS = 60.0  # the longest work under the lock is to create an RSA-4096 key: a few seconds


@contextmanager
def locked(directory: Path, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Creates the directory if it is missing, and holds its lock, so that only one writer works.

    A new directory is private. The mode of an existing one does not change, because it may have
    other users: one that others can write to is refused, and one that all can read is a warning.

    The kernel releases the lock of a process that dies. Files that such a process wrote only in
    part are removed here, since no other process writes while the lock is held.

    Raises:
        LockTimeoutError: Another process held the lock during the whole timeout (seconds).
        DirectoryError: The directory cannot be created or written, or others can write to it.
    """
    with _reporting(directory):
        _make_directory(directory)
        descriptor = _acquire_lock(directory, timeout)
    try:
        for name in names(directory, UNFINISHED):
            with _reporting(directory / name), suppress(FileNotFoundError):
                os.unlink(directory / name)
        yield
    finally:
        os.close(descriptor)  # releases the lock


@contextmanager
def held(directory: Path, name: str, timeout: float) -> Iterator[None]:
    """Holds another lock of a directory, for work that takes long and writes little.

    Raises:
        LockTimeoutError: Another process held it during the whole timeout (seconds).
        DirectoryError: The directory cannot be created or written.
    """
    with _reporting(directory):
        _make_directory(directory)
        descriptor = _acquire_lock(directory, timeout, name)
    try:
        yield
    finally:
        with suppress(OSError):  # whoever waits for it opens the next one
            os.unlink(directory / name)
        os.close(descriptor)


def _acquire_lock(directory: Path, timeout: float, name: str = LOCK) -> int:
    path, deadline = directory / name, time.monotonic() + timeout
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (found := status(path)) and os.path.samestat(os.fstat(descriptor), found):
                return descriptor
        except BlockingIOError:
            pass
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise DirectoryError(directory, "its file system has no locks; move it") from error
            raise
        os.close(descriptor)  # another process holds the lock, or has removed the file
        if time.monotonic() >= deadline:
            raise LockTimeoutError(directory, timeout)
        time.sleep(_LOCK_POLL)


def write(path: Path, data: bytes, mode: int) -> None:
    """Writes a file atomically; the caller holds the lock."""
    with drafted(path, data, mode) as publish:
        publish()


@contextmanager
def drafted(path: Path, data: bytes, mode: int) -> Iterator[Callable[[], None]]:
    """Writes all of a file under a temporary name; the caller holds the lock.

    The result gives the file its name, which a full disk does not prevent. So several files can be
    written first, and none of them is published if one has no space.
    """
    temporary = path.with_name(_TEMPORARY.format(name=path.name, nonce=secrets.token_hex(8)))

    def publish() -> None:
        with _reporting(path):
            os.replace(temporary, path)
            _sync_directory(path.parent)

    try:
        with (
            _reporting(path),
            _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode) as descriptor,
        ):
            os.fchmod(descriptor, mode)  # the umask may have removed the owner's bits too
            _write_all(descriptor, data)
            os.fsync(descriptor)
        yield publish
    finally:
        with suppress(OSError):  # if it was published, it has this name no more
            os.unlink(temporary)


def append(path: Path, line: bytes) -> None:
    """Adds a line, given without a line break, to a private log; the caller holds the lock."""
    with (
        _reporting(path),
        _opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE) as descriptor,
    ):
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        _write_all(descriptor, b"\n" * torn + line + b"\n")
        os.fsync(descriptor)
        if size == 0:
            _sync_directory(path.parent)


def reserve(path: Path, size: int) -> None:
    """Makes a file of at least this size whose space `remove` gives back, if the disk has it."""
    with suppress(DirectoryError):
        found = status(path)
        if found is None or found.st_size < size:
            write(path, bytes(size + size // 4), PRIVATE)  # so that not every call writes it


def remove(path: Path) -> None:
    """Removes a file durably, if it exists; the caller holds the lock."""
    with _reporting(path):
        with suppress(FileNotFoundError):
            os.unlink(path)
        _sync_directory(path.parent)


def read(path: Path, limit: int = -1) -> bytes | None:
    """The content of a file, or its first bytes; None if it does not exist."""
    with _reporting(path):
        try:
            with path.open("rb") as file:
                return file.read(limit)
        except (FileNotFoundError, NotADirectoryError):
            return None


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, DirectoryError) and error.errno in _FULL


def is_denied(error: BaseException | None) -> bool:
    """Whether an error says that this user may not read a file."""
    return isinstance(error, DirectoryError) and error.errno in (errno.EACCES, errno.EPERM)


def names(directory: Path, pattern: str = "*") -> list[str]:
    """The file names in a directory that match a pattern, sorted; empty without a directory."""
    with _reporting(directory):
        try:
            return sorted(fnmatch.filter(os.listdir(directory), pattern))
        except (FileNotFoundError, NotADirectoryError):
            return []


def status(path: Path) -> os.stat_result | None:
    """The stat result of a file, or of the target of a link; None if it does not exist."""
    # Without a context manager: a node asks for some files every two seconds.
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _problem(path, error) from error


def exists(path: Path) -> bool:
    """Whether a file exists."""
    return status(path) is not None


def is_file(path: Path) -> bool:
    """Whether a regular file, or a link to one, exists."""
    found = status(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_directory(path: Path) -> bool:
    """Whether a directory exists."""
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def stat_key(path: Path) -> StatKey | None:
    """Inode, size and times: a value that changes when the file does."""
    found = status(path)
    return found and (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def make_private(directory: Path, ending: str) -> None:
    """Makes the files with this ending accessible to their owner only."""
    with _reporting(directory), os.scandir(directory) as found:
        for entry in found:
            if entry.name.endswith(ending) and (mode := entry.stat().st_mode) & 0o077:
                os.chmod(entry.path, mode & PRIVATE)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass
    else:
        os.chmod(directory, 0o700)  # the umask may have removed the owner's bits too
        _sync_directory(directory.parent)
        return
    mode = directory.stat().st_mode
    if not stat.S_ISDIR(mode):
        raise DirectoryError(directory, "it is not a directory; name one")
    if mode & stat.S_ISVTX:
        raise DirectoryError(
            directory, "other users share it (its sticky bit is set); name a directory below it"
        )
    if mode & 0o022:
        reason = "others can write to it, and could replace its certificates"
        raise DirectoryError(
            directory, f"{reason}; run `chmod go-w {directory}`, or name another directory"
        )
    if mode & 0o005:  # a group may be there on purpose, such as for monitoring
        logger.warning(
            "all users can read the directory %s; run `chmod o-rwx %s`", *[directory] * 2
        )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a directory; they keep renames in order themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: Path, flags: int, mode: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _problem(path, error) from error


def _problem(path: Path, error: OSError) -> DirectoryError:
    reason = (error.strerror or str(error)).lower()
    full = error.errno in _FULL
    advice = "free some space" if full else "check the directory and its permissions"
    return DirectoryError(path, f"{reason}; {advice}", error.errno)
