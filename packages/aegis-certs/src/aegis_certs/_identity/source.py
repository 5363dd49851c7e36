"""Where a process gets its identity from, again and again: at start, at changes, at renewals.

Plain blocking file work without threads: whoever runs a node decides when to look.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self

from aegis_certs._ca.spec import IdentityRequest
from aegis_certs._identity.load import CertificateSource, TLSOptions, load_tls
from aegis_certs._identity.load_or_generate import (
    issuer_replaced,
    load_again,
    load_or_generate,
    renew,
)
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.names import CA_NAME, KeyType
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs.errors import CertsError, DirectoryError, NotYetValidError, RevocationListError

logger = logging.getLogger("aegis_certs")

_Signatures = tuple[tuple[int, ...] | None, ...]


class _Origin(Protocol):
    """What is different between the kinds of sources."""

    @property
    def crl_path(self) -> Path | None: ...
    def signatures(self) -> _Signatures: ...
    def first(self, at: datetime) -> TLSConfig: ...
    def again(self, at: datetime) -> TLSConfig: ...
    def renew(self, current: TLSConfig, at: datetime) -> TLSConfig | None: ...
    def issuer_replaced(self, current: TLSConfig) -> bool: ...


class IdentitySource:
    """Where an identity comes from.

    Make one with `directory`, `of` or `fixed`. It remembers what it gave last, and is for one
    thread at a time.
    """

    def __init__(self, origin: _Origin) -> None:
        self._origin = origin
        self._current: TLSConfig | None = None
        self._seen: _Signatures = ()
        self._revocations = RevocationList.empty()
        self._crl_seen: tuple[object, ...] | None = None

    def __repr__(self) -> str:
        return f"IdentitySource({self._origin!r})"

    @classmethod
    def directory(
        cls,
        node_id: str,
        cert_dir: str | Path = "./certs",
        *,
        hosts: Iterable[str] = (),
        address: str | None = None,
        key_type: KeyType | None = None,
        trust_domain: str | None = None,
    ) -> Self:
        """The source of a node in a directory; the arguments are `load_or_generate_tls`'s.

        Raises:
            InvalidNodeIdError: The node id cannot be one.
            InvalidRequestError: A host, the key type or the trust domain cannot be used.
        """
        wish = IdentityRequest.of(
            node_id, hosts=hosts, address=address, key_type=key_type, trust_domain=trust_domain
        )
        return cls(_Directory(Store(cert_dir), wish))

    @classmethod
    def of(cls, options: TLSOptions) -> Self:
        """The source of an identity that was made elsewhere; variables never change."""
        return cls(_Elsewhere(options))

    @classmethod
    def fixed(cls, tls: TLSConfig) -> Self:
        """The source of an identity that never changes."""
        return cls(_Fixed(tls))

    def load(self, *, at: datetime | None = None) -> TLSConfig:
        """The identity at start: as `load_or_generate_tls` or `load_tls` give it.

        Raises:
            CertsError: As they do.
        """
        self._seen = self._origin.signatures()
        self._current = self._origin.first(utc_or_now(at))
        return self._current

    def poll(self, *, at: datetime | None = None) -> TLSConfig | None:
        """The new identity where leaf, key or trust bundle have changed; None otherwise.

        Without a change it costs a look at five files. What it gives is checked in full.

        Raises:
            CertsError: What is there now cannot be used; go on with what `current` says. It is
                raised once for a change, or by each look where time alone may mend it: where a
                file cannot be read now, or is not valid yet.
        """
        seen = self._origin.signatures()
        if self._current is not None and seen == self._seen:
            return None
        self._seen = seen
        try:
            found = self._origin.again(utc_or_now(at))
        except CertsError as error:
            if _may_pass(error):
                self._seen = ()
            raise
        if found == self._current:
            return None
        self._current = found
        return found

    def renew(self, *, at: datetime | None = None) -> TLSConfig | None:
        """A new leaf with a new key, where the CA's key is at hand; None where it is not.

        Where another process was faster, its leaf is taken. None also says that a new leaf would
        end no later, since the CA ends then.

        Raises:
            CertsError: It could not be issued; go on with what `current` says, and try again.
        """
        current = self._current or self.load(at=at)
        found = self._origin.renew(current, utc_or_now(at))
        if found is not None:
            self._current = found  # the next poll sees what was written, and that it is this
        return found

    @property
    def current(self) -> TLSConfig | None:
        """What was given last; None before the first load."""
        return self._current

    def issuer_replaced(self) -> bool:
        """Tells whether the CA was rotated and this leaf is still from the old one.

        Then `renew` has a reason before the leaf's time. It is only ever true where the CA's key
        is at hand.

        Raises:
            CertsError: The files of the CA cannot be read.
        """
        return self._current is not None and self._origin.issuer_replaced(self._current)

    def revocations(self, *, at: datetime | None = None) -> RevocationList:
        """What is revoked, by the `crl.pem` beside the trust bundle; empty where there is none.

        Without a change it costs a look at one file.

        Raises:
            CertsError: The file is invalid, or older than the last, or gone. It is raised as by
                `poll`; after that the last good list is given.
        """
        path, current = self._origin.crl_path, self._current or self.load(at=at)
        if path is None:
            return self._revocations
        seen = (files.signature(path), current.trust_bundle, current.certificate_chain)
        if seen == self._crl_seen:
            return self._revocations
        self._crl_seen = seen
        try:
            self._revocations = self._read_revocations(path, current, at)
        except CertsError as error:
            if _may_pass(error):
                self._crl_seen = None
            raise
        return self._revocations

    def _read_revocations(
        self, path: Path, current: TLSConfig, at: datetime | None
    ) -> RevocationList:
        if (data := files.read(path)) is None:
            if self._revocations.number is not None:
                raise RevocationListError(path, "it is gone; put it back")
            return self._revocations
        found = RevocationList.from_pem(
            data, current.bundle, intermediates=current.chain[1:], at=at, source=path
        )
        found.check_follows(self._revocations, path)
        if found.is_stale(at):
            logger.warning(
                "the revocation list in %s should have been replaced by %s UTC; "
                "run `aegis-certs renew` where the CA's key is, and copy it here",
                path,
                f"{found.next_update:%Y-%m-%d %H:%M:%S}",
            )
        return found


def _may_pass(error: CertsError) -> bool:
    """Tells whether the same files may be good at the next look."""
    early = isinstance(error, RevocationListError) and error.not_before is not None
    return early or isinstance(error, DirectoryError | NotYetValidError)


class _Directory:
    """A node's files in a certificate directory."""

    def __init__(self, store: Store, wish: IdentityRequest) -> None:
        self._store = store
        self._wish = wish

    def __repr__(self) -> str:
        return f"{self._wish.node_id!r} in {str(self._store.directory)!r}"

    @property
    def crl_path(self) -> Path:
        return self._store.crl_path

    def signatures(self) -> _Signatures:
        return self._store.signatures(self._wish.node_id, CA_NAME)

    def first(self, at: datetime) -> TLSConfig:
        return load_or_generate(self._store, self._wish, at)

    def again(self, at: datetime) -> TLSConfig:
        return load_again(self._store, self._wish, at)

    def renew(self, current: TLSConfig, at: datetime) -> TLSConfig | None:
        return renew(self._store, self._wish, current, at)

    def issuer_replaced(self, current: TLSConfig) -> bool:
        return issuer_replaced(self._store, current)


