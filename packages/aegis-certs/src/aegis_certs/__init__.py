"""A certificate authority and certificate lifecycle for small teams and service meshes.

`load_or_generate_tls` loads a node's identity from a directory, or creates it there.
`load_tls` loads one from elsewhere. `CertificateAuthority` issues. `TrustBundle` verifies.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aegis_certs import errors
from aegis_certs.errors import *  # noqa: F403 - its `__all__` is a part of ours

if TYPE_CHECKING:
    from aegis_certs._ca.authority import CertificateAuthority
    from aegis_certs._ca.enrolment.grants import EnrolledIdentity
    from aegis_certs._ca.enrolment.issuer_addresses import write_issuer_address
    from aegis_certs._ca.enrolment.tokens import TokenInfo, TokenState
    from aegis_certs._ca.issued import Enrolment, IssuedCertificate
    from aegis_certs._ca.renew import Renewal
    from aegis_certs._ca.request import SignedCertificate, install_certificate, request_certificate
    from aegis_certs._ca.rotation.plan import MeshView, RotationDecision, RotationPlan, RotationStep
    from aegis_certs._ca.rotation_state import RotationPhase, RotationState
    from aegis_certs._export.kubernetes_secret import kubernetes_secret
    from aegis_certs._export.pkcs12 import pkcs12
    from aegis_certs._export.spiffe_bundle import spiffe_bundle
    from aegis_certs._export.trust_store import (
        TrustStep,
        TrustStore,
        browser_trust_stores,
        system_trust_store,
    )
    from aegis_certs._identity.enrolment import (
        EnrolmentRequest,
        install_identity,
        new_enrolment_key_and_csr,
    )
    from aegis_certs._identity.load import CertificateSource, TLSOptions, load_tls
    from aegis_certs._identity.load_or_generate import existing_identity, load_or_generate_tls
    from aegis_certs._identity.published import PublishedFiles
    from aegis_certs._identity.renewal_schedule import RenewalSchedule
    from aegis_certs._identity.requested import ExpectedIdentity, RequestedIdentity, requesting
    from aegis_certs._identity.source import IdentitySource
    from aegis_certs._inspect.evaluate import CertificateInfo
    from aegis_certs._inspect.listing import list_certificates
    from aegis_certs._x509.authority import is_authority, verify_authority
    from aegis_certs._x509.identity import Identity, enrolment_id_of, identity_of
    from aegis_certs._x509.issuer_address import IssuerAddress
    from aegis_certs._x509.names import (
        DEFAULT_TRUST_DOMAIN,
        MAX_WORKERS,
        KeyType,
        WorkerId,
        matching_names,
        owner_of,
        parse_worker_id,
        validate_node_id,
    )
    from aegis_certs._x509.revocation import Revocation, RevocationReason
    from aegis_certs._x509.revocation_list import RevocationList
    from aegis_certs._x509.signer import DocumentSigner
    from aegis_certs._x509.tls_config import TLSConfig
    from aegis_certs._x509.token import Token
    from aegis_certs._x509.trust import TrustBundle, needed_cas
    from aegis_certs._x509.validity import CertificateState

__all__ = [
    "DEFAULT_TRUST_DOMAIN",
    "MAX_WORKERS",
    "CertificateAuthority",
    "CertificateInfo",
    "CertificateSource",
    "CertificateState",
    "DocumentSigner",
    "EnrolledIdentity",
    "Enrolment",
    "EnrolmentRequest",
    "ExpectedIdentity",
    "Identity",
    "IdentitySource",
    "IssuedCertificate",
    "IssuerAddress",
    "KeyType",
    "MeshView",
    "PublishedFiles",
    "Renewal",
    "RenewalSchedule",
    "RequestedIdentity",
    "Revocation",
    "RevocationList",
    "RevocationReason",
    "RotationDecision",
    "RotationPhase",
    "RotationPlan",
    "RotationState",
    "RotationStep",
    "SignedCertificate",
    "TLSConfig",
    "TLSOptions",
    "Token",
    "TokenInfo",
    "TokenState",
    "TrustBundle",
    "TrustStep",
    "TrustStore",
    "WorkerId",
    "browser_trust_stores",
    "enrolment_id_of",
    "existing_identity",
    "identity_of",
    "install_certificate",
    "install_identity",
    "is_authority",
    "kubernetes_secret",
    "list_certificates",
    "load_or_generate_tls",
    "load_tls",
    "matching_names",
    "needed_cas",
    "new_enrolment_key_and_csr",
    "owner_of",
    "parse_worker_id",
    "pkcs12",
    "request_certificate",
    "requesting",
    "spiffe_bundle",
    "system_trust_store",
    "validate_node_id",
    "verify_authority",
    "write_issuer_address",
]
__all__ += errors.__all__

_HOMES = {
    "CertificateAuthority": "_ca.authority",
    "CertificateInfo": "_inspect.evaluate",
    "CertificateSource": "_identity.load",
    "CertificateState": "_x509.validity",
    "DEFAULT_TRUST_DOMAIN": "_x509.names",
    "DocumentSigner": "_x509.signer",
    "EnrolledIdentity": "_ca.enrolment.grants",
    "Enrolment": "_ca.issued",
    "EnrolmentRequest": "_identity.enrolment",
    "ExpectedIdentity": "_identity.requested",
    "Identity": "_x509.identity",
    "IdentitySource": "_identity.source",
    "IssuedCertificate": "_ca.issued",
    "IssuerAddress": "_x509.issuer_address",
    "KeyType": "_x509.names",
    "MAX_WORKERS": "_x509.names",
    "MeshView": "_ca.rotation.plan",
    "PublishedFiles": "_identity.published",
    "Renewal": "_ca.renew",
    "RenewalSchedule": "_identity.renewal_schedule",
    "RequestedIdentity": "_identity.requested",
    "Revocation": "_x509.revocation",
    "RevocationList": "_x509.revocation_list",
    "RevocationReason": "_x509.revocation",
    "RotationDecision": "_ca.rotation.plan",
    "RotationPhase": "_ca.rotation_state",
    "RotationPlan": "_ca.rotation.plan",
    "RotationState": "_ca.rotation_state",
    "RotationStep": "_ca.rotation.plan",
    "SignedCertificate": "_ca.request",
    "TLSConfig": "_x509.tls_config",
    "TLSOptions": "_identity.load",
    "Token": "_x509.token",
    "TokenInfo": "_ca.enrolment.tokens",
    "TokenState": "_ca.enrolment.tokens",
    "TrustBundle": "_x509.trust",
    "TrustStep": "_export.trust_store",
    "TrustStore": "_export.trust_store",
    "WorkerId": "_x509.names",
    "browser_trust_stores": "_export.trust_store",
    "enrolment_id_of": "_x509.identity",
    "existing_identity": "_identity.load_or_generate",
    "identity_of": "_x509.identity",
    "install_certificate": "_ca.request",
    "install_identity": "_identity.enrolment",
    "is_authority": "_x509.authority",
    "kubernetes_secret": "_export.kubernetes_secret",
    "list_certificates": "_inspect.listing",
    "load_or_generate_tls": "_identity.load_or_generate",
    "load_tls": "_identity.load",
    "matching_names": "_x509.names",
    "needed_cas": "_x509.trust",
    "new_enrolment_key_and_csr": "_identity.enrolment",
    "owner_of": "_x509.names",
    "parse_worker_id": "_x509.names",
    "pkcs12": "_export.pkcs12",
    "request_certificate": "_ca.request",
    "spiffe_bundle": "_export.spiffe_bundle",
    "system_trust_store": "_export.trust_store",
    "requesting": "_identity.requested",
    "validate_node_id": "_x509.names",
    "verify_authority": "_x509.authority",
    "write_issuer_address": "_ca.enrolment.issuer_addresses",
}


def __getattr__(name: str) -> Any:
    # `aegis-certs --help` does not need `cryptography`, whose import takes longer than the rest.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
