from __future__ import annotations

import time

import pytest
from aegis_certs import TLSConfig
from cryptography.hazmat.primitives.serialization import Encoding

from ..conftest import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Starts at the present, since certificates are valid from now on."""
    return ManualClock(float(round(time.time())))


def chain_of(tls: TLSConfig) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in tls.chain)
