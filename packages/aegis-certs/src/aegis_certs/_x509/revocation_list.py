"""Which certificates are revoked: reading and checking revocation lists (CRLs). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cryptography import x509

from aegis_certs._time import format_utc, utc_or_now
from aegis_certs._x509.extensions import extension_of
from aegis_certs._x509.keys import key_id, may_have_signed
from aegis_certs._x509.pem import parse_crls
from aegis_certs._x509.serialization import Encoding
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import BACKDATE, common_name
from aegis_certs.errors import RevocationListError, RevokedError

if TYPE_CHECKING:
    from aegis_certs._x509.revocation import Revocation


class RevocationList:
    """What the CAs of a trust bundle have revoked: one CRL for each CA that has published one.

    It is immutable. `from_pem` reads the text of a `crl.pem`; use `empty` without a file.

    Args:
        crls: The CRLs with the CAs that signed them.
        cas: All known CAs, to find revoked CAs above a certificate.
        others: Revocations that no CRL has, with their CAs.
    """

    def __init__(
        self,
        crls: Sequence[tuple[x509.CertificateRevocationList, x509.Certificate]] = (),
        cas: Sequence[x509.Certificate] = (),
        others: Sequence[tuple[x509.Certificate, Revocation]] = (),
    ) -> None:
        self._crls, self._cas, self._others = crls, cas, others
        self._newest = _newest(crls)
        self._revoked = {
            (ca.subject.public_bytes(), int(revocation.serial, 16)): revocation
            for ca, revocation in others
        }
        self._revoked |= {
            (crl.issuer.public_bytes(), serial): revocation
            for crl in self._newest.values()
            for serial, revocation in _revocations_of(crl)
        }
        self._serials = {revocation.serial for revocation in self._revoked.values()}
        self._revoked_cas = tuple(self._find_revoked_cas(cas))

    def __repr__(self) -> str:
        return f"RevocationList(number={self.number}, revoked={len(self)})"

    def __len__(self) -> int:
        return len(self._revoked)

    def __iter__(self) -> Iterator[Revocation]:
        return iter(self._revoked.values())

    @classmethod
    def empty(cls) -> Self:
        """The list if no CA has published one."""
        return cls()

    @classmethod
    def from_pem(
        cls,
        data: bytes,
        bundle: TrustBundle,
        *,
        intermediates: Sequence[x509.Certificate] = (),
        at: datetime | None = None,
        source: str | Path = "the given text",
    ) -> Self:
        """Reads CRLs and checks them: issuer, key usage, signature, dates (RFC 5280, 6.3.3).

        A CRL of an untrusted CA is ignored if there is also one of a trusted CA: it lists only
        certificates that are not trusted either. A CRL past its next update is still used, because
        ignoring revocations would be worse; see `is_stale`.

        Args:
            data: The PEM text of one CRL or more.
            bundle: The CAs that are trusted.
            intermediates: Further CAs that may have signed, such as those of the own chain.
            at: The time of the check; now by default.
            source: The source of the text, for error messages.

        Raises:
            InvalidPemError: There is no CRL, or one cannot be read.
            RevocationListError: One of them cannot be trusted.
        """
        crls = parse_crls(data, source=source)
        return cls._of(crls, bundle, intermediates, at, source)

    @classmethod
    def from_der(
        cls,
        data: bytes,
        bundle: TrustBundle,
        *,
        intermediates: Sequence[x509.Certificate] = (),
        at: datetime | None = None,
    ) -> Self:
        """As `from_pem` for the DER of one CRL.

        Raises:
            RevocationListError: It cannot be read, or cannot be trusted.
        """
        source = "the published text"
        try:
            crls = [x509.load_der_x509_crl(data)]
            return cls._of(crls, bundle, intermediates, at, source)
        except (ValueError, TypeError) as error:
            raise RevocationListError(source, f"it is not a CRL ({error})") from error

    @classmethod
    def _of(
        cls,
        crls: Iterable[x509.CertificateRevocationList],
        bundle: TrustBundle,
        intermediates: Sequence[x509.Certificate],
        at: datetime | None,
        source: str | Path,
    ) -> Self:
        cas = tuple(dict.fromkeys((*bundle.certificates, *intermediates)))
        found = []
        for crl in crls:
            signers = [ca for ca in cas if ca.subject == crl.issuer]
            if signers:
                found.append((crl, _check(crl, signers, utc_or_now(at), source)))
        if not found:
            known = ", ".join(common_name(ca.subject) for ca in cas)
            raise RevocationListError(source, f"no CA of the trust bundle ({known}) has issued it")
        return cls(found, cas)

    def joined(self, other: RevocationList) -> Self:
        """What both lists revoke: of each CA the newest CRL of both, and what no CRL has."""
        cas = tuple(dict.fromkeys((*self._cas, *other._cas)))
        others = tuple(dict.fromkeys((*self._others, *other._others)))
        return type(self)((*self._crls, *other._crls), cas, others)

    def is_of(self, cas: Iterable[x509.Certificate]) -> bool:
        """Whether each of its CRLs names one of these CAs as its issuer."""
        names = {ca.subject for ca in cas}
        return all(crl.issuer in names for crl in self._newest.values())

    @property
    def issuers(self) -> tuple[str, ...]:
        """The key identifiers of the CAs of these CRLs, in hexadecimal."""
        return tuple(key.hex() for key in self._newest)

    @property
    def crls(self) -> tuple[bytes, ...]:
        """The newest CRL of each CA, in DER."""
        return tuple(map(self.der_of, self._newest.values()))

    @staticmethod
    def der_of(crl: x509.CertificateRevocationList) -> bytes:
        """A CRL in DER."""
        return crl.public_bytes(Encoding.DER)

    def adding(
        self,
        others: Sequence[tuple[x509.Certificate, Revocation]],
        cas: Sequence[x509.Certificate] = (),
    ) -> Self:
        """A list that also has revocations that no CRL has, such as those of an audit log.

        Args:
            others: The revocations, with their CAs.
            cas: Further known CAs.
        """
        if not others:
            return self
        known = tuple(dict.fromkeys((*self._others, *others)))
        return type(self)(self._crls, tuple(dict.fromkeys((*self._cas, *cas))), known)

    @property
    def number(self) -> int | None:
        """The highest number of its CRLs; None if there is no CRL."""
        return max(map(crl_number, self._newest.values()), default=None)

    @property
    def this_update(self) -> datetime | None:
        """When the newest of its CRLs was issued (UTC); None if there is no CRL."""
        return max((crl.last_update_utc for crl in self._newest.values()), default=None)

    @property
    def next_update(self) -> datetime | None:
        """When the first of its CRLs ends (UTC); None if no CRL ends."""
        return min(
            (crl.next_update_utc for crl in self._newest.values() if crl.next_update_utc),
            default=None,
        )

    def is_stale(self, at: datetime | None = None) -> bool:
        """Whether the list is past its next update, so that a newer one should exist."""
        return self.next_update is not None and utc_or_now(at) > self.next_update

    def is_revoked(
        self, certificate: x509.Certificate, intermediates: Iterable[x509.Certificate] = ()
    ) -> Revocation | None:
        """The revocation of a certificate, or of a CA above it; None if it is not revoked.

        This takes a few lookups, so it is fast enough for every call.

        Args:
            certificate: The leaf.
            intermediates: CAs of its chain that are not in the trust bundle.
        """
        if not self._revoked:
            return None
        for one in (certificate, *intermediates):
            if found := self._revoked.get((one.issuer.public_bytes(), one.serial_number)):
                return found
            for ca, revocation in self._revoked_cas:
                if may_have_signed(ca, one):
                    return revocation
        return None

    def has_serial(self, serial: str) -> bool:
        """Whether the certificate with this serial number, in hexadecimal, is revoked."""
        return serial in self._serials

    def check(
        self,
        certificate: x509.Certificate,
        intermediates: Iterable[x509.Certificate] = (),
        *,
        subject: str,
    ) -> None:
        """Refuses a revoked certificate.

        Raises:
            RevokedError: The certificate, or a CA above it, is revoked.
        """
        if found := self.is_revoked(certificate, intermediates):
            raise RevokedError(subject, found.reason, found.date)

    def check_follows(self, older: RevocationList, source: str | Path) -> None:
        """Refuses a list that is older than the previous one.

        Raises:
            RevocationListError: One of its CRLs is older.
        """
        for key, crl in self._newest.items():
            before = older._newest.get(key)
            if before is not None and _age(crl) < _age(before):
                number = crl_number(crl)
                reason = f"it is older than the one before (number {number}); copy the newest here"
                raise RevocationListError(source, reason)

    def _find_revoked_cas(
        self, cas: Sequence[x509.Certificate]
    ) -> Iterator[tuple[x509.Certificate, Revocation]]:
        found: dict[x509.Certificate, Revocation] = {}
        for _ in cas:  # each pass handles one more level of the hierarchy
            for ca in cas:
                revocation = self._revoked.get((ca.issuer.public_bytes(), ca.serial_number))
                for above, its in tuple(found.items()):
                    if above != ca and may_have_signed(above, ca):
                        revocation = revocation or its
                if revocation:
                    found.setdefault(ca, revocation)
        yield from found.items()


def _newest(
    crls: Sequence[tuple[x509.CertificateRevocationList, x509.Certificate]],
) -> Mapping[bytes, x509.CertificateRevocationList]:
    """The newest CRL of each CA, by the CA's key: a renewed CA is still the same CA."""
    ordered = sorted(crls, key=lambda pair: _age(pair[0]))
    return {key_id(ca): crl for crl, ca in ordered}


