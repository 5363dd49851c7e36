"""The certificate directory: where each file lies, and how a pair of files is one.

    ca-cert.pem       the trust bundle, the issuing CA first
    ca-key.pem        the issuing CA's key
    {id}-cert.pem     a node's leaf, then the intermediates
    {id}-key.pem      its key
    {id}.next.pem     key and chain of an identity whose install is under way; CAs have one too
    crl.pem           which certificates are revoked, signed by their CAs
    issued.json       the inventory: what was issued
    audit.jsonl       the log of every issue, renewal, revocation and rotation
    {id}_csr.pem      a request for a certificate, and {id}_csr-key.pem its key
    ca_next-*.pem     the CA that a rotation has prepared
    ca_old-*.pem      the CA that a rotation has replaced, until it is retired

Two renames are not one. So an identity is committed as the one file `{id}.next.pem`, and then
installed under its two names; whoever finds that file reads it, or finishes the install.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509

from aegis_certs._store import files
from aegis_certs._x509.names import CA_NAMES
from aegis_certs._x509.pem import (
    KeyPair,
    encode_certificates,
    parse_certificates,
    private_key_block,
)
from aegis_certs.errors import DirectoryError, KeyMismatchError, NotFoundError

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

    def request_path(self, name: str) -> Path:
        """Where a request for a certificate of this name lies."""
        return self.directory / f"{name}_csr.pem"

    def request_key_path(self, name: str) -> Path:
        """Where the key of that request lies."""
        return self.directory / f"{name}_csr{_KEY}"

    @property
    def crl_path(self) -> Path:
        """Where the revocation lists lie."""
        return self.directory / "crl.pem"

    @property
    def inventory_path(self) -> Path:
        """Where the inventory lies."""
        return self.directory / "issued.json"

    @property
    def audit_path(self) -> Path:
        """Where the audit log lies."""
        return self.directory / "audit.jsonl"

    def signatures(self, name: str, *others: str) -> tuple[tuple[int, ...] | None, ...]:
        """What changes whenever a file of this name, or the chain of another, does."""
        paths = (self.pending_path(name), self.certificate_path(name), self.key_path(name))
        chains = (path(o) for o in others for path in (self.pending_path, self.certificate_path))
        return tuple(files.signature(path) for path in (*paths, *chains))

    def names(self) -> list[str]:
        """The names of all nodes that have a certificate here, sorted."""
        return sorted({*self._names(_CERT), *self._names(_NEXT)}.difference(CA_NAMES))

    def chain(self, name: str) -> tuple[x509.Certificate, ...] | None:
        """The chain of this name alone, or None: for whom the key is not at hand."""
        for path in (self.pending_path(name), self.certificate_path(name)):
            if (data := files.read(path)) is not None:
                return parse_certificates(data, "certificate", path)
        return None

    def has_key(self, name: str) -> bool:
        """Tells whether the key of this name is here."""
        return any(files.exists(path(name)) for path in (self.key_path, self.pending_path))

    def pair(self, name: str, passphrase: bytes | None = None) -> KeyPair | None:
        """Key and chain that belong together, without the lock; None where there is neither.

        A read between two renames of another process may give files that do not fit; then there
        is a commit, or they fit by the next read. So the same misfit twice is a real one.

        Raises:
            NotFoundError: Only one of the two files is there.
            KeyMismatchError: They do not belong together.
            PassphraseError: The key is encrypted, and the passphrase missing or wrong.
            CertsError: One of them cannot be read.
        """
        self._try_to_mend(name)
        chain_path, key_path = self.certificate_path(name), self.key_path(name)
        before = None
        while (pending := self._pending(name, passphrase)) is None:
            both = chain, key = files.read(chain_path), files.read(key_path)
            if chain is None and key is None:
                return None
            if chain and key:
                pair = KeyPair.parse(chain, key, chain_path, key_path, passphrase)
                if pair.matches:
                    return pair
            if both == before:
                if not chain:
                    raise NotFoundError(f"certificate beside {key_path}", chain_path, _MISSING)
                if not key:
                    raise NotFoundError(f"key beside {chain_path}", key_path, _MISSING)
                raise KeyMismatchError(name, chain_path, key_path)
            before = both
        return pending

    @contextmanager
    def locked(self, timeout: float = files.LOCK_SECONDS) -> Iterator[None]:
        """Holds the directory's lock, with keys private and installs of dead processes finished."""
        with files.locked(self.directory, timeout):
            for name in self._names(_KEY):
                files.make_private(self.key_path(name))
            for name in self._names(_NEXT):
                self._install(name, self.pending_path(name))
            yield

    def commit(self, name: str, pair: KeyPair) -> None:
        """Puts a new pair in place; only under the lock.

        The first write is the commit: a crash before it leaves the old pair, after it the new.
        """
        path = self.pending_path(name)
        data = pair.key_pem + encode_certificates(pair.chain)
        files.write(path, data, files.PRIVATE)
        self._install(name, path)

    def replace_chain(self, name: str, chain: Iterable[x509.Certificate]) -> None:
        """Puts another chain beside the same key; only under the lock."""
        files.write(self.certificate_path(name), encode_certificates(chain), files.PUBLIC)

    def remove(self, name: str) -> None:
        """Removes the files of this name, the key first; only under the lock."""
        for path in (self.key_path(name), self.certificate_path(name)):
            files.remove(path)

    def _names(self, ending: str) -> list[str]:
        return [found.removesuffix(ending) for found in files.names(self.directory, f"*{ending}")]

    def _install(self, name: str, pending: Path) -> None:
        if (data := files.read(pending)) is None:
            return  # another process was faster
        key = private_key_block(data, "private key", pending)
        chain = encode_certificates(parse_certificates(data, "certificate", pending))
        files.write(self.key_path(name), key, files.PRIVATE)
        files.write(self.certificate_path(name), chain, files.PUBLIC)
        files.remove(pending)

    def _try_to_mend(self, name: str) -> None:
        # Somebody who may not write, or finds a writer at work, reads the commit itself.
        if files.exists(self.pending_path(name)):
            with suppress(DirectoryError), self.locked(timeout=0):
                pass

    def _pending(self, name: str, passphrase: bytes | None) -> KeyPair | None:
        path = self.pending_path(name)
        data = files.read(path)
        return None if data is None else KeyPair.parse(data, data, path, path, passphrase)
