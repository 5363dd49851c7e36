"""Decides which records may be believed, by the certificates of those who signed them."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from sys import intern
from typing import Protocol

from aegis_certs import CertsError, RevocationList, TrustBundle, validate_node_id
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from aegis_discovery._address import split_address
from aegis_discovery.errors import InvalidAddressError, InvalidRecordError, InvalidVerdictError
from aegis_discovery.records._codec import decode_record, decode_verdict
from aegis_discovery.records._record import (
    CONTEXT,
    MAX_AHEAD,
    MAX_RECORD,
    TOMBSTONE_LEASE,
    Clock,
    Record,
    RecordFields,
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
"""Certificates in a chain: a leaf, and more intermediates than anybody has."""

MAX_CHAIN_BYTES = 16 * 1024
"""Bytes of a chain."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A verified certificate that signs records, with what it takes to pass it on.

    It keeps nothing parsed: a key takes more memory than all the rest, and microseconds to make.

    Attributes:
        node_id: Whom it proves.
        trust_domain: Of which trust domain; None where it names none.
        fingerprint: SHA-256 of its DER.
        der: The certificate.
        intermediates: The CAs between it and the trust bundle (DER), and nothing else that came
            with it: all of it is passed on to everybody.
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
        """The certificate, parsed anew."""
        return x509.load_der_x509_certificate(self.der)


class Verifier(Protocol):
    """What a feed needs of a verifier: `RecordVerifier`, or one that a simulation provides."""

    def add_chain(self, chain: Sequence[bytes]) -> bytes:
        """As `RecordVerifier.add_chain`."""

    def verify(
        self, signed: Signed, held: Callable[[str], Record | None] = lambda _: None
    ) -> Record:
        """As `RecordVerifier.verify`."""

    def verify_verdict(
        self,
        signed: Signed,
        held: Callable[[str, str], SignedVerdict | None] = lambda _subject, _accuser: None,
    ) -> SignedVerdict:
        """As `RecordVerifier.verify_verdict`."""


