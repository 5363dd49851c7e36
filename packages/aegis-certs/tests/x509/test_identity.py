from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, Identity, IdentityError, identity_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes

DNS = x509.DNSName
URI = x509.UniformResourceIdentifier
Make = Callable[..., Any]


def test_our_own_leaf_names_its_node_three_times(ca: CertificateAuthority) -> None:
    tls = ca.issue("node-1")
    assert identity_of(tls.certificate) == Identity("node-1", "aegis.internal")
    assert tls.identity.spiffe_id == "spiffe://aegis.internal/node/node-1"


@pytest.mark.parametrize(
    ("names", "sans", "identity"),
    [
        (["n"], [], Identity("n")),
        (["n"], [DNS("n"), DNS("localhost")], Identity("n")),
        (["n"], [DNS("N")], Identity("n")),
        (["n"], [URI("spiffe://acme/node/n")], Identity("n", "acme")),
        ([], [URI("spiffe://acme/node/n")], Identity("n", "acme")),
        ([], [DNS("n")], Identity("n")),
        (["n"], [DNS("n"), URI("https://acme.example/n")], Identity("n")),
    ],
)
def test_names_that_agree_make_an_identity(
    make_certificate: Make, names: list[str], sans: list[x509.GeneralName], identity: Identity
) -> None:
    assert identity_of(make_certificate(*names, sans=sans).certificate) == identity


def test_an_identity_has_the_other_dns_names_as_tls_reads_them(make_certificate: Make) -> None:
    sans = [DNS("n"), DNS("B.Acme.example"), DNS("c."), DNS("*.d"), DNS("N.")]
    identity = identity_of(make_certificate("n", sans=sans).certificate)
    assert identity.hosts == ("b.acme.example", "c", "*.d")


@pytest.mark.parametrize(
    ("names", "sans"),
    [
        ([], []),
        ([], [DNS("a"), DNS("b")]),
        (["n"], [DNS("other")]),
        (["n"], [DNS("localhost")]),
        (["n"], [URI("spiffe://acme/node/other")]),
        (["n"], [DNS("n"), URI("spiffe://acme/node/other")]),
        (["n"], [URI("spiffe://acme/node/n"), URI("spiffe://acme/node/other")]),
        (["n"], [URI("spiffe://acme/node/n"), URI("https://acme.example")]),
        (["n"], [URI("spiffe://acme/ns/x/sa/n")]),
        (["n"], [URI("spiffe://acme/node/n/")]),
        (["n"], [URI("spiffe://acme/n")]),
        (["n"], [URI("spiffe://ACME/node/n")]),
        (["n"], [URI("SPIFFE://acme/node/n")]),
        (["n"], [URI("spiffe://acme")]),
        (["n", "m"], []),
        (["n", "n"], []),
        (["Acme Web Server"], []),
        (["localhost"], [DNS("localhost")]),
        (["10.0.0.1"], []),
        (["../n"], []),
    ],
)
def test_names_that_disagree_or_are_not_a_node_id_are_refused(
    make_certificate: Make, names: list[str], sans: list[x509.GeneralName]
) -> None:
    with pytest.raises(IdentityError):
        identity_of(make_certificate(*names, sans=sans).certificate)


X400_ADDRESS, NO_NAMES_AT_ALL, NO_TEXT = b"\x30\x02\xa3\x00", b"junk", b"\x30\x03\x86\x01\xff"


@pytest.mark.parametrize("names", [X400_ADDRESS, NO_NAMES_AT_ALL, NO_TEXT])
def test_names_that_cannot_be_read_are_refused(make_certificate: Make, names: bytes) -> None:
    key = make_certificate("n").key
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "n")])
    start = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1).not_valid_before(start)
    oid = x509.SubjectAlternativeName.oid
    odd = x509.UnrecognizedExtension(oid, names)
    builder = builder.not_valid_after(start + dt.timedelta(1)).add_extension(odd, critical=False)
    with pytest.raises(IdentityError, match="cannot be read"):
        identity_of(builder.sign(key, hashes.SHA256()))
