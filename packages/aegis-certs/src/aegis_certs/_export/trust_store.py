"""Putting roots into the trust stores of this machine, and taking them out again.

A store says first which steps it would take; the caller shows them, or takes them. A root has one
name everywhere, made from its fingerprint, so a step that was done is never planned again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_certs._store import files
from aegis_certs._x509.serialization import Encoding
from aegis_certs.errors import DirectoryError, TrustStoreError

_NAME = re.compile(r"aegis-[0-9a-f]{16}")
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # users have no such folder in their PATH
_SECONDS = 120.0  # no tool takes as long, unless it waits for a passphrase
_FOR_SERVERS = "C,,"  # a CA that is trusted to name servers, but not clients, mail or code
_FIREFOX = (
    ".mozilla/firefox",
    "snap/firefox/common/.mozilla/firefox",
    ".var/app/org.mozilla.firefox/.mozilla/firefox",
)
_CHROMIUM = (
    ".pki/nssdb",
    ".local/share/pki/nssdb",
    "snap/chromium/current/.pki/nssdb",
)


@dataclass(frozen=True)
class TrustStep:
    """One step of a change of a trust store.

    Attributes:
        text: What it does, as an imperative.
        apply: Does it. It raises `TrustStoreError` if the system or a tool refuses.
    """

    text: str
    apply: Callable[[], None]


class TrustStore(ABC):
    """A trust store of this machine; `system_trust_store` and `browser_trust_stores` find them.

    Attributes:
        name: What it is and where, for people.
    """

    name: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @abstractmethod
    def plan_trust(self, roots: Sequence[x509.Certificate]) -> tuple[TrustStep, ...]:
        """The steps that put these roots in; none if it has them all.

        Raises:
            TrustStoreError: The store cannot be read, or its tool is missing.
        """

    @abstractmethod
    def plan_removal(self, roots: Sequence[x509.Certificate] | None) -> tuple[TrustStep, ...]:
        """The steps that take out these roots, or all that Aegis put in if None is given.

        Raises:
            TrustStoreError: The store cannot be read, or its tool is missing.
        """


class SystemStore(TrustStore):
    """A folder of certificates, and a command that builds the files that programs read.

    Args:
        name: Its name.
        root: The root of the file system.
        anchors: The folder, below the root.
        bundle: The file of all roots that the command writes, below the root.
        command: The command.
        fresh: Its further arguments after a certificate was deleted.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        anchors: str,
        bundle: str,
        command: tuple[str, ...],
        fresh: tuple[str, ...] = (),
    ) -> None:
        self._anchors, self._bundle = root / anchors, root / bundle
        self._command, self._fresh = command, fresh
        self.name = f"{name} in {self._anchors}"

    @property
    def exists(self) -> bool:
        """Whether this system has such a store."""
        return self._anchors.is_dir()

    def plan_trust(self, roots: Sequence[x509.Certificate]) -> tuple[TrustStep, ...]:
        found = self._read_bundle()
        wanted = {self._anchors / f"{_name(root)}.crt": _pem(root) for root in roots}
        steps = [
            TrustStep(f"write {path}", _writing(path, pem))
            for path, pem in wanted.items()
            if _read(path) != pem
        ]
        if steps or any(pem.strip() not in found for pem in wanted.values()):
            steps.append(self._build(self._command))
        return tuple(steps)

    def plan_removal(self, roots: Sequence[x509.Certificate] | None) -> tuple[TrustStep, ...]:
        found, names = self._read_bundle(), None if roots is None else set(map(_name, roots))
        paths = [
            path
            for path in sorted(self._anchors.glob("aegis-*.crt"))
            if _NAME.fullmatch(path.stem) and (names is None or path.stem in names)
        ]
        steps = [TrustStep(f"delete {path}", _deleting(path)) for path in paths]
        if steps or any(_pem(root).strip() in found for root in roots or ()):
            steps.append(self._build((*self._command, *self._fresh)))
        return tuple(steps)

    def _read_bundle(self) -> bytes:
        return _read(self._bundle) or b""

    def _build(self, command: Sequence[str]) -> TrustStep:
        program = _find(command[0], "install the package `ca-certificates`")

        def run() -> None:
            _run((program, *command[1:]))

        return TrustStep(f"run {' '.join(command)}", run)


