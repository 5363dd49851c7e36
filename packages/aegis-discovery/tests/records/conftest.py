from __future__ import annotations

import time

import pytest
from aegis_certs import CertificateAuthority, TLSConfig
from aegis_discovery.records import RecordSigner, RecordVerifier
from cryptography.hazmat.primitives.serialization import Encoding

from ..conftest import ManualClock

MESH = "test"


@pytest.fixture
def clock() -> ManualClock:
    """Starts at the present, since certificates are valid from now on."""
    return ManualClock(float(round(time.time())))


def chain_of(tls: TLSConfig) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in tls.chain)


@pytest.fixture(scope="module")
def owner(ca: CertificateAuthority) -> TLSConfig:
    """The identity of node `a`."""
    return ca.issue_in_memory("a")


@pytest.fixture
def signer(owner: TLSConfig, clock: ManualClock) -> RecordSigner:
    return RecordSigner.of(owner, mesh=MESH, clock=clock)


@pytest.fixture
def verifier(ca: CertificateAuthority, owner: TLSConfig, clock: ManualClock) -> RecordVerifier:
    """A verifier that holds the certificate of `a`."""
    verifier = RecordVerifier(ca.bundle, mesh=MESH, trust_domain=ca.trust_domain, clock=clock)
    verifier.add_chain(chain_of(owner))
    return verifier
