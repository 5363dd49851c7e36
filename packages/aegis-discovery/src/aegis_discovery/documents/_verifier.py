"""Verifies documents by the trust bundle that this process has now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from aegis_certs import (
    ExpiredError,
    NotYetValidError,
    RevocationList,
    RevocationListError,
    TrustBundle,
)
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from aegis_discovery.documents._document import (
    CONTEXT,
    MAX_AHEAD,
    MAX_BODY_OVERHEAD,
    MAX_CONTENT,
    MAX_SIGNATURE,
    MAX_SIGNER,
    Clock,
    Document,
    DocumentBody,
    DocumentKind,
    SignedDocument,
)
from aegis_discovery.errors import InvalidDocumentError

IsNewer = Callable[[DocumentKind, int], bool]

_MAX_BODY = max(MAX_CONTENT.values()) + MAX_BODY_OVERHEAD
_KINDS = {kind.value: kind for kind in DocumentKind}


class Verifier(Protocol):
    """What a store needs of a verifier: `DocumentVerifier`, or one that a simulation provides."""

    def verify(
        self, signed: SignedDocument, may_be_newer: IsNewer = ..., *, at_rest: bool = False
    ) -> Document | None:
        """As `DocumentVerifier.verify`."""


class DocumentVerifier:
    """Turns received bytes into documents, or refuses them.

    Args:
        bundle: The CAs that are trusted now.
        mesh: The name of the mesh.
        trust_domain: The trust domain of the mesh; without one, every document is refused.
        intermediates: Further CAs that may have signed a CRL, such as those of the own chain.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        bundle: TrustBundle,
        *,
        mesh: str,
        trust_domain: str | None,
        intermediates: Sequence[x509.Certificate] = (),
        clock: Clock = time.time,
    ) -> None:
        self._bundle = bundle
        self._intermediates = tuple(intermediates)
        self._mesh = mesh
        self._trust_domain = trust_domain
        self._clock = clock
        self._revocations = RevocationList.empty()

    def change_bundle(
        self, bundle: TrustBundle, intermediates: Sequence[x509.Certificate] = ()
    ) -> None:
        """Trusts these CAs from now on."""
        self._bundle, self._intermediates = bundle, tuple(intermediates)

    def apply_revocations(self, revocations: RevocationList) -> None:
        """Refuses revoked signers from now on."""
        self._revocations = revocations

    def verify(
        self,
        signed: SignedDocument,
        may_be_newer: IsNewer = lambda _kind, _sequence: True,
        *,
        at_rest: bool = False,
    ) -> Document | None:
        """Verifies that the authority of this mesh, or the CA of a CRL, signed exactly this.

        Args:
            signed: The document.
            may_be_newer: Tells whether a document of this kind and sequence could be new; if not,
                its signatures are not checked.
            at_rest: The own directory has kept it, so its signer may have expired since it signed.

        Returns:
            The document; None for one of an unknown kind, or one that is not new.

        Raises:
            InvalidDocumentError: It is refused.
        """
        # Loaded late, since many meshes publish nothing.
        from aegis_discovery.documents._codec import decode_body, decode_content
        from aegis_discovery.documents._signing import check_size

        size = len(signed.body)
        if size > _MAX_BODY or len(signed.signature) > MAX_SIGNATURE:
            reason = f"{size} bytes with a signature of {len(signed.signature)} are too large"
            raise InvalidDocumentError("", reason)
        body = decode_body(signed.body)
        if body.context != CONTEXT:
            raise InvalidDocumentError("", "its bytes are not a document")
        kind = _KINDS.get(body.kind)
        if kind is None:
            return None
        self._check_scope(kind, body)
        check_size(kind, body.content)
        if kind is DocumentKind.CRL:
            return self._verify_crl(body)
        if not may_be_newer(kind, body.sequence):
            return None
        signer = self._verify_signer(kind, body, signed, at_rest=at_rest)
        _check_signature(kind, signer, signed)
        value = decode_content(kind, body.content)
        if isinstance(value, TrustBundle):
            self._check_bundle(value)
        until = signer.not_valid_after_utc.timestamp()
        return Document(kind, kind.value, body.sequence, body.content, value, signed, until)

    def _check_scope(self, kind: DocumentKind, body: DocumentBody) -> None:
        if body.mesh != self._mesh:
            reason = f"it belongs to mesh {body.mesh[:64]!r}, this mesh is {self._mesh!r}"
            raise InvalidDocumentError(kind, reason)
        if not self._trust_domain:
            raise InvalidDocumentError(kind, "this process has no trust domain")
        if body.trust_domain != self._trust_domain:
            reason = f"it is of trust domain {body.trust_domain[:64]!r}, not {self._trust_domain}"
            raise InvalidDocumentError(kind, reason)

    def _verify_signer(
        self, kind: DocumentKind, body: DocumentBody, signed: SignedDocument, *, at_rest: bool
    ) -> x509.Certificate:
        from aegis_certs import verify_authority

        now = self._clock()
        if body.sequence > (now + MAX_AHEAD) * 1000:
            ahead = body.sequence / 1000 - now
            reason = f"its sequence is {ahead:.0f} s ahead of this clock (limit {MAX_AHEAD:.0f})"
            raise InvalidDocumentError(kind, reason, is_temporary=True)
        if not 0 < len(signed.signer) <= MAX_SIGNER:
            reason = f"the certificate of its signer has {len(signed.signer)} bytes"
            raise InvalidDocumentError(kind, reason)
        at = min(now, body.sequence / 1000) if at_rest else now
        assert self._trust_domain  # noqa: S101 - `_check_scope` was called
        try:
            signer = x509.load_der_x509_certificate(signed.signer)
            verify_authority(
                signer, self._bundle, self._trust_domain, at=datetime.fromtimestamp(at, UTC)
            )
        except (ExpiredError, NotYetValidError) as error:
            raise InvalidDocumentError(kind, str(error), is_temporary=True) from error
        except Exception as error:  # the parser's errors have no common root
            raise InvalidDocumentError(kind, str(error)) from error
        if self._revocations.is_revoked(signer):
            raise InvalidDocumentError(kind, "the certificate of its signer is revoked")
        return signer

    def _verify_crl(self, body: DocumentBody) -> Document | None:
        from aegis_discovery.documents._signing import crl_document

        kind = DocumentKind.CRL
        try:
            issuer = x509.load_der_x509_crl(body.content).issuer
            cas = (*self._bundle.certificates, *self._intermediates)
            if all(ca.subject != issuer for ca in cas):
                return None  # it lists certificates that are not trusted here either
            revocations = RevocationList.from_der(
                body.content,
                self._bundle,
                intermediates=self._intermediates,
                at=datetime.fromtimestamp(self._clock(), UTC),
            )
        except RevocationListError as error:
            early = error.not_before is not None
            raise InvalidDocumentError(kind, str(error), is_temporary=early) from error
        except Exception as error:  # the parser's errors have no common root
            raise InvalidDocumentError(kind, str(error)) from error
        number = revocations.number or 0
        # What travels is made anew: a peer could add anything to what nobody has signed.
        domain = self._trust_domain or ""
        signed = crl_document(body.content, mesh=self._mesh, trust_domain=domain, number=number)
        key = f"{kind.value}:{revocations.issuers[0]}"
        return Document(kind, key, number, body.content, revocations, signed)

    def _check_bundle(self, bundle: TrustBundle) -> None:
        if not bundle.may_sign_for(self._trust_domain or ""):
            reason = f"it has no root that may sign for {self._trust_domain}"
            raise InvalidDocumentError(DocumentKind.BUNDLE, reason)


def _check_signature(kind: DocumentKind, signer: x509.Certificate, signed: SignedDocument) -> None:
    key = signer.public_key()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signed.signature, signed.body, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signed.signature, signed.body, padding.PKCS1v15(), hashes.SHA256())
        else:
            raise InvalidDocumentError(kind, f"{type(key).__name__} cannot sign documents")
    except InvalidSignature as error:
        raise InvalidDocumentError(kind, "its signature is not its signer's") from error
