from __future__ import annotations

import base64
from dataclasses import dataclass, fields, replace
from functools import cache

import pytest
from aegis_certs import CertsError, TLSConfig
from aegis_certs._x509.keys import encode_key, generate_key
from aegis_certs._x509.names import KeyType
from aegis_certs._x509.pem import parse_private_key
from cryptography.hazmat.primitives.asymmetric import rsa


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    key = generate_key(KeyType.RSA_2048)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def der(tag: int, body: bytes) -> bytes:
    size = len(body)
    head = [size] if size < 128 else [0x81, size] if size < 256 else [0x82, *divmod(size, 256)]
    return bytes([tag, *head]) + body


@dataclass
class Numbers:
    """The numbers of an RSA key, in the order of PKCS#1; a test may damage one."""

    n: int
    e: int
    d: int
    p: int
    q: int
    dmp1: int
    dmq1: int
    iqmp: int

    @classmethod
    def of(cls, key: rsa.RSAPrivateKey) -> Numbers:
        own = key.private_numbers()
        n, e = own.public_numbers.n, own.public_numbers.e
        return cls(n, e, own.d, own.p, own.q, own.dmp1, own.dmq1, own.iqmp)

    def pem(self) -> bytes:
        numbers = [0, *(getattr(self, field.name) for field in fields(self))]
        integers = (der(2, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in numbers)
        text = base64.encodebytes(der(0x30, b"".join(integers)))
        return b"-----BEGIN RSA PRIVATE KEY-----\n" + text + b"-----END RSA PRIVATE KEY-----\n"


def test_a_good_rsa_key_is_accepted() -> None:
    key, _ = parse_private_key(Numbers.of(rsa_key()).pem())

    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.private_numbers() == rsa_key().private_numbers()


@pytest.mark.parametrize("damaged", [field.name for field in fields(Numbers)])
@pytest.mark.parametrize("by", [-2, 2])
def test_an_rsa_key_with_a_damaged_number_is_refused(damaged: str, by: int) -> None:
    good = Numbers.of(rsa_key())
    pem = replace(good, **{damaged: getattr(good, damaged) + by}).pem()

    with pytest.raises(CertsError, match="get a new copy of it"):
        parse_private_key(pem)


def test_an_rsa_key_with_two_swapped_numbers_is_refused() -> None:
    good = Numbers.of(rsa_key())

    with pytest.raises(CertsError, match="its numbers do not belong together"):
        parse_private_key(replace(good, p=good.q, q=good.p).pem())


def test_a_tls_config_parses_its_key_once() -> None:
    tls = TLSConfig("node-1", b"", encode_key(rsa_key()), b"")

    assert tls.key.public_key() == rsa_key().public_key()
    assert tls.key is tls.key