class NSSDatabase(TrustStore):
    """A database of NSS, as Firefox and Chromium have them.

    Args:
        directory: The folder with `cert9.db`.
        owner: The program that reads it.
    """

    def __init__(self, directory: Path, owner: str) -> None:
        self._directory = directory
        self.name = f"{owner}'s store in {directory}"

    def plan_trust(self, roots: Sequence[x509.Certificate]) -> tuple[TrustStep, ...]:
        present = self._present()
        return tuple(
            TrustStep(
                f"certutil -A -n {_name(root)} -t {_FOR_SERVERS} -d {self._directory}",
                self._doing(("-A", "-n", _name(root), "-t", _FOR_SERVERS, "-a"), _pem(root)),
            )
            for root in roots
            if present.get(_name(root)) != _FOR_SERVERS
        )

    def plan_removal(self, roots: Sequence[x509.Certificate] | None) -> tuple[TrustStep, ...]:
        names = set(self._present())
        if roots is not None:
            names &= set(map(_name, roots))
        return tuple(
            TrustStep(
                f"certutil -D -n {name} -d {self._directory}", self._doing(("-D", "-n", name))
            )
            for name in sorted(names)
        )

    def _present(self) -> dict[str, str]:
        """Our names in the database, and for what NSS trusts each."""
        lines = (line.split() for line in self._certutil("-L").splitlines())
        return {
            words[0]: words[1] for words in lines if len(words) == 2 and _NAME.fullmatch(words[0])
        }

    def _doing(self, arguments: Iterable[str], data: bytes = b"") -> Callable[[], None]:
        def run() -> None:
            self._certutil(*arguments, data=data)

        return run

    def _certutil(self, *arguments: str, data: bytes = b"") -> str:
        tool = _find("certutil", "install the package `libnss3-tools` (Fedora: `nss-tools`)")
        return _run((tool, "-d", f"sql:{self._directory}", *arguments), data)


def system_trust_store(root: str | Path = "/") -> TrustStore:
    """The store of Debian, Fedora, or a system like them.

    Args:
        root: The root of the file system, such as that of an image that is being built.

    Raises:
        TrustStoreError: This system has no such store.
    """
    root = Path(root)
    elsewhere = root != Path("/")
    debian = SystemStore(
        "Debian's store",
        root,
        "usr/local/share/ca-certificates",
        "etc/ssl/certs/ca-certificates.crt",
        ("update-ca-certificates", *(("--sysroot", str(root)) if elsewhere else ())),
        ("--fresh",),  # otherwise links to deleted files stay
    )
    fedora = SystemStore(
        "Fedora's store",
        root,
        "etc/pki/ca-trust/source/anchors",
        "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        (*(("chroot", str(root)) if elsewhere else ()), "update-ca-trust", "extract"),
    )
    for store in (debian, fedora):
        if store.exists:
            return store
    raise TrustStoreError(
        f"the system in {root}",
        "it has neither the store of Debian nor that of Fedora; install the package "
        "`ca-certificates`, or give the output of `aegis-certs export` to your system's tool",
    )


def browser_trust_stores(home: str | Path | None = None) -> tuple[TrustStore, ...]:
    """The databases of Firefox and Chromium of a user; empty if there are none.

    Args:
        home: The home directory of the user; by default that of this process.
    """
    base = Path.home() if home is None else Path(home)
    firefox = [path for folder in _FIREFOX for path in sorted((base / folder).glob("*/cert9.db"))]
    chromium = [path for folder in _CHROMIUM if (path := base / folder / "cert9.db").is_file()]
    return (
        *(NSSDatabase(path.parent, "Firefox") for path in firefox),
        *(NSSDatabase(path.parent, "Chromium") for path in chromium),
    )


def _name(root: x509.Certificate) -> str:
    return f"aegis-{root.fingerprint(hashes.SHA256()).hex()[:16]}"


def _pem(root: x509.Certificate) -> bytes:
    return root.public_bytes(Encoding.PEM)


def _read(path: Path) -> bytes | None:
    with _reporting(path):
        return files.read(path)


def _writing(path: Path, data: bytes) -> Callable[[], None]:
    def write() -> None:
        with _reporting(path):
            files.write(path, data, files.PUBLIC)

    return write


def _deleting(path: Path) -> Callable[[], None]:
    def delete() -> None:
        with _reporting(path):
            files.remove(path)

    return delete


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except DirectoryError as error:
        if files.is_denied(error):
            raise TrustStoreError(str(path), "it needs root rights; run this with sudo") from error
        raise


def _find(program: str, advice: str) -> str:
    found = shutil.which(program) or shutil.which(program, path=_SYSTEM_PATH)
    if found is None:
        raise TrustStoreError(program, f"this program is not installed; {advice}")
    return found


def _run(command: Sequence[str], data: bytes = b"") -> str:
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            start_new_session=True,  # without a terminal, where it would ask for a passphrase
        )
    except subprocess.TimeoutExpired as error:
        raise TrustStoreError(program, f"it did not end within {_SECONDS:g} s") from error
    except OSError as error:
        raise TrustStoreError(program, f"it cannot be started ({error.strerror})") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        raise TrustStoreError(program, f"it failed with exit code {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")
