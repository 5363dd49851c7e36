"""Verifies records and verdicts by the certificates of their signers."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from sys import intern
from typing import NamedTuple

from aegis_certs import CertsError, RevocationList, TrustBundle, owner_of, parse_worker_id
from cryptography import x509

from aegis_discovery.errors import InvalidRecordError, InvalidVerdictError
from aegis_discovery.records._codec import decode_record, decode_verdict
from aegis_discovery.records._keys import KeyStore, scheme_of
from aegis_discovery.records._leaves import Leaf, LeafStore
from aegis_discovery.records._record import (
    CONTEXT,
    MAX_RECORD,
    TOMBSTONE_LEASE,
    Clock,
    Record,
    Shareable,
    Signed,
    info_problem,
    share,
    time_problem,
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

MAX_PATHS = 64
"""Verified paths of CAs that are kept parsed: many leaves have one issuing CA."""


class _Path(NamedTuple):
    """The CAs between a leaf and the trust bundle, parsed and as DER."""

    certificates: tuple[x509.Certificate, ...]
    encoded: tuple[bytes, ...]


_NO_PATH = _Path((), ())


class RecordVerifier:
    """Turns received bytes into records and verdicts, or refuses them.

    Each certificate is verified once and kept by its fingerprint. Only server certificates may
    sign, so that a client can never enter the topology.

    Args:
        bundle: The CAs that are trusted.
        mesh: The name of the mesh.
        trust_domain: The trust domain of the mesh.
        find_signed: Returns a name, among the further DNS names of a certificate, that TLS accepts
            for another node of the mesh. Such a certificate may not sign.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        bundle: TrustBundle,
        *,
        mesh: str,
        trust_domain: str | None,
        find_signed: Callable[[Iterable[str]], str | None] = lambda _: None,
        clock: Clock = time.time,
    ) -> None:
        self._bundle = bundle
        self._find_signed = find_signed
        self._mesh = mesh
        self._trust_domain = trust_domain
        self._clock = clock
        self._leaves = LeafStore()
        self._intermediates: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}
        self._keys = KeyStore()
        self._paths: dict[tuple[bytes, ...], _Path] = {}
        self._revocations = RevocationList.empty()

    def add_chain(self, chain: Sequence[bytes]) -> bytes:
        """Verifies a chain (DER, leaf first), keeps its leaf and returns the leaf's fingerprint.

        Of the other certificates only the path from the leaf to the trust bundle is used and kept.

        Raises:
            InvalidRecordError: If the chain does not identify a node of this trust domain.
        """
        for _ in self._adding(chain, self._leaves):
            pass
        return hashlib.sha256(chain[0]).digest()

    def add_chains(self, chains: Iterable[Sequence[bytes]]) -> list[InvalidRecordError]:
        """As `add_chain` for several chains, in less time; returns why some of them are refused.

        Each step is done for all of them before the next one, since a check of a signature leaves
        little else in the processor's caches.
        """
        refused: list[InvalidRecordError] = []
        begun = [self._adding(chain, self._leaves) for chain in chains]
        while begun:
            going_on = []
            for steps in begun:
                try:
                    if next(steps, _DONE) is not _DONE:
                        going_on.append(steps)
                except InvalidRecordError as error:
                    refused.append(error)
            begun = going_on
        return refused

    def _adding(self, chain: Sequence[bytes], leaves: LeafStore) -> Iterator[None]:
        """Verifies a chain and keeps its leaf, in steps.

        Raises:
            InvalidRecordError: As `add_chain`.
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
        if fingerprint in leaves:
            return
        bundle, others = self._bundle, tuple(chain[1:])
        try:
            leaf = x509.load_der_x509_certificate(chain[0])
            path = self._path(leaf, others, bundle) if others else _NO_PATH
            yield
            identify = bundle.begin_verify(
                (leaf, *path.certificates), "server", trust_domain=self._trust_domain
            )
            yield
            identity = identify()
            if others:
                if len(self._paths) >= MAX_PATHS:
                    self._paths.clear()
                self._paths[others] = path
            key = leaf.public_key()
            not_after = leaf.not_valid_after_utc.timestamp()
        except Exception as error:  # the parser's errors have no common base class
            raise InvalidRecordError("", f"its certificate does not verify: {error}") from error
        if self._revocations.is_revoked(leaf, path.certificates):
            raise InvalidRecordError(identity.node_id, "the certificate that signed it is revoked")
        if scheme_of(key) is None:
            raise InvalidRecordError(identity.node_id, f"{type(key).__name__} cannot sign records")
        theirs = identity.trust_domain
        leaves.add(
            Leaf(
                identity.node_id,
                theirs and intern(theirs),
                identity.hosts,
                not_after,
                fingerprint,
                chain[0],
                path.encoded,
            )
        )
        self._keys.keep(fingerprint, key)

    def _path(
        self, leaf: x509.Certificate, others: tuple[bytes, ...], bundle: TrustBundle
    ) -> _Path:
        """Finds the CAs above a leaf among the other certificates of its chain."""
        path = self._paths.get(others, _NO_PATH)
        if not (path.certificates and leaf.issuer == path.certificates[0].subject):
            rest = [x509.load_der_x509_certificate(der) for der in others]
            # Without a path the leaf alone is enough to state why it is refused.
            found = bundle.path_of((leaf, *rest))[1:]
            encoded = tuple([others[rest.index(ca)] for ca in found])
            path = _Path(found, self._intermediates.setdefault(encoded, encoded))
        return path

    def change_bundle(self, bundle: TrustBundle) -> None:
        """Uses another trust bundle from now on; forgets certificates that it does not cover."""
        self._bundle = bundle
        leaves = LeafStore()
        self._paths.clear()
        for leaf in list(self._leaves):
            with contextlib.suppress(InvalidRecordError):
                for _ in self._adding(leaf.chain, leaves):
                    pass
        self._leaves = leaves  # as a whole: the threads of a blocking node send chains meanwhile

    def apply_revocations(self, revocations: RevocationList) -> frozenset[bytes]:
        """Refuses revoked certificates from now on; returns the fingerprints of known ones."""
        self._revocations = revocations
        load = x509.load_der_x509_certificate
        # Many leaves share few chains of intermediates.
        chains = {leaf.intermediates for leaf in self._leaves}
        above = {chain: [load(der) for der in chain] for chain in chains}
        revoked = frozenset(
            leaf.fingerprint
            for leaf in self._leaves
            if self._revocations.is_revoked(leaf.certificate, above[leaf.intermediates])
        )
        self._leaves.keep([leaf for leaf in self._leaves if leaf.fingerprint not in revoked])
        return revoked

    def naming(self, identity: str) -> frozenset[bytes]:
        """Returns the fingerprints of the leaves of others that TLS accepts for an identity."""
        return self._leaves.naming(identity)

    def leaf(self, fingerprint: bytes) -> Leaf | None:
        """Returns a certificate that was added, or None."""
        return self._leaves.get(fingerprint)

    def certificate_of(self, record: Record | None) -> x509.Certificate | None:
        """Returns the certificate that a record was signed with, or None."""
        leaf = self._leaves.get(record.signer) if record else None
        return leaf.certificate if leaf else None

    def retain(self, fingerprints: Collection[bytes]) -> None:
        """Forgets all certificates except these, and all parsed keys: a record comes seldom."""
        self._leaves.keep([leaf for leaf in self._leaves if leaf.fingerprint in fingerprints])
        self._keys = KeyStore()  # 2 KB a key
        self._intermediates = {leaf.intermediates: leaf.intermediates for leaf in self._leaves}

    def verify(
        self, signed: Signed, held: Callable[[str], Record | None] = lambda _: None
    ) -> Record:
        """Verifies that the owner, or the voucher, signed exactly these bytes for this mesh.

        `held` finds the record that is held for a node id. If it has the same bytes and signer, it
        was verified before and is returned.

        Raises:
            InvalidRecordError: If the record is refused.
        """
        records, refused = self.verify_all([signed], held)
        if refused:
            raise refused[0]
        return records[0]

    def verify_all(
        self, signed: Iterable[Signed], held: Callable[[str], Record | None] = lambda _: None
    ) -> tuple[list[Record], list[InvalidRecordError]]:
        """As `verify` for several records, in less time; also returns why others are refused.

        The signatures are checked together at the end, as in `add_chains`.
        """
        examined, records, refused = [], [], []
        for one in signed:
            try:
                examined.append((one, *self._examine(one, held)))
            except InvalidRecordError as error:
                refused.append(error)
        for one, record, leaf, unshared in examined:
            if leaf is not None and (reason := self._signature_problem(one, leaf)):
                refused.append(InvalidRecordError(record.id, reason))
                continue
            share(unshared)
            records.append(record)
        return records, refused

    def _examine(
        self, signed: Signed, held: Callable[[str], Record | None]
    ) -> tuple[Record, Leaf | None, Collection[Shareable]]:
        """Checks all but the signature.

        Returns the record, the leaf that must have signed it, None if it was verified before, and
        what `share` takes once it is verified.

        Raises:
            InvalidRecordError: If the record is refused.
        """
        if len(signed.body) > MAX_RECORD:
            raise InvalidRecordError("", f"{len(signed.body)} bytes, the limit is {MAX_RECORD}")
        leaf = self._leaves.get(signed.signer)
        if leaf is None:
            record, scope, unshared = decode_record(signed)
        else:
            record, scope, unshared = decode_record(
                signed, signer_id=leaf.node_id, signer=leaf.fingerprint
            )
        if leaf is None or record.id is not leaf.node_id:
            try:
                # First of all, since later messages quote the id, and only a valid one is safe.
                parse_worker_id(record.id)
            except CertsError as error:
                raise InvalidRecordError("", str(error)) from error
        known = held(record.id)
        if known and known.body == signed.body and known.signer == signed.signer:
            return known, None, ()
        if leaf is None:
            raise InvalidRecordError(record.id, _NO_CERTIFICATE)
        reason = (
            self._record_problem(record, scope, leaf)
            or self._name_problem(leaf)
            or time_problem(record, self._clock(), TOMBSTONE_LEASE, leaf.not_after)
        )
        if reason:
            raise InvalidRecordError(record.id, reason)
        return record, leaf, unshared

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
        reason = (
            self._verdict_problem(verdict, scope, leaf)
            or self._name_problem(leaf)
            or time_problem(verdict, self._clock(), CLEAR_LEASE, leaf.not_after)
            or self._signature_problem(signed, leaf)
        )
        if reason:
            raise InvalidVerdictError(verdict.accuser, reason)
        return SignedVerdict(verdict, signed._replace(signer=leaf.fingerprint))

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
        return "" if record.info is None else info_problem(record.info)

    def _verdict_problem(self, verdict: Verdict, scope: tuple[str, str, str], leaf: Leaf) -> str:
        if scope != (VERDICT_CONTEXT, self._mesh, leaf.trust_domain or ""):
            return "it is not a verdict of this mesh"
        if leaf.node_id != owner_of(verdict.accuser):
            return f"it was signed by {leaf.node_id}"
        if verdict.subject == verdict.accuser:
            return "a node cannot accuse itself"
        return ""

    def _name_problem(self, leaf: Leaf) -> str:
        other = self._find_signed(leaf.hosts) if leaf.hosts else None
        if other is None:
            return ""
        return (
            f"the certificate that signed it is also valid for {other!r}, which is another node "
            f"of this mesh; issue one for {leaf.node_id} without that name"
        )

    def _signature_problem(self, signed: Signed, leaf: Leaf) -> str:
        if self._keys.has_signed(leaf, signed):
            return ""
        return f"its signature is not by {leaf.node_id}"


_DONE = object()
_NO_CERTIFICATE = "the certificate that signed it was not sent"
