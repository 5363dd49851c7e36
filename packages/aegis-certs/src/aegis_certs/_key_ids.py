"""Key identifiers: which CA is meant, where two have one name (RFC 5280, 4.2.1.1 and 4.2.1.2)."""

from __future__ import annotations

from cryptography import x509


def key_id(ca: x509.Certificate) -> bytes:
    """The key identifier of a CA, computed where it carries none."""
    try:
        return ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(ca.public_key()).digest


def issuer_key_id(certificate: x509.Certificate) -> bytes | None:
    """The key identifier of the CA that signed a certificate, where it names that."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return extension.value.key_identifier


def may_have_signed(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Tells whether names and key identifiers say so; no signature is checked."""
    named = issuer_key_id(certificate)
    return ca.subject == certificate.issuer and named in (None, key_id(ca))
