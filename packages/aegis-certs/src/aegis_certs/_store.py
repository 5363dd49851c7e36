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
from dataclasses import dataclass
from pathlib import Path

from . import _files
from ._naming import CA_NAME
from ._pem import belongs, encode_certificates, parse_certificates, parse_private_key
from .errors import CertsError, DirectoryError, KeyMismatchError, NotFoundError

_NEXT = ".next.pem"
_CERT = "-cert.pem"
_KEY = "-key.pem"
_READS = 20


@dataclass(frozen=True)
class StoredPair:
    """Key and chain of one name as they lie in the directory; PEM."""

    chain: bytes
    key: bytes
    chain_path: Path
    key_path: Path

    @property
    def fits(self) -> bool:
        """Tells whether the key is the first certificate's; raises where either is unreadable."""
        certificates = parse_certificates(self.chain, source=self.chain_path)
        return belongs(parse_private_key(self.key, source=self.key_path)[0], certificates[0])

    def misfit(self, name: str) -> CertsError:
        """The error that says why these are no pair."""
        advice = "copy it here, or move the other file away too to have both made anew"
        if not self.chain:
            return NotFoundError(f"certificate beside {self.key_path}", self.chain_path, advice)
        if not self.key:
            return NotFoundError(f"key beside {self.chain_path}", self.key_path, advice)
        return KeyMismatchError(name, self.chain_path, self.key_path)


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

    def chain(self, name: str) -> bytes | None:
        """The chain of this name alone, or None: for whom the key is not at hand."""
        pending = _files.read(self.pending_path(name))
        return pending or _files.read(self.certificate_path(name))

    def has_key(self, name: str) -> bool:
        """Tells whether the key of this name is here."""
        return self.key_path(name).exists() or self.pending_path(name).exists()

    def pair(self, name: str) -> StoredPair | None:
        """Key and chain that belong together, without the lock; None where there is neither.

        A read between two renames of another process gives a pair that does not fit; the next
        read finds the commit, or both files.

        Raises:
            NotFoundError: Only one of the two files is there.
            KeyMismatchError: They do not belong together, and do not come to.
            CertsError: One of them cannot be read.
        """
        self._try_to_mend(name)
        reads = 0
        while (pair := self._pending(name) or self._installed(name)) is not None:
            if pair.chain and pair.key and pair.fits:
                return pair
            reads += 1
            if reads == _READS:
                raise pair.misfit(name)
        return None

    @contextmanager
    def locked(self, timeout: float = _files.LOCK_SECONDS) -> Iterator[None]:
        """Holds the directory's lock, with keys private and installs of dead processes finished."""
        with _files.locked(self.directory, timeout):
            for path in self.directory.glob(f"*{_KEY}"):
                _files.make_private(path)
            for path in self.directory.glob(f"*{_NEXT}"):
                self._install(path.name.removesuffix(_NEXT))
            yield

    def commit(self, name: str, key: bytes, chain: bytes) -> None:
        """Puts a new pair in place; only under the lock.

        The first write is the commit: a crash before it leaves the old pair, after it the new.
        """
        _files.write(self.pending_path(name), key + chain, _files.PRIVATE)
        self._install(name)

    def _install(self, name: str) -> None:
        pending = self._pending(name)
        if pending is None:
            return
        _, key = parse_private_key(pending.key, source=pending.key_path)
        chain = parse_certificates(pending.chain, source=pending.chain_path)
        _files.write(self.key_path(name), key, _files.PRIVATE)
        _files.write(self.certificate_path(name), encode_certificates(chain), _files.PUBLIC)
        _files.remove(self.pending_path(name))

    def _try_to_mend(self, name: str) -> None:
        # Somebody who may not write, or finds a writer at work, reads the commit itself.
        if self.pending_path(name).exists():
            with suppress(DirectoryError), self.locked(timeout=0):
                pass

    def _pending(self, name: str) -> StoredPair | None:
        path = self.pending_path(name)
        data = _files.read(path)
        return StoredPair(data, data, path, path) if data else None

    def _installed(self, name: str) -> StoredPair | None:
        chain_path, key_path = self.certificate_path(name), self.key_path(name)
        chain, key = _files.read(chain_path), _files.read(key_path)
        return StoredPair(chain or b"", key or b"", chain_path, key_path) if chain or key else None
