"""Verifies records and verdicts by the certificates of their signers."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from sys import intern
from typing import Protocol

from aegis_certs import CertsError, RevocationList, TrustBundle, owner_of, parse_worker_id
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from aegis_discovery._address import split_address
from aegis_discovery.errors import (
    STAMP_AHEAD,
    InvalidAddressError,
    InvalidRecordError,
    InvalidVerdictError,
)
from aegis_discovery.records._codec import decode_record, decode_verdict
from aegis_discovery.records._record import (
    CONTEXT,
    MAX_AHEAD,
    MAX_RECORD,
    TOMBSTONE_LEASE,
    Clock,
    Record,
    Signed,
    provided_services_problem,
)
from aegis_discovery.records._verdict import (
    CLEAR_LEASE,
    MAX_VERDICT,
    VERDICT_CONTEXT,
    SignedVerdict,
    Verdict,
)

MAX_CHAIN = 8
"""Certificates in a chain: a leaf, and more intermediates than any CA hierarchy has."""

MAX_CHAIN_BYTES = 16 * 1024
"""Bytes of a chain."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A verified certificate that signs records, with the chain that is passed on.

    It keeps nothing parsed: a key takes more memory than everything else, and parsing it takes
    microseconds.

    Attributes:
        fingerprint: SHA-256 of `der`, the certificate.
        intermediates: The CAs between it and the trust bundle (DER). No other certificate of the
            received chain is kept, since all of these are passed on to every node.
    """

    node_id: str
    trust_domain: str | None
    fingerprint: bytes
    der: bytes
    intermediates: tuple[bytes, ...]

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificate, then the intermediates (DER)."""
        return (self.der, *self.intermediates)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate, parsed on each access."""
        return x509.load_der_x509_certificate(self.der)


class Verifier(Protocol):
    """What a feed needs of a verifier: `RecordVerifier`, or one that a simulation provides."""

    def add_chain(self, chain: Sequence[bytes]) -> bytes:
        """As `RecordVerifier.add_chain`."""

    def verify(self, signed: Signed, held: Callable[[str], Record | None]) -> Record:
        """As `RecordVerifier.verify`."""

    def verify_verdict(
        self, signed: Signed, held: Callable[[str, str], SignedVerdict | None]
    ) -> SignedVerdict:
        """As `RecordVerifier.verify_verdict`."""


class RecordVerifier:
    """Turns received bytes into records and verdicts, or refuses them.

    Each certificate is verified once and kept by its fingerprint. Only server certificates may
    sign, so that a client can never enter the topology.
    """

    def __init__(
        self, bundle: TrustBundle, *, mesh: str, trust_domain: str | None, clock: Clock = time.time
    ) -> None:
        self._bundle = bundle
        self._mesh = mesh
        self._trust_domain = trust_domain
        self._clock = clock
        self._leaves: dict[bytes, Leaf] = {}
        self._intermediates: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}
        self._revocations = RevocationList.empty()

    def add_chain(self, chain: Sequence[bytes]) -> bytes:
        """Verifies a chain (DER, leaf first), keeps its leaf and returns the leaf's fingerprint.

        Of the other certificates only the path from the leaf to the trust bundle is used and kept.

        Raises:
            InvalidRecordError: If the chain does not identify a node of this trust domain.
        """
        size = sum(map(len, chain))
        if not 0 < len(chain) <= MAX_CHAIN or size > MAX_CHAIN_BYTES:
            # A chain is passed on to every node, so a chain that is too long would harm the mesh.
            reason = (
                f"its chain has {len(chain)} certificates of {size} bytes; "
                f"1 to {MAX_CHAIN} of at most {MAX_CHAIN_BYTES} bytes are allowed"
            )
            raise InvalidRecordError("", reason)
        fingerprint = hashlib.sha256(chain[0]).digest()
        if fingerprint in self._leaves:
            return fingerprint
        try:
            certificates = [x509.load_der_x509_certificate(der) for der in chain]
            path = self._bundle.path_of(certificates) if certificates[1:] else ()
            # Without a path the leaf alone is enough to state why it is refused.
            leaf, *above = path or certificates[:1]
            identity = self._bundle.verify(
                (leaf, *above), "server", trust_domain=self._trust_domain
            )
            key = leaf.public_key()
        except Exception as error:  # the parser's errors have no common base class
            raise InvalidRecordError("", f"its certificate does not verify: {error}") from error
        if self._revocations.is_revoked(leaf, above):
            raise InvalidRecordError(identity.node_id, "the certificate that signed it is revoked")
        theirs = identity.trust_domain
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise InvalidRecordError(identity.node_id, f"{type(key).__name__} cannot sign records")
        intermediates = tuple(ca.public_bytes(Encoding.DER) for ca in above)
        self._leaves[fingerprint] = Leaf(
            identity.node_id,
            theirs and intern(theirs),
            fingerprint,
            chain[0],
            self._intermediates.setdefault(intermediates, intermediates),
        )
        return fingerprint

    def change_bundle(self, bundle: TrustBundle) -> None:
        """Uses another trust bundle from now on; forgets certificates that it does not cover."""
        self._bundle = bundle
        chains = [leaf.chain for leaf in self._leaves.values()]
        self._leaves = {}
        for chain in chains:
            with contextlib.suppress(InvalidRecordError):
                self.add_chain(chain)

    def apply_revocations(self, revocations: RevocationList) -> frozenset[bytes]:
        """Refuses revoked certificates from now on; returns the fingerprints of known ones."""
        self._revocations = revocations
        load = x509.load_der_x509_certificate
        # Many leaves share few chains of intermediates.
        chains = {leaf.intermediates for leaf in self._leaves.values()}
        above = {chain: [load(der) for der in chain] for chain in chains}
        revoked = frozenset(
            fingerprint
            for fingerprint, leaf in self._leaves.items()
            if self._revocations.is_revoked(leaf.certificate, above[leaf.intermediates])
        )
        self._leaves = {f: leaf for f, leaf in self._leaves.items() if f not in revoked}
        return revoked

    def leaf(self, fingerprint: bytes) -> Leaf | None:
        """Returns a certificate that was added, or None."""
        return self._leaves.get(fingerprint)

    def certificate_of(self, record: Record | None) -> x509.Certificate | None:
        """Returns the certificate that a record was signed with, or None."""
        leaf = self._leaves.get(record.signer) if record else None
        return leaf.certificate if leaf else None

    def retain(self, fingerprints: Collection[bytes]) -> None:
        """Forgets all certificates except these."""
        self._leaves = {f: leaf for f, leaf in self._leaves.items() if f in fingerprints}
        self._intermediates = {
            leaf.intermediates: leaf.intermediates for leaf in self._leaves.values()
        }

    def verify(
        self, signed: Signed, held: Callable[[str], Record | None] = lambda _: None
    ) -> Record:
        """Verifies that the owner, or the voucher, signed exactly these bytes for this mesh.

        `held` finds the record that is held for a node id. If it has the same bytes and signer, it
        was verified before and is returned.

        Raises:
            InvalidRecordError: If the record is refused.
        """
        if len(signed.body) > MAX_RECORD:
            raise InvalidRecordError("", f"{len(signed.body)} bytes, the limit is {MAX_RECORD}")
        leaf = self._leaves.get(signed.signer)
        record, scope = decode_record(signed, signer_id=leaf.node_id if leaf else "")
        try:
            # First of all, since later messages quote the id and only a valid id is safe to log.
            parse_worker_id(record.id)
        except CertsError as error:
            raise InvalidRecordError("", str(error)) from error
        known = held(record.id)
        if known and known.body == signed.body and known.signer == signed.signer:
            return known
        if leaf is None:
            raise InvalidRecordError(record.id, _NO_CERTIFICATE)
        certificate = leaf.certificate
        reason = (
            self._record_problem(record, scope, leaf)
            or self._time_problem(record.stamp, record.expires_at, TOMBSTONE_LEASE, certificate)
            or _signature_problem(leaf, certificate, signed)
        )
        if reason:
            raise InvalidRecordError(record.id, reason)
        return record.shared(leaf.fingerprint)

    def verify_verdict(
        self,
        signed: Signed,
        held: Callable[[str, str], SignedVerdict | None] = lambda _subject, _accuser: None,
    ) -> SignedVerdict:
        """Verifies that the accuser signed exactly these bytes for this mesh.

        `held` finds the verdict that is held for a subject and an accuser, as in `verify`.

        Raises:
            InvalidVerdictError: If the verdict is refused.
        """
        if len(signed.body) > MAX_VERDICT:
            raise InvalidVerdictError("", f"{len(signed.body)} bytes, the limit is {MAX_VERDICT}")
        verdict, scope = decode_verdict(signed.body)
        try:
            parse_worker_id(verdict.accuser)
            parse_worker_id(verdict.subject)
        except CertsError as error:
            raise InvalidVerdictError("", str(error)) from error
        known = held(verdict.subject, verdict.accuser)
        if known and known.signed.body == signed.body and known.signed.signer == signed.signer:
            return known
        leaf = self._leaves.get(signed.signer)
        if leaf is None:
            raise InvalidVerdictError(verdict.accuser, _NO_CERTIFICATE)
        certificate = leaf.certificate
        reason = (
            self._verdict_problem(verdict, scope, leaf)
            or self._time_problem(verdict.stamp, verdict.expires_at, CLEAR_LEASE, certificate)
            or _signature_problem(leaf, certificate, signed)
        )
        if reason:
            raise InvalidVerdictError(verdict.accuser, reason)
        return SignedVerdict(verdict, replace(signed, signer=leaf.fingerprint))

    def _record_problem(self, record: Record, scope: tuple[str, str, str], leaf: Leaf) -> str:
        context, mesh, trust_domain = scope
        if context != CONTEXT:
            return "its bytes are not a record"
        if mesh != self._mesh:
            return f"it belongs to mesh {mesh[:64]!r}, this mesh is {self._mesh!r}"
        if trust_domain != (leaf.trust_domain or ""):
            return f"it names trust domain {trust_domain[:64]!r}, not its signer's"
        if leaf.node_id != owner_of(record.voucher or record.id):
            return f"it was signed by {leaf.node_id}"
        if record.voucher is not None:
            if owner_of(record.voucher) == record.id:
                return "a node cannot vouch for itself"
            if "#" in record.id:
                return "only its own identity can publish a worker"
        if record.info is None:
            return ""
        if reason := provided_services_problem(record.info.services):
            return reason
        try:
            split_address(record.info.address)
        except InvalidAddressError as error:
            return str(error)
        return ""

    def _verdict_problem(self, verdict: Verdict, scope: tuple[str, str, str], leaf: Leaf) -> str:
        if scope != (VERDICT_CONTEXT, self._mesh, leaf.trust_domain or ""):
            return "it is not a verdict of this mesh"
        if leaf.node_id != owner_of(verdict.accuser):
            return f"it was signed by {leaf.node_id}"
        if verdict.subject == verdict.accuser:
            return "a node cannot accuse itself"
        return ""

    def _time_problem(
        self, stamp: int, expires_at: int, lease: float, certificate: x509.Certificate
    ) -> str:
        now = self._clock()
        not_after = certificate.not_valid_after_utc.timestamp()
        if stamp > (now + MAX_AHEAD) * 1000:
            ahead = stamp / 1000 - now
            return f"its stamp is {ahead:.0f} s {STAMP_AHEAD} (limit {MAX_AHEAD:.0f})"
        if now >= not_after:
            return "the certificate that signed it has expired"
        if expires_at > min(now + MAX_AHEAD + lease, not_after) * 1000:
            return "its lease is too long"
        return ""


_NO_CERTIFICATE = "the certificate that signed it was not sent"


def _signature_problem(leaf: Leaf, certificate: x509.Certificate, signed: Signed) -> str:
    key = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signed.signature, signed.body, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signed.signature, signed.body, ec.ECDSA(hashes.SHA256()))
        else:
            raise TypeError(f"{type(key).__name__} cannot verify records; add_chain refuses it")
    except InvalidSignature:
        return f"its signature is not by {leaf.node_id}"
    return ""
