"""Other verifiers accept the certificates that we issue."""

from __future__ import annotations

import datetime as dt
import ipaddress
import subprocess

import pytest
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_certs._x509.pem import encode_certificates, parse_crls
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

NOW = dt.datetime.now(dt.UTC)
STRICT = ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-CAfile"]
KEY_TYPES = [KeyType.RSA_2048, KeyType.P256, KeyType.P384]


@pytest.fixture(
    params=[(key_type, depth) for key_type in KEY_TYPES for depth in ("root", "intermediate")],
    ids=lambda param: "-".join(param),
    scope="module",
)
def ca(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    key_type, depth = request.param
    directory = tmp_path_factory.mktemp("strict") / "certs"
    below_a_root = depth == "intermediate"
    return CertificateAuthority.create(directory, key_type=key_type, intermediate=below_a_root)


@pytest.fixture(scope="module")
def tls(ca: CertificateAuthority) -> TLSConfig:
    key_type = KeyType.P256 if len(ca.bundle.certificates) > 1 else KeyType.RSA_2048
    return ca.issue("node-1", address="127.0.0.1:1", hosts=["api.acme.example"], key_type=key_type)


def openssl_verify(ca: CertificateAuthority, tls: TLSConfig, *arguments: str) -> str:
    root, chain, leaf = (ca.directory / name for name in ("root.pem", "chain.pem", "leaf.pem"))
    root.write_bytes(encode_certificates(ca.bundle.certificates[-1:]))
    leaf.write_bytes(encode_certificates(tls.chain[:1]))
    untrusted = []
    if tls.chain[1:]:
        chain.write_bytes(encode_certificates(tls.chain[1:]))
        untrusted = ["-untrusted", str(chain)]
    result = subprocess.run(
        [*STRICT, str(root), *untrusted, *arguments, str(leaf)],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() if result.returncode == 0 else result.stdout + result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-purpose", "sslserver", "-verify_hostname", "node-1"),
        ("-purpose", "sslserver", "-verify_hostname", "api.acme.example"),
        ("-purpose", "sslserver", "-verify_ip", "127.0.0.1"),
        ("-purpose", "sslclient"),
        ("-auth_level", "2"),
    ],
    ids=" ".join,
)
def test_openssl_accepts_our_leaves_in_strict_mode(
    ca: CertificateAuthority, tls: TLSConfig, arguments: tuple[str, ...]
) -> None:
    assert openssl_verify(ca, tls, *arguments).endswith("leaf.pem: OK")


@pytest.mark.parametrize("name", ["localhost", "node-2", "aegis.internal"])
def test_openssl_accepts_our_leaves_for_no_other_name(
    ca: CertificateAuthority, tls: TLSConfig, name: str
) -> None:
    assert "hostname mismatch" in openssl_verify(ca, tls, "-verify_hostname", name)


def test_openssl_accepts_our_ca_in_strict_mode(ca: CertificateAuthority, tls: TLSConfig) -> None:
    root = ca.directory / "ca.pem"
    root.write_bytes(encode_certificates(ca.bundle.certificates[-1:]))
    command = [*STRICT, str(root), str(root)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["node-1", "api.acme.example"])
def test_the_unchanged_web_pki_policy_of_cryptography_accepts_our_leaves(
    ca: CertificateAuthority, tls: TLSConfig, name: str
) -> None:
    store = verification.Store(list(ca.bundle.certificates[-1:]))
    builder = verification.PolicyBuilder().store(store)
    leaf, *rest = tls.chain
    server = builder.build_server_verifier(x509.DNSName(name))
    assert len(server.verify(leaf, rest)) == len(tls.chain) + 1
    assert builder.build_client_verifier().verify(leaf, rest).subjects


def test_strict_verifiers_accept_the_certificate_of_a_token_as_that_of_a_client(
    ca: CertificateAuthority,
) -> None:
    token = ca.create_token("orders-1")
    tls = token.tls()
    assert openssl_verify(ca, tls, "-purpose", "sslclient").endswith("leaf.pem: OK")
    assert "purpose" in openssl_verify(ca, tls, "-purpose", "sslserver")
    assert "hostname mismatch" in openssl_verify(ca, tls, "-verify_hostname", "orders-1")
    store = verification.Store(list(ca.bundle.certificates[-1:]))
    client = verification.PolicyBuilder().store(store).build_client_verifier()
    leaf, *rest = token.chain
    uri = x509.UniformResourceIdentifier("spiffe://aegis.internal/enroll/orders-1")
    assert client.verify(leaf, rest).subjects == [uri]
    critical = {one.value.oid._name for one in leaf.extensions if one.critical}
    assert critical == {"basicConstraints", "keyUsage", "subjectAltName"}
    assert not list(leaf.subject)


def test_the_extensions_of_a_leaf_are_those_of_rfc_5280(tls: TLSConfig) -> None:
    extensions = tls.certificate.extensions
    critical = {extension.value.oid._name for extension in extensions if extension.critical}
    assert critical == {"basicConstraints", "keyUsage"}
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (False, None)
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-1", "api.acme.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    assert len(names.get_values_for_type(x509.UniformResourceIdentifier)) == 1
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)


def test_the_extensions_of_the_cas_are_those_of_rfc_5280(ca: CertificateAuthority) -> None:
    cas = ca.bundle.certificates
    for certificate, length in zip(reversed(cas), [len(cas) - 1, 0], strict=False):
        extensions = certificate.extensions
        critical = {extension.value.oid._name for extension in extensions if extension.critical}
        assert critical == {"basicConstraints", "keyUsage"}
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (constraints.ca, constraints.path_length) == (True, length)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        assert (usage.key_cert_sign, usage.crl_sign) == (True, True)
        assert not usage.digital_signature


def test_der_default_values_are_not_encoded(ca: CertificateAuthority, tls: TLSConfig) -> None:
    for certificate in (tls.certificate, *ca.bundle.certificates):
        assert 64 < certificate.serial_number.bit_length() < 160  # positive, and 20 octets at most
        assert all(b"\x01\x01\x00" not in e.value.public_bytes() for e in certificate.extensions)
        names = [*certificate.subject, *certificate.issuer]
        assert {attribute._type.name for attribute in names} == {"UTF8String"}
    constraints = tls.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.public_bytes() == b"0\x00"  # an end entity encodes no field


def test_an_empty_crl_omits_the_list_of_revoked_certificates(ca: CertificateAuthority) -> None:
    ca.write_revocations()
    for crl in parse_crls((ca.directory / "crl.pem").read_bytes()):
        path = ca.directory / "one.pem"
        path.write_bytes(crl.public_bytes(Encoding.PEM))
        command = ["openssl", "crl", "-noout", "-text", "-in", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "No Revoked Certificates" in text


def test_a_chain_has_the_intermediate_and_not_the_root(
    ca: CertificateAuthority, tls: TLSConfig
) -> None:
    assert tls.chain[1:] == ca.bundle.certificates[:-1]
    assert tls.bundle.verify(tls.chain, "server").node_id == "node-1"
