"""The records of thousands of nodes that do not run: real certificates, real signatures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from aegis_certs import CertificateAuthority
from aegis_certs._ca.builder import Issuer, build_leaf  # without the files that an issue writes
from aegis_certs._x509.identity import Identity
from aegis_certs._x509.validity import validity
from aegis_discovery import DEFAULT_MESH, NodeInfo, ServiceInfo
from aegis_discovery.records import Record, RecordSigner
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

KEYS = 8
"""Keys that all leaves share: making one takes 100 ms, and sharing does not speed up checks."""

LEAF_DAYS = 90
SERVICES = (ServiceInfo("orders", "v1"), ServiceInfo("invoices", "v2"))


@dataclass(frozen=True)
class Signing:
    """Signs with a leaf."""

    fingerprint: bytes
    not_after: float
    key: rsa.RSAPrivateKey

    def sign(self, body: bytes) -> bytes:
        return self.key.sign(body, padding.PKCS1v15(), hashes.SHA256())


@dataclass(frozen=True)
class SignedNode:
    """One node: its record, and the certificate that proves it."""

    record: Record
    certificate: bytes
    signer: RecordSigner

    def changed(self) -> Record:
        """Makes the record of a change."""
        assert self.record.info is not None
        info = replace(self.record.info, name=f"{self.record.id} changed")
        return self.signer.sign_record(self.record.id, self.record.stamp + 1, info)


class Population:
    """Makes nodes with the certificates that a CA issues by default: RSA-2048 by RSA-4096."""

    def __init__(self, ca: CertificateAuthority) -> None:
        key = load_pem_private_key((Path(ca.directory) / "ca-key.pem").read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self._issuer = Issuer(ca.certificate, key)
        self._domain = ca.trust_domain
        self._roots = ca.bundle.fingerprint
        self._keys = [rsa.generate_private_key(65537, 2048) for _ in range(KEYS)]

    def make(self, count: int) -> Iterator[SignedNode]:
        """Makes some nodes; takes 4 ms of CPU each, most of it for the CA's signature."""
        with ThreadPoolExecutor(2) as threads:
            yield from threads.map(self._make_one, range(count))

    def _make_one(self, number: int) -> SignedNode:
        now = datetime.now(UTC)
        node_id = f"orders-{number:05}"
        key = self._keys[number % KEYS]
        certificate = build_leaf(
            Identity(node_id, self._domain),
            key.public_key(),
            validity(now, LEAF_DAYS, self._issuer.certificate),
            self._issuer,
            hosts=[_ip(number)],
        )
        der = certificate.public_bytes(Encoding.DER)
        signing = Signing(
            hashlib.sha256(der).digest(), certificate.not_valid_after_utc.timestamp(), key
        )
        signer = RecordSigner(node_id, mesh=DEFAULT_MESH, trust_domain=self._domain, key=signing)
        info = NodeInfo(
            node_id,
            node_id,
            "generic",
            f"{_ip(number)}:50051",
            services=SERVICES,
            joined_at=now,
            updated_at=now,
            trust_bundle=self._roots,
        )
        return SignedNode(signer.sign_record(node_id, int(time.time() * 1000), info), der, signer)


def _ip(number: int) -> IPv4Address:
    return IPv4Address("127.1.0.1") + number
