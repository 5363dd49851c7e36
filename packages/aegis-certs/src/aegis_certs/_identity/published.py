"""What a mesh publishes, kept in the certificate directory of one of its processes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509

from aegis_certs._ca.enrolment.issuer_addresses import read_issuer_addresses
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._x509.issuer_address import IssuerAddress
from aegis_certs._x509.names import CA_NAME
from aegis_certs._x509.pem import encode_crls, parse_crls
from aegis_certs._x509.revocation_list import RevocationList, crl_number
from aegis_certs._x509.trust import TrustBundle, needed_cas
from aegis_certs.errors import CertsError

logger = logging.getLogger("aegis_certs")

_FOLDER = "documents"


class PublishedFiles:
    """The files that follow what the CA of a mesh publishes; every method blocks.

    `crl.pem` and `ca-cert.pem` are replaced, and documents are kept in the folder `documents`. The
    `ca-cert.pem` beside the key of a CA is the source of what is published, so it is not replaced.

    Args:
        directory: The certificate directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self._store = Store(directory)
        self._folder = self._store.directory / _FOLDER

    def __repr__(self) -> str:
        return f"PublishedFiles({str(self._store.directory)!r})"

    @property
    def has_ca_key(self) -> bool:
        """Whether the key of the issuing CA is in the directory."""
        return self._store.has_key(CA_NAME)

    def read(self, name: str) -> bytes | None:
        """The content of a document; None without it.

        Raises:
            DirectoryError: It cannot be read.
        """
        return files.read(self._folder / name)

    def write(self, name: str, content: bytes) -> None:
        """Keeps a document.

        Raises:
            DirectoryError: It cannot be written.
        """
        path = self._folder / name
        if files.read(path) == content:
            return
        with self._store.locked(), files.locked(self._folder):
            files.write(path, content, files.PRIVATE)

    def stat_keys(self, *names: str) -> tuple[object, ...]:
        """A value that changes when one of these documents does, or a file of the CA."""
        store = self._store
        own = (store.crl_path, store.certificate_path(CA_NAME), store.pending_path(CA_NAME))
        return tuple(
            files.stat_key(path)
            for path in (*own, store.issuers_path, *(self._folder / name for name in names))
        )

    def read_bundle(self) -> TrustBundle | None:
        """The CAs in `ca-cert.pem`; None without the file.

        Raises:
            CertsError: It cannot be read.
        """
        chain = self._store.chain(CA_NAME)
        return None if chain is None else TrustBundle(chain)

    def read_issuers(self) -> tuple[IssuerAddress, ...]:
        """The issuers of the CA in this directory."""
        return read_issuer_addresses(self._store)

    def read_crls(self) -> tuple[bytes, ...]:
        """The CRLs in `crl.pem` in DER, unverified; empty without the file, or if it is damaged."""
        try:
            data = files.read(self._store.crl_path)
            crls = () if data is None else parse_crls(data, source=self._store.crl_path)
        except CertsError:
            return ()
        return tuple(RevocationList.der_of(crl) for crl in crls)

    def merge_revocations(self, published: RevocationList) -> None:
        """Writes the newest CRL of each CA to `crl.pem`: a published one, or the one in the file.

        Raises:
            DirectoryError: It cannot be written.
        """
        theirs = [x509.load_der_x509_crl(crl) for crl in published.crls]
        if not _newer(theirs, self._own_crls()):
            return
        with self._store.locked():
            own = self._own_crls()
            newer = _newer(theirs, own)
            replaced = {crl.issuer.public_bytes() for crl in newer}
            kept = [crl for crl in own if crl.issuer.public_bytes() not in replaced]
            if newer:
                data = encode_crls([*kept, *newer])
                files.write(self._store.crl_path, data, files.PUBLIC)
                logger.info("%s has the published revocations", self._store.crl_path)

    def replace_bundle(self, published: TrustBundle) -> None:
        """Writes the published CAs to `ca-cert.pem`.

        A CA that a certificate in this directory still chains to is kept.

        Raises:
            CertsError: It cannot be read or written.
        """
        if self.has_ca_key or not self._lacks(published):
            return
        with self._store.locked():
            self._store.replace_chain(CA_NAME, self._successor(published).certificates)
            logger.info("%s has the published CAs", self._store.certificate_path(CA_NAME))

    def _lacks(self, published: TrustBundle) -> bool:
        known = self._store.chain(CA_NAME)
        wanted = self._successor(published).certificates
        return known is None or known[0] != wanted[0] or {*known} != {*wanted}

    def _successor(self, published: TrustBundle) -> TrustBundle:
        known = self._store.chain(CA_NAME)
        if known is None:
            return published
        kept: dict[x509.Certificate, None] = {}
        for name in self._store.names():
            try:
                chain = self._store.chain(name)
            except CertsError:
                continue
            if chain is not None:
                kept |= dict.fromkeys(needed_cas(chain, TrustBundle(known), published))
        return TrustBundle((*published.certificates, *kept))

    def _own_crls(self) -> list[x509.CertificateRevocationList]:
        return [x509.load_der_x509_crl(crl) for crl in self.read_crls()]


def _newer(
    theirs: Iterable[x509.CertificateRevocationList], own: Iterable[x509.CertificateRevocationList]
) -> list[x509.CertificateRevocationList]:
    known = {crl.issuer.public_bytes(): crl_number(crl) for crl in own}
    return [crl for crl in theirs if crl_number(crl) > known.get(crl.issuer.public_bytes(), -1)]
