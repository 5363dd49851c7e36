"""What a certificate directory holds, for people and machines to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from ._identity import alternative_names
from ._keys import describe_key
from ._lifetime import CertificateState, moment, state_by_dates
from ._naming import CA_NAME
from ._store import Store
from ._trust import TrustBundle
from .errors import CertsError, IdentityError, NotFoundError, UntrustedError


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """One certificate of a directory.

    Attributes:
        id: The node id, or `ca`.
        path: Its file.
        state: Where it stands.
        problem: Why it is untrusted or unreadable; empty otherwise.
        serial: Its serial number in hexadecimal; this and what follows is empty, or None, where
            the file cannot be read.
        key: The kind of its key, as in `KeyType`.
        sans: Its subject alternative names: DNS names, IP addresses, URIs.
        not_before: Its start (UTC).
        not_after: Its end (UTC).
        days_left: Whole days until its end; negative once it has expired.
    """

    id: str
    path: Path
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
    """Every certificate of a directory: the CA first, then the nodes by their ids.

    Keys are not read, and a file that cannot be read is an entry too.

    Args:
        directory: The directory.
        at: The moment to judge at; now where none is given.

    Raises:
        NotFoundError: There is no such directory.
    """
    store = Store(directory)
    if not store.directory.is_dir():
        advice = "make a CA with `aegis-certs init`, or name the directory that has one"
        raise NotFoundError("certificate directory", store.directory, advice)
    at = moment(at)
    bundle: TrustBundle | None = None
    entries = []
    for name in (CA_NAME, *store.names()):
        path = store.certificate_path(name)
        try:
            chain = store.chain(name)
        except CertsError as error:
            entries.append(CertificateInfo(name, path, CertificateState.UNREADABLE, str(error)))
            continue
        if chain is None:
            continue
        if name == CA_NAME:
            bundle = TrustBundle(chain)
        entries.append(_describe(name, path, chain, bundle, at))
    return tuple(entries)


def _describe(
    name: str,
    path: Path,
    chain: Sequence[x509.Certificate],
    bundle: TrustBundle | None,
    at: datetime,
) -> CertificateInfo:
    certificate = chain[0]
    state = state_by_dates(certificate, at)
    problem = "" if name == CA_NAME else _distrust(name, chain, bundle, at)
    if problem and state in (CertificateState.VALID, CertificateState.EXPIRING):
        state = CertificateState.UNTRUSTED
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


def _distrust(
    name: str, chain: Sequence[x509.Certificate], bundle: TrustBundle | None, at: datetime
) -> str:
    """Why a node would not take the chain for this name; empty where it would."""
    try:
        if bundle is None:
            raise UntrustedError(name, "the directory has no CA certificate that can be read")
        proved = bundle.verify(chain, None, at=at).node_id
        if proved != name:
            raise IdentityError(f"it is the certificate of {proved}", proved)
    except CertsError as error:
        return str(error)
    return ""