class RecordVerifier:
    """Turns bytes off the wire into records, or refuses them.

    A certificate is verified once and kept by its fingerprint; only those that prove a server may
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
        """Verifies a chain (DER, leaf first) and returns its leaf's fingerprint.

        Of what came with the leaf only its path to the trust bundle is looked at and kept.

        Raises:
            InvalidRecordError: If it does not prove a node of this trust domain.
        """
        size = sum(map(len, chain))
        if not 0 < len(chain) <= MAX_CHAIN or size > MAX_CHAIN_BYTES:
            # A chain is passed on to everybody, so one that is too long would harm the whole mesh.
            reason = (
                f"its chain has {len(chain)} certificates of {size} bytes; "
                f"1 to {MAX_CHAIN} of {MAX_CHAIN_BYTES} bytes are taken"
            )
            raise InvalidRecordError("", reason)
        fingerprint = hashlib.sha256(chain[0]).digest()
        if fingerprint in self._leaves:
            return fingerprint
        try:
            certificates = [x509.load_der_x509_certificate(der) for der in chain]
            path = self._bundle.path_of(certificates) if certificates[1:] else ()
            # Where there is none, the leaf alone is enough to say why it is not believed.
            leaf, *above = path or certificates[:1]
            identity = self._bundle.verify((leaf, *above), "server")
            key = leaf.public_key()
        except Exception as error:  # the parser's errors have no common root
            raise InvalidRecordError("", f"its certificate does not verify: {error}") from error
        if self._revocations.is_revoked(leaf, above):
            raise InvalidRecordError(identity.node_id, "the certificate that signed it is revoked")
        ours, theirs = self._trust_domain, identity.trust_domain
        if ours and theirs and ours != theirs:
            raise InvalidRecordError(
                identity.node_id, f"its trust domain is {theirs}, this mesh's is {ours}"
            )
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise InvalidRecordError(identity.node_id, f"{type(key).__name__} signs no records")
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
        """Believes another trust bundle from now on; certificates that it does not cover go."""
        self._bundle = bundle
        chains = [leaf.chain for leaf in self._leaves.values()]
        self._leaves = {}
        for chain in chains:
            with contextlib.suppress(InvalidRecordError):
                self.add_chain(chain)

    def apply_revocations(self, revocations: RevocationList) -> frozenset[bytes]:
        """Believes no revoked certificate from now on; returns the fingerprints of known ones."""
        self._revocations = revocations
        load = x509.load_der_x509_certificate
        chains = {leaf.intermediates for leaf in self._leaves.values()}  # few are above many leaves
        above = {chain: [load(der) for der in chain] for chain in chains}
        revoked = frozenset(
            fingerprint
            for fingerprint, leaf in self._leaves.items()
            if self._revocations.is_revoked(leaf.certificate, above[leaf.intermediates])
        )
        self._leaves = {f: leaf for f, leaf in self._leaves.items() if f not in revoked}
        return revoked

    def leaf(self, fingerprint: bytes) -> Leaf | None:
        """Returns a certificate that was learned, or None."""
        return self._leaves.get(fingerprint)

    def certificate_of(self, record: Record | None) -> x509.Certificate | None:
        """Returns the certificate that a record was signed with, or None."""
        leaf = self._leaves.get(record.signer) if record else None
        return leaf.certificate if leaf else None

    def retain(self, fingerprints: Collection[bytes]) -> None:
        """Forgets all certificates but these."""
        self._leaves = {f: leaf for f, leaf in self._leaves.items() if f in fingerprints}
        self._intermediates = {
            leaf.intermediates: leaf.intermediates for leaf in self._leaves.values()
        }

    def verify(
        self, signed: Signed, held: Callable[[str], Record | None] = lambda _: None
    ) -> Record:
        """Verifies that its owner, or its voucher, signed exactly these bytes for this mesh.

        Args:
            signed: What came.
            held: Finds the record that is held of a node id; the same bytes by the same signer
                were verified before, and are not again.

        Raises:
            InvalidRecordError: If not.
        """
        if len(signed.body) > MAX_RECORD:
            raise InvalidRecordError("", f"{len(signed.body)} bytes, the limit is {MAX_RECORD}")
        leaf = self._leaves.get(signed.signer)
        fields = decode_record(signed.body, signer_id=leaf.node_id if leaf else "")
        try:
            # Before anything quotes it: an id is fit to be logged, what claims to be one is not.
            validate_node_id(fields.id)
        except CertsError as error:
            raise InvalidRecordError("", str(error)) from error
        known = held(fields.id)
        if known and known.body == signed.body and known.signer == signed.signer:
            return known
        if leaf is None:
            raise InvalidRecordError(fields.id, "the certificate that signed it did not come along")
        certificate = leaf.certificate
        self._check(fields, leaf, certificate.not_valid_after_utc.timestamp())
        try:
            _verify(certificate, signed)
        except InvalidSignature:
            raise InvalidRecordError(fields.id, f"its signature is not by {leaf.node_id}") from None
        return Record.of(fields, signed.body, signed.signature, leaf.fingerprint)

    def verify_verdict(
        self,
        signed: Signed,
        held: Callable[[str, str], SignedVerdict | None] = lambda _subject, _accuser: None,
    ) -> SignedVerdict:
        """Verifies that its accuser signed exactly these bytes for this mesh.

        Args:
            signed: What came.
            held: Finds what is held of a subject and an accuser, as in `verify`.

        Raises:
            InvalidVerdictError: If not.
        """
        if len(signed.body) > MAX_VERDICT:
            raise InvalidVerdictError("", f"{len(signed.body)} bytes, the limit is {MAX_VERDICT}")
        verdict, scope = decode_verdict(signed.body)
        try:
            validate_node_id(verdict.accuser)
            validate_node_id(verdict.subject)
        except CertsError as error:
            raise InvalidVerdictError("", str(error)) from error
        known = held(verdict.subject, verdict.accuser)
        if known and known.signed.body == signed.body and known.signed.signer == signed.signer:
            return known
        leaf = self._leaves.get(signed.signer)
        if leaf is None:
            reason = "the certificate that signed it did not come along"
            raise InvalidVerdictError(verdict.accuser, reason)
        certificate = leaf.certificate
        not_after = certificate.not_valid_after_utc.timestamp()
        self._check_verdict(verdict, scope, leaf, not_after)
        try:
            _verify(certificate, signed)
        except InvalidSignature:
            reason = f"its signature is not by {leaf.node_id}"
            raise InvalidVerdictError(verdict.accuser, reason) from None
        return SignedVerdict(verdict, replace(signed, signer=leaf.fingerprint))

    def _check_verdict(
        self, verdict: Verdict, scope: tuple[str, str, str], leaf: Leaf, not_after: float
    ) -> None:
        now = self._clock()
        reason = ""
        if scope != (VERDICT_CONTEXT, self._mesh, leaf.trust_domain or ""):
            reason = "it is none of this mesh"
        elif leaf.node_id != verdict.accuser:
            reason = f"it was signed by {leaf.node_id}"
        elif verdict.subject == verdict.accuser:
            reason = "a node cannot judge itself"
        elif verdict.stamp > (now + MAX_AHEAD) * 1000:
            reason = "its stamp is ahead of this clock"
        elif now >= not_after:
            reason = "the certificate that signed it is expired"
        elif verdict.expires_at > min(now + MAX_AHEAD + CLEAR_LEASE, not_after) * 1000:
            reason = "its lease is longer than any may be"
        if reason:
            raise InvalidVerdictError(verdict.accuser, reason)

    def _check(self, fields: RecordFields, leaf: Leaf, not_after: float) -> None:
        def refuse(reason: str) -> InvalidRecordError:
            return InvalidRecordError(fields.id, reason)

        now = self._clock()
        if fields.context != CONTEXT:
            raise refuse("its bytes are not a record")
        if fields.mesh != self._mesh:
            raise refuse(f"it belongs to mesh {fields.mesh[:64]!r}, this one is {self._mesh!r}")
        if fields.trust_domain != (leaf.trust_domain or ""):
            raise refuse(f"it names trust domain {fields.trust_domain[:64]!r}, not its signer's")
        if leaf.node_id != (fields.voucher or fields.id):
            raise refuse(f"it was signed by {leaf.node_id}")
        if fields.voucher == fields.id:
            raise refuse("a node cannot vouch for itself")
        if fields.info is not None:
            if reason := provided_services_problem(fields.info.services):
                raise refuse(reason)
            try:
                split_address(fields.info.address)
            except InvalidAddressError as error:
                raise refuse(str(error)) from error
        if fields.stamp > (now + MAX_AHEAD) * 1000:
            ahead = fields.stamp / 1000 - now
            raise refuse(f"its stamp is {ahead:.0f} s ahead of this clock (limit {MAX_AHEAD:.0f})")
        if now >= not_after:
            raise refuse("the certificate that signed it is expired")
        latest = min(now + MAX_AHEAD + TOMBSTONE_LEASE, not_after)
        if fields.expires_at > latest * 1000:
            raise refuse("its lease is longer than any may be")


def _verify(certificate: x509.Certificate, signed: Signed) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signed.signature, signed.body, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signed.signature, signed.body, ec.ECDSA(hashes.SHA256()))
    else:
        raise TypeError(f"{type(key).__name__} cannot verify records; none such is ever learned")
