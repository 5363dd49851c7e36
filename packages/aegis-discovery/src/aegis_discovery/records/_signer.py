"""Signs the records and verdicts of one process and sets their leases."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from typing import Protocol, Self

from aegis_certs import TLSConfig
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from aegis_discovery._model import NodeInfo
from aegis_discovery.errors import InvalidRecordError
from aegis_discovery.records._codec import decode_record, encode_record, encode_verdict
from aegis_discovery.records._record import (
    CONTEXT,
    LEASE,
    MAX_RECORD,
    TOMBSTONE_LEASE,
    Clock,
    Record,
    Signed,
    provided_services_problem,
    share,
)
from aegis_discovery.records._verdict import (
    CLEAR_LEASE,
    VERDICT_CONTEXT,
    VERDICT_LEASE,
    Opinion,
    SignedVerdict,
    Verdict,
)


class RecordSigner:
    """Signs the records of one process: those of its node and those that it vouches for.

    Without a key it signs nothing. Such records are for a topology that stays in one process.

    Attributes:
        instance: A random id of this process, which every record states.
    """

    def __init__(
        self,
        node_id: str = "",
        *,
        mesh: str = "",
        trust_domain: str = "",
        key: SigningKey | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.instance = secrets.token_hex(8)
        self._node_id = node_id
        self._mesh = mesh
        self._trust_domain = trust_domain
        self._key = key
        self._clock = clock

    @classmethod
    def of(cls, tls: TLSConfig, *, mesh: str, node_id: str = "", clock: Clock = time.time) -> Self:
        """Makes a signer with a node's identity; `node_id` is the id of a worker."""
        return cls(
            node_id or tls.node_id,
            mesh=mesh,
            trust_domain=tls.trust_domain or "",
            key=LeafKey(tls),
            clock=clock,
        )

    def change_identity(self, tls: TLSConfig) -> None:
        """Signs with another certificate and key of the same node from now on."""
        self._key = LeafKey(tls)

    def sign_record(
        self, node_id: str, stamp: int, info: NodeInfo | None, *, vouched: bool = False
    ) -> Record:
        """Makes and signs a record, or a tombstone if `info` is None.

        Raises:
            InvalidRecordError: If the record is too large, or its services are not allowed.
        """
        # A tombstone has to outlive the records before it, which does not depend on this clock.
        end = self._end_of(LEASE, stamp) if info else self._end_of(TOMBSTONE_LEASE, stamp, now=0)
        record = Record(
            id=node_id,
            stamp=stamp,
            instance=self.instance,
            expires_at=end,
            info=info,
            body=b"",
            voucher=self._node_id if vouched else None,
        )
        body = encode_record(
            record, context=CONTEXT, mesh=self._mesh, trust_domain=self._trust_domain
        )
        if len(body) > MAX_RECORD:
            reason = f"it has {len(body)} bytes, the limit is {MAX_RECORD}; declare fewer services"
            raise InvalidRecordError(node_id, reason)
        if info is not None and (reason := provided_services_problem(info.services)):
            raise InvalidRecordError(node_id, reason)
        # The encoding rounds times, so the signer must hold what everybody else will decode.
        signed = self._sign(body)
        decoded = decode_record(signed)
        share(decoded.unshared)
        return decoded.record

    def sign_verdict(
        self, about: Record, stamp: int, opinion: Opinion, *, held: bool
    ) -> SignedVerdict:
        """Makes and signs this node's verdict on another node's record."""
        lease = CLEAR_LEASE if opinion is Opinion.CLEAR else VERDICT_LEASE
        verdict = Verdict(
            accuser=self._node_id,
            accuser_instance=self.instance,
            stamp=stamp,
            expires_at=self._end_of(lease, stamp),
            subject=about.id,
            subject_instance=about.instance,
            subject_stamp=about.stamp,
            opinion=opinion,
            held=held,
        )
        body = encode_verdict(
            verdict, context=VERDICT_CONTEXT, mesh=self._mesh, trust_domain=self._trust_domain
        )
        return SignedVerdict(verdict, self._sign(body))

    def _end_of(self, lease: float, stamp: int, now: float | None = None) -> int:
        """Returns the end of a lease that starts now (Unix ms): never after the certificate's."""
        now = self._clock() if now is None else now
        end = max(now * 1000, stamp) + lease * 1000
        if self._key is not None:
            end = min(end, self._key.not_after * 1000)
        return math.floor(end)

    def _sign(self, body: bytes) -> Signed:
        if self._key is None:
            return Signed(body, b"", b"")
        return Signed(body, self._key.sign(body), self._key.fingerprint)


class SigningKey(Protocol):
    """A key with the SHA-256 and the end (Unix seconds) of its certificate."""

    fingerprint: bytes
    not_after: float

    def sign(self, body: bytes) -> bytes:
        """Returns the signature over a record's or a verdict's body."""


class LeafKey:
    """The key of a leaf certificate; signs with RSA PKCS#1 v1.5 or ECDSA, over SHA-256."""

    def __init__(self, tls: TLSConfig) -> None:
        self.fingerprint = tls.fingerprint
        self.not_after = tls.not_after.timestamp()
        self.sign = _sign_with(tls.key)


def _sign_with(key: object) -> Callable[[bytes], bytes]:
    match key:
        case rsa.RSAPrivateKey():
            return lambda body: key.sign(body, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            return lambda body: key.sign(body, ec.ECDSA(hashes.SHA256()))
        case _:
            raise TypeError(f"{type(key).__name__} cannot sign records; use an RSA or an EC key")
