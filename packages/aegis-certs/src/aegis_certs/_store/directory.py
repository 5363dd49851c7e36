"""The certificate directory: the file of each name, and how two files are committed as one.

    ca-cert.pem       the trust bundle, the issuing CA first
    ca-key.pem        the issuing CA's key
    {id}-cert.pem     a node's leaf, then the intermediates
    {id}-key.pem      its key
    {id}.next.pem     key and chain of an identity that is being installed; CAs have one too
    crl.pem           the revoked certificates, signed by their CAs
    issued.json       the inventory: the certificates and tokens that were issued
    issuers.json      where the issuers of this CA can be reached, for tokens
    .reserve          space that a revocation uses when the disk is full
    audit.jsonl       the log of every issue, token, renewal, revocation, removal and rotation
    audit-1.jsonl     its earlier parts
    {id}_csr.pem      a request for a certificate, and {id}_csr-key.pem its key
    ca_next-*.pem     the CA that a rotation has prepared
    ca_old-*.pem      the CA that a rotation has replaced, until it is retired
    ca_documents-*.pem    the signer of the documents of the mesh

Two renames are not atomic. So an identity is committed as the one file `{id}.next.pem`, and then
installed under its two names; a process that finds that file reads it, or finishes the install.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from aegis_certs._store import files
from aegis_certs._x509.names import CA_NAME, CA_NAMES
from aegis_certs._x509.pem import (
    KeyPair,
    encode_certificates,
    parse_certificates,
    private_key_block,
)
from aegis_certs.errors import (
    DirectoryError,
    InvalidPemError,
    KeyMismatchError,
    NotFoundError,
    PassphraseError,
)

CRL_FILE = "crl.pem"
AUDIT_FILE = "audit.jsonl"
_RESERVE = 64 << 10  # bytes: room for a revocation list, the log and the inventory
_Result = TypeVar("_Result")
_NEXT = ".next.pem"
_CERT = "-cert.pem"
_KEY = "-key.pem"


@lru_cache(maxsize=64)  # a node looks at the same few files every two seconds
def _joined(directory: Path, name: str) -> Path:
    return directory / name


class Store:
    """One certificate directory. Names are `ca`, or node ids that are already validated."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.crl_path = self.directory / CRL_FILE
        self.inventory_path = self.directory / "issued.json"
        self.audit_path = self.directory / AUDIT_FILE
        self.issuers_path = self.directory / "issuers.json"
        self.reserve_path = self.directory / ".reserve"

    def __repr__(self) -> str:
        return f"Store({str(self.directory)!r})"

    def certificate_path(self, name: str) -> Path:
        return _joined(self.directory, f"{name}{_CERT}")

    def key_path(self, name: str) -> Path:
        return _joined(self.directory, f"{name}{_KEY}")

    def pending_path(self, name: str) -> Path:
        return _joined(self.directory, f"{name}{_NEXT}")

    def request_path(self, name: str) -> Path:
        return self.directory / f"{name}_csr.pem"

    def request_key_path(self, name: str) -> Path:
        return self.directory / f"{name}_csr{_KEY}"

    def stat_keys(self, name: str, *others: str) -> tuple[files.StatKey | None, ...]:
        """Values that change when a file of this name changes, or the chain of another name."""
        paths = (self.pending_path(name), self.certificate_path(name), self.key_path(name))
        chains = (path(o) for o in others for path in (self.pending_path, self.certificate_path))
        return tuple(files.stat_key(path) for path in (*paths, *chains))

    def names(self) -> list[str]:
        """The names of all nodes with a certificate in this directory, sorted."""
        return sorted({*self._names(_CERT), *self._names(_NEXT)}.difference(CA_NAMES))

    def key_names(self) -> list[str]:
        """The names with a key in this directory, except those of CAs and of requests."""
        return [name for name in self._names(_KEY) if name != CA_NAME and "_" not in name]

    def chain(self, name: str) -> tuple[x509.Certificate, ...] | None:
        """The chain of this name, or None; this does not need the key."""
        for path in (self.pending_path(name), self.certificate_path(name)):
            if (data := files.read(path)) is not None:
                return parse_certificates(data, "certificate", path)
        return None

    def has_key(self, name: str) -> bool:
        """Whether the key of this name is in this directory."""
        return any(files.exists(path(name)) for path in (self.key_path, self.pending_path))

    def pair(self, name: str, passphrase: bytes | None = None) -> KeyPair | None:
        """The key and chain of this name, read without the lock; None if both are missing.

        A read between two renames of another process may give files that do not match. Then
        there is a commit to read, or the files match at the next read. So files that do not match
        twice in the same way are a real mismatch.

        Raises:
            NotFoundError: Only one of the two files exists.
            KeyMismatchError: The key does not belong to the certificate.
            PassphraseError: The key is encrypted, and the passphrase is missing or wrong.
            CertsError: One of them cannot be read.
        """
        self._try_to_install(name)
        chain_path, key_path = self.certificate_path(name), self.key_path(name)
        before = None
        while (pending := self._pending(name, passphrase)) is None:
            both = chain, key = files.read(chain_path), files.read(key_path)
            if chain is None and key is None:
                return None
            if chain and key:
                pair = self._parsed(name, chain, key, passphrase)
                if pair.matches:
                    return pair
            if both == before:
                advice = f"copy it here, or {_replace(name)}"
                if not chain:
                    raise NotFoundError(f"certificate for {key_path}", chain_path, advice)
                if not key:
                    raise NotFoundError(f"key for {chain_path}", key_path, advice)
                raise KeyMismatchError(name, chain_path, key_path)
            before = both
        return pending

    def _parsed(self, name: str, chain: bytes, key: bytes, passphrase: bytes | None) -> KeyPair:
        paths = self.certificate_path(name), self.key_path(name)
        try:
            return KeyPair.parse(chain, key, *paths, passphrase)
        except PassphraseError:
            raise
        except InvalidPemError as error:
            if name == CA_NAME:
                raise
            reason = f"{error.reason}, or {_replace(name)}"
            raise InvalidPemError(error.what, reason, error.source) from error

    @property
    def was_locked(self) -> bool:
        """Whether a process holds the lock, or has held it before."""
        return files.exists(self.directory / files.LOCK)

    @contextmanager
    def locked(self, timeout: float = files.LOCK_SECONDS) -> Iterator[None]:
        """Holds the lock; first makes keys private and finishes installs of dead processes."""
        with files.locked(self.directory, timeout):
            files.make_private(self.directory, _KEY)
            for name in self._names(_NEXT):
                try:
                    self._install(name)
                except DirectoryError as error:
                    if not files.is_full(error):
                        raise  # on a full disk, all readers read the commit instead
            yield

    def commit(self, name: str, pair: KeyPair) -> None:
        """Replaces the key pair of this name; the caller holds the lock.

        The first write is the commit: a crash before it keeps the old pair, a crash after it the
        new one.
        """
        with self.drafted(name, pair) as install:
            install()

    @contextmanager
    def drafted(self, name: str, pair: KeyPair) -> Iterator[Callable[[], None]]:
        """Writes the files of a key pair; the result commits it, even if the disk is full now."""
        pending, chain = self.pending_path(name), encode_certificates(pair.chain)
        with (
            files.drafted(pending, pair.key_pem + chain, files.PRIVATE) as commit,
            files.drafted(self.key_path(name), pair.key_pem, files.PRIVATE) as publish_key,
            files.drafted(self.certificate_path(name), chain, files.PUBLIC) as publish_chain,
        ):

            def install() -> None:
                commit()
                publish_key()
                publish_chain()
                files.remove(pending)

            yield install

    def reserve(self) -> None:
        """Reserves space for the next revocation; the caller holds the lock."""
        written = (files.status(path) for path in (self.crl_path, self.inventory_path))
        size = sum(found.st_size for found in written if found)
        files.reserve(self.reserve_path, _RESERVE + 2 * size)

    def with_reserve(self, work: Callable[[], _Result]) -> _Result:
        """Does some work; if the disk is full, frees the reserved space and does it again."""
        try:
            return work()
        except DirectoryError as error:
            if not files.is_full(error) or not files.exists(self.reserve_path):
                raise
            files.remove(self.reserve_path)
            return work()

    def replace_chain(self, name: str, chain: Iterable[x509.Certificate]) -> None:
        """Replaces the chain and keeps the key; the caller holds the lock."""
        self._install(name)  # readers would prefer a commit that is not installed yet
        files.write(self.certificate_path(name), encode_certificates(chain), files.PUBLIC)

    def remove(self, name: str) -> None:
        """Removes the files of this name, the key first; the caller holds the lock."""
        for path in (self.pending_path(name), self.key_path(name), self.certificate_path(name)):
            files.remove(path)

    def _names(self, ending: str) -> list[str]:
        return [found.removesuffix(ending) for found in files.names(self.directory, f"*{ending}")]

    def _install(self, name: str) -> None:
        pending = self.pending_path(name)
        if (data := files.read(pending)) is None:
            return  # another process was faster
        key = private_key_block(data, "private key", pending)
        chain = encode_certificates(parse_certificates(data, "certificate", pending))
        files.write(self.key_path(name), key, files.PRIVATE)
        files.write(self.certificate_path(name), chain, files.PUBLIC)
        files.remove(pending)

    def _try_to_install(self, name: str) -> None:
        # A process that may not write, or that finds the lock held, reads the commit instead.
        if files.exists(self.pending_path(name)):
            with suppress(DirectoryError), self.locked(timeout=0):
                pass

    def _pending(self, name: str, passphrase: bytes | None) -> KeyPair | None:
        path = self.pending_path(name)
        data = files.read(path)
        if data is None:
            return None
        return KeyPair.parse(data, data, path, path, passphrase)


def _replace(name: str) -> str:
    """What to do where no copy of a file exists, since a node's key never leaves its machine."""
    return (
        f"replace both where the CA's key is: issue them again (`aegis-certs issue {name}`), or "
        f"make a token to enrol again (`aegis-certs token {name}`)"
    )
