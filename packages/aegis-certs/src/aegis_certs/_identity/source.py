"""The source of a process's identity: at start, when its files change, and when it is renewed.

Everything here is blocking file work without threads; the code that runs a node decides when to
poll.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from aegis_certs._identity.origin import FixedOrigin, Origin, StatKeys
from aegis_certs._store import files
from aegis_certs._store.directory import AUDIT_FILE, Store
from aegis_certs._time import format_utc, utc_or_now
from aegis_certs._x509.names import CA_NAME
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs._x509.trust import TrustBundle, needed_cas
from aegis_certs.errors import CertsError, DirectoryError, NotYetValidError, RevocationListError

if TYPE_CHECKING:
    from aegis_certs._ca.spec import RequestOptions
    from aegis_certs._identity.load import TLSOptions
    from aegis_certs._identity.published import PublishedFiles
    from aegis_certs._identity.requested import RequestedIdentity

logger = logging.getLogger("aegis_certs")


class IdentitySource:
    """The source of an identity: create it with `directory`, `of` or `fixed`.

    It remembers the last identity that it returned. Use it from one thread at a time.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._current: TLSConfig | None = None
        self._replaced: TLSConfig | None = None
        self._seen: StatKeys = ()
        self._revocations = RevocationList.empty()
        self._crl_seen: tuple[object, ...] | None = None
        self._overdue: datetime | None = None

    def __repr__(self) -> str:
        return f"IdentitySource({self._origin!r})"

    @classmethod
    def directory(
        cls,
        node_id: str,
        cert_dir: str | Path = "./certs",
        *,
        create_ca: bool = True,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """The source of a node's identity in a directory.

        The arguments are those of `load_or_generate_tls`: `hosts`, `address`, `key_type` and
        `trust_domain`. With `create_ca=False`, a directory without a CA is an error.

        Raises:
            InvalidNodeIdError: The node id is invalid.
            InvalidRequestError: A host, the key type or the trust domain is invalid.
        """
        # What a directory needs takes a while to load, and other sources have none.
        from aegis_certs._ca.spec import IdentityRequest
        from aegis_certs._identity.load_or_generate import DirectoryOrigin

        request = IdentityRequest.parse(node_id, **options)
        return cls(DirectoryOrigin(cert_dir, request, create_ca=create_ca))

    @classmethod
    def of(cls, options: TLSOptions) -> Self:
        """The source of an identity from elsewhere; environment variables never change."""
        from aegis_certs._identity.load import ExternalOrigin

        return cls(ExternalOrigin(options))

    @classmethod
    def fixed(cls, tls: TLSConfig) -> Self:
        """The source of an identity that never changes."""
        return cls(FixedOrigin(tls))

    def load(self, *, at: datetime | None = None) -> TLSConfig:
        """The identity at start, as `load_or_generate_tls` or `load_tls` returns it.

        Raises:
            CertsError: As they do.
        """
        self._seen = self._origin.stat_keys()
        self._current = self._origin.load(utc_or_now(at))
        return self._current

    def poll(self, *, at: datetime | None = None) -> TLSConfig | None:
        """The new identity if leaf, key or trust bundle have changed; None otherwise.

        Without a change this only calls stat on five files. A new identity is checked in full.

        Raises:
            CertsError: The new files cannot be used; go on with `current`. It is raised once for
                a change. It is raised by every poll if time alone may solve the problem: a file
                cannot be read now, or is not valid yet.
        """
        seen = self._origin.stat_keys()
        if self._current is not None and seen == self._seen:
            return None
        self._seen = seen
        try:
            found = self._origin.reload(utc_or_now(at))
        except CertsError as error:
            if _is_transient(error):
                self._seen = ()
            raise
        current, replaced = self._current, self._replaced
        if found in (current, replaced):
            return None
        if (
            current is not None
            and replaced is not None
            and found.certificate == replaced.certificate
        ):
            found = _trusting(current, found.bundle)  # only the CAs in the files have changed
        else:
            self._replaced = None
        self._current = found
        return found

    def renew(self, *, at: datetime | None = None) -> TLSConfig | None:
        """A new leaf with a new key if the CA's key is available; None otherwise.

        If another process has renewed the leaf already, that leaf is returned.

        Raises:
            CAEndsError: A new leaf would not live longer. Replace the CA.
            CertsError: No leaf could be issued; go on with `current`, and try again later.
        """
        current = self._current or self.load(at=at)
        found = self._origin.renew(current, utc_or_now(at))
        if found is not None:
            self._current = found  # so the next poll does not report our own change
        return found

    def requesting(
        self, current: TLSConfig, *, at: datetime | None = None
    ) -> AbstractContextManager[RequestedIdentity]:
        """A request to an issuer of the mesh for the successor of an identity.

        Its key is kept, so that the next request has the same one. It may be used in a thread of
        its own.

        Raises:
            LockTimeoutError: Another process asks for this identity already.
        """
        return self._origin.requesting(current, utc_or_now(at))

    def adopt(self, tls: TLSConfig) -> None:
        """Continues with an identity that an issuer has given.

        If it is not in the files, these keep the leaf that it replaces, which is not loaded again.
        The CAs in the files are.
        """
        self._replaced, self._current = self._current, tls

    @property
    def current(self) -> TLSConfig | None:
        """The last identity that was returned; None before the first load."""
        return self._current

    @property
    def published(self) -> PublishedFiles | None:
        """The files that follow what the mesh publishes; None without a directory of our own."""
        directory = self._origin.directory
        if directory is None:
            return None
        from aegis_certs._identity.published import PublishedFiles

        return PublishedFiles(directory)

    @property
    def keeps_renewals(self) -> bool:
        """Whether a renewed identity is kept in files: in a directory that can be written."""
        directory = self._origin.directory
        return directory is not None and os.access(directory, os.W_OK | os.X_OK)

    @property
    def has_ca_key(self) -> bool:
        """Whether the CA's key is beside the identity, so that no issuer is needed."""
        directory = self._origin.directory
        return directory is not None and Store(directory).has_key(CA_NAME)

    def issuer_replaced(self) -> bool:
        """Whether a rotation has replaced the CA that issued the current leaf.

        Then call `renew` before the leaf is due. This is only true if the CA's key is available.

        Raises:
            CertsError: The files of the CA cannot be read.
        """
        return self._current is not None and self._origin.issuer_replaced(self._current)

    def revocations(self, *, at: datetime | None = None) -> RevocationList:
        """The `crl.pem` beside the trust bundle; an empty list without that file.

        In the directory of a CA, what its audit log revokes counts too, even if the file is lost.
        Without a change this only calls stat on one file. A list that is past its next update stays
        in use, with one warning in the log.

        Raises:
            CertsError: The file is invalid, older than the last one, or missing. It is raised as
                by `poll`; later calls return the last good list.
        """
        path, current = self._origin.crl_path, self._current or self.load(at=at)
        if path is None:
            return self._revocations
        seen = (files.stat_key(path), current.trust_bundle, current.certificate_chain)
        if seen == self._crl_seen:
            self._warn_if_overdue(path, at)
            return self._revocations
        self._crl_seen = seen
        try:
            self._revocations = self._read_revocations(path, current, at)
        except CertsError as error:
            if _is_transient(error):
                self._crl_seen = None
            raise
        self._warn_if_overdue(path, at)
        return self._revocations

    def _read_revocations(
        self, path: Path, current: TLSConfig, at: datetime | None
    ) -> RevocationList:
        from aegis_certs._ca.known_revocations import logged_revocations

        at, bundle = utc_or_now(at), current.bundle
        cas = (*bundle.certificates, *current.chain[1:])
        logged = logged_revocations(path.with_name(AUDIT_FILE), bundle, at)
        self._revocations = self._revocations.adding(logged, cas)  # even if the file is damaged
        if (data := files.read(path)) is None:
            if self._revocations.number is not None:
                raise RevocationListError(path, "the file is missing; put it back")
            return self._revocations
        found = RevocationList.from_pem(
            data, bundle, intermediates=current.chain[1:], at=at, source=path
        ).adding(logged, cas)
        found.check_follows(self._revocations, path)
        return found

    def _warn_if_overdue(self, path: Path, at: datetime | None) -> None:
        """Warns once of each list that should have been replaced."""
        due = self._revocations.next_update
        if due is None or due == self._overdue or not self._revocations.is_stale(at):
            return
        self._overdue = due
        logger.warning(
            "the revocation list in %s should have been replaced by %s; "
            "run `aegis-certs renew` where the CA's key is, and copy the file here",
            path,
            format_utc(due),
        )


def _trusting(tls: TLSConfig, bundle: TrustBundle) -> TLSConfig:
    """An identity with other CAs, and with those of its own certificate."""
    kept = needed_cas(tls.chain, tls.bundle, bundle)
    return replace(tls, trust_bundle=TrustBundle((*bundle.certificates, *kept)).pem)


def _is_transient(error: CertsError) -> bool:
    """Whether the same files may be good at the next poll."""
    early = isinstance(error, RevocationListError) and error.not_before is not None
    return early or isinstance(error, DirectoryError | NotYetValidError)
