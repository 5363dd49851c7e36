from __future__ import annotations

import subprocess
import sys

import aegis_certs
import aegis_certs.cli
import aegis_certs.errors
import pytest


def test_the_public_names_are_these() -> None:
    assert set(aegis_certs.__all__) - set(aegis_certs.errors.__all__) == {
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
        "new_enrolment_key_and_csr",
        "needed_cas",
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
    }
    assert set(aegis_certs.errors.__all__) <= set(aegis_certs.__all__)
    assert set(aegis_certs.cli.__all__) == {
        "UNLIMITED",
        "Command",
        "CommandGroup",
        "LazyCommands",
        "certificate_directory",
        "certs",
        "certs_exit_codes",
        "examine",
        "examples",
        "fail",
        "json_flag",
        "option",
        "present",
        "printable",
        "run_slowly",
        "show_json",
        "warn_at_once",
        "width_of",
    }


@pytest.mark.parametrize("name", aegis_certs.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(aegis_certs, name)
    assert name in dir(aegis_certs)
    assert isinstance(value, str) or value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = aegis_certs.nonsense


@pytest.mark.parametrize("name", aegis_certs.errors.__all__)
def test_every_error_is_a_certs_error_and_in_the_tree_of_the_docstring(name: str) -> None:
    assert issubclass(getattr(aegis_certs.errors, name), aegis_certs.CertsError)
    assert name in (aegis_certs.errors.__doc__ or "")


def test_the_library_loads_neither_grpc_nor_click_nor_rich() -> None:
    code = (
        "import sys, aegis_certs\n"
        "for name in aegis_certs.__all__: getattr(aegis_certs, name)\n"
        "print([m for m in ('click', 'rich', 'grpc', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