class _Elsewhere:
    """An identity that was made elsewhere: somebody replaces its files, or nobody does."""

    def __init__(self, options: TLSOptions) -> None:
        self._options = options
        files = (options.cert_file, options.key_file, options.ca_file)
        in_files = options.source is CertificateSource.FILE
        self._files = [Path(file) for file in files if file is not None and in_files]
        ca = options.ca_file if in_files else None
        self._crl_path = None if ca is None else Path(ca).parent / "crl.pem"

    def __repr__(self) -> str:
        return ", ".join(map(str, self._files)) or "environment"

    @property
    def crl_path(self) -> Path | None:
        return self._crl_path

    def signatures(self) -> _Signatures:
        return tuple(files.signature(file) for file in self._files)

    def first(self, at: datetime) -> TLSConfig:
        return load_tls(self._options, at=at)

    again = first

    def renew(self, current: TLSConfig, at: datetime) -> TLSConfig | None:
        return None

    def issuer_replaced(self, current: TLSConfig) -> bool:
        return False


class _Fixed:
    """An identity that is what it is."""

    crl_path = None

    def __init__(self, tls: TLSConfig) -> None:
        self._tls = tls

    def __repr__(self) -> str:
        return repr(self._tls)

    def signatures(self) -> _Signatures:
        return ()

    def first(self, at: datetime) -> TLSConfig:
        return self._tls

    again = first

    def renew(self, current: TLSConfig, at: datetime) -> TLSConfig | None:
        return None

    def issuer_replaced(self, current: TLSConfig) -> bool:
        return False
