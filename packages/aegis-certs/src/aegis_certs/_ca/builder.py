"""Building certificates and CRLs exactly as RFC 5280 says. Pure: no files, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aegis_certs._x509.authority import DOCUMENT_SIGNING, authority_id
from aegis_certs._x509.identity import (
    Identity,
    enrolment_spiffe_id,
    general_names,
    spiffe_id,
)
from aegis_certs._x509.keys import PrivateKey, PublicKey, key_id, signature_hash
from aegis_certs._x509.names import DEFAULT_TRUST_DOMAIN, IPAddress, validate_trust_domain
from aegis_certs._x509.validity import Validity
from aegis_certs.errors import InvalidRequestError


@dataclass(frozen=True)
class Issuer:
    """The certificate and the key of a CA that signs."""

    certificate: x509.Certificate
    key: PrivateKey


def build_ca(
    name: str,
    key: PrivateKey,
    validity: Validity,
    *,
    trust_domain: str,
    path_length: int = 0,
    issuer: Issuer | None = None,
) -> x509.Certificate:
    """A CA's certificate: self-signed, or an intermediate if an issuer is given.

    It carries the trust domain as its SPIFFE id (X.509-SVID, section 4.1). Its subject has an
    organisation, so it differs from the subject of every leaf, which is the node id alone.
    """
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise InvalidRequestError("name", name, "1 to 64 printable characters are needed")
    validate_trust_domain(trust_domain)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Aegis"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    builder = (
        _builder(subject, key.public_key(), validity, issuer)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
            ),
            critical=False,
        )
    )
    return _sign(builder, issuer.key if issuer else key)


def build_leaf(
    identity: Identity,
    key: PublicKey,
    validity: Validity,
    issuer: Issuer,
    *,
    hosts: Sequence[str | IPAddress] = (),
    server: bool = True,
    client: bool = True,
) -> x509.Certificate:
    """A node's certificate; the hosts are added to its own names."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.node_id)])
    names: list[x509.GeneralName] = [x509.DNSName(identity.node_id)]
    if identity.trust_domain:
        uri = spiffe_id(identity.trust_domain, identity.node_id)
        names.append(x509.UniformResourceIdentifier(uri))
    names += general_names(hosts)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
    usages += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
    return _build_leaf(subject, key, validity, issuer, names, usages)


def build_bootstrap(
    identity: Identity, key: PublicKey, validity: Validity, issuer: Issuer
) -> x509.Certificate:
    """The certificate of a token, which may enrol a node but names none; see `enrolment_of`.

    Its subject is empty, so its alternative names are critical (RFC 5280, 4.1.2.6).
    """
    uri = enrolment_spiffe_id(identity.trust_domain or DEFAULT_TRUST_DOMAIN, identity.node_id)
    names = [x509.UniformResourceIdentifier(uri)]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return _build_leaf(x509.Name([]), key, validity, issuer, names, usages)


def _build_leaf(
    subject: x509.Name,
    key: PublicKey,
    validity: Validity,
    issuer: Issuer,
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
) -> x509.Certificate:
    usage = _key_usage(
        digital_signature=True,
        # In TLS 1.2 a client may encrypt its secret with an RSA key; with EC keys it cannot.
        key_encipherment=isinstance(key, rsa.RSAPublicKey),
    )
    builder = (
        _builder(subject, key, validity, issuer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=not list(subject))
    )
    return _sign(builder, issuer.key)


def build_authority(
    trust_domain: str, key: PublicKey, validity: Validity, issuer: Issuer
) -> x509.Certificate:
    """The certificate of the signer of a mesh's documents (RFC 9336), which no node can have."""
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Aegis")])
    name = x509.UniformResourceIdentifier(authority_id(trust_domain))
    builder = (
        _builder(subject, key, validity, issuer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([DOCUMENT_SIGNING]), critical=True)
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
    )
    return _sign(builder, issuer.key)


def build_crl(
    issuer: Issuer,
    revoked: Iterable[tuple[int, datetime, x509.ReasonFlags]],
    number: int,
    this_update: datetime,
    next_update: datetime,
) -> x509.CertificateRevocationList:
    """A full, direct CRL (RFC 5280, section 5) of serial numbers, dates and reasons."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_key_identifier(issuer.certificate), critical=False)
    )
    for serial, date, reason in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(date)
        if reason is not x509.ReasonFlags.unspecified:  # 5.3.1: no extension for this reason
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, signature_hash(issuer.key))


def _builder(
    subject: x509.Name, key: PublicKey, validity: Validity, issuer: Issuer | None
) -> x509.CertificateBuilder:
    own = x509.SubjectKeyIdentifier.from_public_key(key)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(own, critical=False)
        .add_extension(
            _authority_key_identifier(issuer.certificate)
            if issuer
            else x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own),
            critical=False,
        )
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The key identifier in the issuer's certificate: another tool may compute it differently."""
    return x509.AuthorityKeyIdentifier(key_id(issuer), None, None)


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    return builder.sign(key, signature_hash(key))
