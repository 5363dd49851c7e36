"""The certificate directory: where each file lies, and how a pair of files is one.

    ca-cert.pem       the trust bundle, the issuing CA first
    ca-key.pem        the issuing CA's key
    {id}-cert.pem     a node's leaf, then the intermediates
    {id}-key.pem      its key
    {id}.next.pem     key and chain of an identity whose install is under way; `ca` has one too

Two renames are not one. So an identity is committed as the one file `{id}.next.pem`, and then
installed under its two names; whoever finds that file reads it, or finishes the install.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509

from . import _files
from ._naming import CA_NAME
from ._pem import Pair, encode_certificates, parse_certificates
from .errors import DirectoryError, KeyMismatchError, NotFoundError

_NEXT = ".next.pem"
_CERT = "-cert.pem"
_KEY = "-key.pem"
_MISSING = "copy it here, or move the other one away to have both made anew"


class Store:
    """One certificate directory. Names are node ids that were validated before, or `ca`."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def __repr__(self) -> str:
        return f"Store({str(self.directory)!r})"

    def certificate_path(self, name: str) -> Path:
        """Where the chain of this name lies."""
        return self.directory / f"{name}{_CERT}"

    def key_path(self, name: str) -> Path:
        """Where the key of this name lies."""
        return self.directory / f"{name}{_KEY}"

    def pending_path(self, name: str) -> Path:
        """Where the commit of this name lies while its install is under way."""
        return self.directory / f"{name}{_NEXT}"

    def names(self) -> list[str]:
        """The names of all nodes that have a certificate here, sorted."""
        found = {path.name.removesuffix(_CERT) for path in self.directory.glob(f"*{_CERT}")}
        found |= {path.name.removesuffix(_NEXT) for path in self.directory.glob(f"*{_NEXT}")}
        return sorted(found - {CA_NAME})

    def chain(self, name: str) -> tuple[x509.Certificate, ...] | None:
        """The chain of this name alone, or None: for whom the key is not at hand."""
        for path in (self.pending_path(name), self.certificate_path(name)):
            if (data := _files.read(path)) is not None:
                return parse_certificates(data, "certificate", path)
        return None

    def has_key(self, name: str) -> bool:
        """Tells whether the key of this name is here."""
        return self.key_path(name).exists() or self.pending_path(name).exists()

    def pair(self, name: str) -> Pair | None:
        """Key and chain that belong together, without the lock; None where there is neither.

        A read between two renames of another process may give files that do not fit; then there
        is a commit, or they fit by the next read. So the same misfit twice is a real one.

        Raises:
            NotFoundError: Only one of the two files is there.
            KeyMismatchError: They do not belong together.
            CertsError: One of them cannot be read.
        """
        self._try_to_mend(name)
        chain_path, key_path = self.certificate_path(name), self.key_path(name)
        before = None
        while (pending := self._pending(name)) is None:
            files = chain, key = _files.read(chain_path), _files.read(key_path)
            if chain is None and key is None:
                return None
            if chain and key:
                pair = Pair.parse(chain, key, chain_path, key_path)
                if pair.fits:
                    return pair
            if files == before:
                if not chain:
                    raise NotFoundError(f"certificate beside {key_path}", chain_path, _MISSING)
                if not key:
                    raise NotFoundError(f"key beside {chain_path}", key_path, _MISSING)
                raise KeyMismatchError(name, chain_path, key_path)
            before = files
        return pending

    @contextmanager
    def locked(self, timeout: float = _files.LOCK_SECONDS) -> Iterator[None]:
        """Holds the directory's lock, with keys private and installs of dead processes finished."""
        with _files.locked(self.directory, timeout):
            for path in self.directory.glob(f"*{_KEY}"):
                _files.make_private(path)
            for path in self.directory.glob(f"*{_NEXT}"):
                name = path.name.removesuffix(_NEXT)
                if (pair := self._pending(name)) is not None:
                    self._install(name, pair)
            yield

    def commit(self, name: str, pair: Pair) -> None:
        """Puts a new pair in place; only under the lock.

        The first write is the commit: a crash before it leaves the old pair, after it the new.
        """
        data = pair.key_pem + encode_certificates(pair.chain)
        _files.write(self.pending_path(name), data, _files.PRIVATE)
        self._install(name, pair)

    def _install(self, name: str, pair: Pair) -> None:
        chain = encode_certificates(pair.chain)
        _files.write(self.key_path(name), pair.key_pem, _files.PRIVATE)
        _files.write(self.certificate_path(name), chain, _files.PUBLIC)
        _files.remove(self.pending_path(name))

    def _try_to_mend(self, name: str) -> None:
        # Somebody who may not write, or finds a writer at work, reads the commit itself.
        if self.pending_path(name).exists():
            with suppress(DirectoryError), self.locked(timeout=0):
                pass

    def _pending(self, name: str) -> Pair | None:
        path = self.pending_path(name)
        data = _files.read(path)
        return None if data is None else Pair.parse(data, data, path, path)