def _revocations_of(crl: x509.CertificateRevocationList) -> Iterator[tuple[int, Revocation]]:
    from aegis_certs._x509.revocation import revocations_of  # few lists are known

    return revocations_of(crl)


def _age(crl: x509.CertificateRevocationList) -> tuple[int, datetime]:
    return crl_number(crl), crl.last_update_utc


def _check(
    crl: x509.CertificateRevocationList,
    signers: Iterable[x509.Certificate],
    at: datetime,
    source: str | Path,
) -> x509.Certificate:
    """Checks a CRL, and returns the CA that signed it."""
    name = common_name(crl.issuer)
    if crl.next_update_utc is None:
        raise RevocationListError(source, f"the CRL of {name} has no next update")
    if crl.last_update_utc > at + BACKDATE:
        start = format_utc(crl.last_update_utc)
        reason = f"the CRL of {name} is not valid before {start}; check this machine's clock"
        raise RevocationListError(source, reason, not_before=crl.last_update_utc)
    # First of all: to read the entries of a long list takes long, and anybody may have made it.
    signer = next((ca for ca in signers if _signs_crls(ca) and _is_signed_by(crl, ca)), None)
    if signer is None:
        raise RevocationListError(source, f"the CRL of {name} is not signed by this CA")
    if any(extension.critical for extension in crl.extensions) or any(
        extension.critical for revoked in crl for extension in revoked.extensions
    ):
        # RFC 5280, 5.2 and 5.3: delta, indirect and partial CRLs do not list everything.
        raise RevocationListError(source, f"the CRL of {name} is not a full and direct one")
    return signer


def _is_signed_by(crl: x509.CertificateRevocationList, ca: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # any CA key type; others raise
    except Exception:  # noqa: BLE001 - the verifier's errors have no common root
        return False


def _signs_crls(ca: x509.Certificate) -> bool:
    usage = extension_of(ca, x509.KeyUsage)
    return usage is None or usage.crl_sign


def crl_number(crl: x509.CertificateRevocationList) -> int:
    """The number of a CRL; 0 if it has none."""
    number = extension_of(crl, x509.CRLNumber)
    return 0 if number is None else number.crl_number
