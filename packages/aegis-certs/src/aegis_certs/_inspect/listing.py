"""What a CA issued and a directory holds, for people and machines to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from aegis_certs._ca.crl import read_revocations
from aegis_certs._ca.inventory import Inventory, IssuedCertificate
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.keys import describe_key, key_id
from aegis_certs._x509.names import CA_NAME, NEXT_CA_NAME, OLD_CA_NAME
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import CertificateState, common_name, state_between, state_by_dates
from aegis_certs.errors import (
    CertsError,
    IdentityError,
    NotFoundError,
    RevokedError,
    UntrustedError,
)

_USABLE = (CertificateState.VALID, CertificateState.EXPIRING)


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """One certificate.

    Attributes:
        id: The node id; `ca`, `ca_next` or `ca_old`; the common name of a further CA.
        path: Its file; None where it is not in the directory (any more).
        state: Where it stands.
        problem: Why it is untrusted, revoked or unreadable; empty otherwise.
        serial: Its serial number in hexadecimal; this and what follows is empty, or None, where
            the file cannot be read.
        key: The kind of its key, as in `KeyType`.
        sans: Its subject alternative names: DNS names, IP addresses, URIs.
        not_before: Its start (UTC).
        not_after: Its end (UTC).
        days_left: Whole days until its end; negative once it has expired.
    """

    id: str
    path: Path | None
    state: CertificateState
    problem: str = ""
    serial: str = ""
    key: str = ""
    sans: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    days_left: int | None = None


def list_certificates(
    directory: str | Path = "./certs", *, at: datetime | None = None
) -> tuple[CertificateInfo, ...]:
    """Every certificate that was issued or lies here: the CAs first, then the nodes by their ids.

    Of a node the one in place comes first, then the others from the newest to the oldest. Keys
    are not read, and a file that cannot be read is an entry too.

    Args:
        directory: The directory.
        at: The moment to judge at; now where none is given.

    Raises:
        NotFoundError: There is no such directory.
        InventoryError: A newer version of this package wrote the inventory.
    """
    store = Store(directory)
    if not files.is_directory(store.directory):
        advice = "make a CA with `aegis-certs init`, or name the directory that has one"
        raise NotFoundError("certificate directory", store.directory, advice)
    return tuple(_Listing(store, utc_or_now(at)).entries())


class _Listing:
    def __init__(self, store: Store, at: datetime) -> None:
        self._store = store
        self._at = at
        self._inventory = Inventory.load(store)
        self._bundle: TrustBundle | None = None
        self._issuers: set[str] = set()
        self._revocations = RevocationList.empty()

    def entries(self) -> Iterator[CertificateInfo]:
        yield from self._cas()
        by_node: dict[str, list[IssuedCertificate]] = {}
        for entry in self._inventory:
            by_node.setdefault(entry.id, []).append(entry)
        in_place = set(self._store.names())
        for name in sorted(in_place | by_node.keys()):
            recorded = by_node.get(name, [])
            shown = ""
            if name in in_place:
                found = self._in_place(name)
                shown = found.serial
                yield found
            for entry in reversed(recorded):
                if entry.serial != shown:
                    yield self._recorded(entry, is_latest=entry is recorded[-1])

    def _cas(self) -> Iterator[CertificateInfo]:
        path = self._store.certificate_path(CA_NAME)
        try:
            chain = self._store.chain(CA_NAME)
        except CertsError as error:
            yield CertificateInfo(CA_NAME, path, CertificateState.UNREADABLE, str(error))
            return
        if chain is None:
            return
        self._bundle = TrustBundle(chain)
        self._issuers = {key_id(ca).hex() for ca in chain}
        problem = ""
        try:
            self._revocations = read_revocations(self._store, self._bundle, self._at)
        except CertsError as error:
            problem = str(error)
        rotating = {
            found[0]: name for name in (NEXT_CA_NAME, OLD_CA_NAME) if (found := self._chain(name))
        }
        for ca in chain:
            name = CA_NAME if ca is chain[0] else rotating.get(ca) or common_name(ca.subject)
            state = state_by_dates(ca, self._at)
            yield _info(name, path, ca, state, problem if name == CA_NAME else "", self._at)

    def _chain(self, name: str) -> tuple[x509.Certificate, ...] | None:
        try:
            return self._store.chain(name)
        except CertsError:
            return None

    def _in_place(self, name: str) -> CertificateInfo:
        path = self._store.certificate_path(name)
        try:
            chain = self._store.chain(name)
            if chain is None:
                raise NotFoundError("certificate", path, "it went away meanwhile")
        except CertsError as error:
            return CertificateInfo(name, path, CertificateState.UNREADABLE, str(error))
        state = state_by_dates(chain[0], self._at)
        problem = ""
        try:
            self._check(name, chain)
        except RevokedError as error:
            state, problem = CertificateState.REVOKED, str(error)
        except CertsError as error:
            problem = str(error)
            state = CertificateState.UNTRUSTED if state in _USABLE else state
        return _info(name, path, chain[0], state, problem, self._at)

    def _check(self, name: str, chain: Sequence[x509.Certificate]) -> None:
        """Raises where a node would not take the chain for this name."""
        if self._bundle is None:
            raise UntrustedError(name, "the directory has no CA certificate that can be read")
        self._revocations.check(chain[0], chain[1:], subject=name)
        proved = self._bundle.verify(chain, None, at=self._at).node_id
        if proved != name:
            raise IdentityError(f"it is the certificate of {proved}", proved)

    def _recorded(self, entry: IssuedCertificate, *, is_latest: bool) -> CertificateInfo:
        state = state_between(entry.not_before, entry.not_after, self._at)
        if self._revocations.has_serial(entry.serial):
            state = CertificateState.REVOKED
        elif state in _USABLE and entry.issuer not in self._issuers:
            state = CertificateState.UNTRUSTED  # its CA was retired
        elif not is_latest and state in _USABLE:
            state = CertificateState.REPLACED
        return CertificateInfo(
            id=entry.id,
            path=None,
            state=state,
            serial=entry.serial,
            key=entry.key,
            sans=entry.sans,
            not_before=entry.not_before,
            not_after=entry.not_after,
            days_left=(entry.not_after - self._at).days,
        )


def _info(
    name: str,
    path: Path,
    certificate: x509.Certificate,
    state: CertificateState,
    problem: str,
    at: datetime,
) -> CertificateInfo:
    names = alternative_names(certificate)
    return CertificateInfo(
        id=name,
        path=path,
        state=state,
        problem=problem,
        serial=f"{certificate.serial_number:x}",
        key=describe_key(certificate.public_key()),
        sans=(*names.dns, *map(str, names.ips), *names.uris),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        days_left=(certificate.not_valid_after_utc - at).days,
    )
