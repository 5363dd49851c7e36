"""What an issuer grants: the first certificate of a node for a token, and its successors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.issued import Answer, Enrolment, IssuedCertificate, IssuedToken, Record
from aegis_certs._ca.session import CASession
from aegis_certs._ca.spec import CertificateSpec, IdentityRequest
from aegis_certs._time import format_utc
from aegis_certs._x509.identity import enrolment_of, identity_of, inherited_hosts
from aegis_certs._x509.keys import PublicKey, is_usable_key, issuer_key_id, key_fingerprint, key_id
from aegis_certs._x509.serialization import Encoding
from aegis_certs._x509.trust import TrustBundle
from aegis_certs.errors import CAEndsError, CertsError, EnrolmentRefusedError, InvalidRequestError

MAX_REQUEST = 16 * 1024
"""Bytes of a certificate request at most: one with an RSA key of 8192 bits has 2.5 KB."""

MAX_LIVE = 64
"""Valid certificates of one node at most; a node that asks for more has lost its mind."""


@dataclass(frozen=True)
class EnrolledIdentity:
    """What a node gets from an issuer.

    Attributes:
        chain: The leaf, then the intermediates, each in DER.
        bundle: The CAs that the issuer's directory trusts. The node must not trust them because
            an issuer sent them.
    """

    chain: tuple[bytes, ...]
    bundle: TrustBundle


def public_key_of(csr_der: bytes) -> PublicKey:
    """The public key of a request; nothing else is taken from it.

    Raises:
        EnrolmentRefusedError: The request cannot be read, its key cannot be used, or its signature
            does not prove that the sender has the private key.
    """
    if len(csr_der) > MAX_REQUEST:
        reason = f"its request has {len(csr_der)} bytes, the limit is {MAX_REQUEST}"
        raise EnrolmentRefusedError(None, reason)
    try:
        csr = x509.load_der_x509_csr(csr_der)
        key = csr.public_key()
        usable = is_usable_key(key) and csr.is_signature_valid
    except Exception as error:  # the parser's errors have no common root
        reason = f"its request cannot be read ({type(error).__name__})"
        raise EnrolmentRefusedError(None, reason) from error
    if not usable or not is_usable_key(key):
        reason = "the key or the signature of its request cannot be used"
        raise EnrolmentRefusedError(None, reason)
    return key


def enroll(
    session: CASession, key: PublicKey, bootstrap: x509.Certificate, issuer_id: str
) -> EnrolledIdentity:
    """The certificate that a token grants; the same one if the same key asks again."""
    token = _token_of(session, bootstrap)
    if (given := _given(session, token, key)) is not None:
        return given
    spec = CertificateSpec.parse(
        token.id,
        hosts=token.hosts,
        days=token.days,
        client_only=not token.server,
    )
    enrolled = Enrolment(token.serial, issuer_id, session.at.replace(microsecond=0))
    return _answer(session, spec, key, Action.ENROLL, token, issuer_id, enrolled)


def renew_for(
    session: CASession,
    key: PublicKey,
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    issuer_id: str,
) -> EnrolledIdentity:
    """The successor of a certificate; the same one if the same new key asks again."""
    node_id = _verified(session, leaf, intermediates)
    entry = _entry_of(session, leaf, node_id)
    if entry is not None and (given := _given(session, entry, key)) is not None:
        return given
    if key_fingerprint(key) == _leaf_key(leaf):
        raise EnrolmentRefusedError(node_id, "it asks with the key of its certificate again")
    end = session.issuer.certificate.not_valid_after_utc
    if leaf.not_valid_after_utc >= end:
        raise CAEndsError(node_id, end)  # or it would ask again and again for as short a life
    issuer = session.bundle.issuer_of(leaf, intermediates) or session.issuer.certificate
    spec = IdentityRequest.parse(node_id).renewal_spec(leaf, issuer, entry)
    if entry is None:
        entry = IssuedCertificate.of(
            node_id, leaf, hosts=inherited_hosts(leaf), days=spec.days, from_request=True
        )
        session.adopt([entry])
    return _answer(session, spec, key, Action.RENEW, entry, issuer_id, entry.enrolled)


def _token_of(session: CASession, bootstrap: x509.Certificate) -> IssuedToken:
    """The token of a bootstrap certificate, which has not ended."""
    found = enrolment_of(bootstrap)
    if found is None:
        raise EnrolmentRefusedError(None, "its certificate is not that of a token")
    token = session.inventory.token(f"{bootstrap.serial_number:x}")
    if token is None or token.fingerprint != _fingerprint(bootstrap):
        reason = f"no token {bootstrap.serial_number:x} was made in {session.store.directory}"
        raise EnrolmentRefusedError(found.node_id, reason)
    if session.at > token.not_after:
        reason = f"its token {token.serial} ended at {format_utc(token.not_after)}"
        raise EnrolmentRefusedError(token.id, reason)
    if session.at < token.not_before:
        reason = f"its token {token.serial} is not valid before {format_utc(token.not_before)}"
        raise EnrolmentRefusedError(token.id, f"{reason}; check the clock of this machine")
    if session.revocations.has_serial(token.serial):
        raise EnrolmentRefusedError(token.id, f"its token {token.serial} was cancelled")
    if session.bundle.issuer_of(bootstrap) is None:
        raise EnrolmentRefusedError(token.id, f"the CA of its token {token.serial} was retired")
    return token


def _verified(
    session: CASession, leaf: x509.Certificate, intermediates: Sequence[x509.Certificate]
) -> str:
    """The node of a certificate that is trusted, valid and not revoked."""
    chain = (leaf, *intermediates)
    try:
        node_id = session.bundle.verify(
            session.bundle.path_of(chain) or chain[:1],
            None,
            at=session.at,
            trust_domain=session.trust_domain,
        ).node_id
        session.revocations.check(leaf, intermediates, subject=node_id)
    except CertsError as error:
        raise EnrolmentRefusedError(_claimed_id(leaf), str(error)) from error
    return node_id


def _entry_of(session: CASession, leaf: x509.Certificate, node_id: str) -> IssuedCertificate | None:
    """The inventory's entry of a verified certificate; None if another CA of our root issued it.

    A mesh may have several issuing CAs below one root, each in a directory of its own. A node must
    not depend on the one that issued its certificate, so the others renew it as it is.
    """
    serial = f"{leaf.serial_number:x}"
    if session.inventory.get(serial) is None:
        session.adopt(session.unrecorded([node_id]))
    entry = session.inventory.get(serial)
    if entry is not None and entry.fingerprint == _fingerprint(leaf) and entry.id == node_id:
        return entry
    ours = {key_id(issuer.certificate) for issuer in session.issuers()}
    if entry is not None or issuer_key_id(leaf) in ours:
        reason = f"no certificate {serial} is on record in {session.store.directory}"
        raise EnrolmentRefusedError(node_id, reason)
    return None


def _given(session: CASession, asked: Record, key: PublicKey) -> EnrolledIdentity | None:
    """The answer that was given before, if it is the same key that asks.

    None if there was none, or if it is not valid now, since the clock of the issuer was wrong: the
    node could never use it, and would get no other. None also if the inventory was lost since: the
    audit log has no certificates, and the same key may have another one.
    """
    answer = asked.answer
    if answer is None:
        return None
    what = "token" if isinstance(asked, IssuedToken) else "certificate"
    if answer.key != key_fingerprint(key):
        reason = (
            f"its {what} {asked.serial} was used at {format_utc(answer.at)} through "
            f"{answer.through} by another key (SHA-256 {answer.key[:16]}), so one of the two may "
            f"be a thief; unless you know better, revoke the node and give it a new token"
        )
        raise EnrolmentRefusedError(asked.id, reason, is_theft=True)
    if session.revocations.has_serial(answer.serial):
        raise EnrolmentRefusedError(asked.id, f"the certificate {answer.serial} was revoked")
    if not answer.certificate:
        return None
    leaf = x509.load_der_x509_certificate(answer.certificate)
    is_valid = leaf.not_valid_before_utc <= session.at <= leaf.not_valid_after_utc
    return _identity(session, leaf) if is_valid else None


def _answer(
    session: CASession,
    spec: CertificateSpec,
    key: PublicKey,
    action: Action,
    asked: Record,
    issuer_id: str,
    enrolled: Enrolment | None,
) -> EnrolledIdentity:
    """Signs a certificate, and records it and for what it is the answer before it is given."""
    live = [entry for entry in session.inventory.of_node(spec.node_id) if session.is_usable(entry)]
    if len(live) >= MAX_LIVE:
        reason = f"it has {len(live)} valid certificates already; revoke those that it lost"
        raise EnrolmentRefusedError(spec.node_id, reason)
    try:
        leaf, entry = session.grant(spec, key)
    except InvalidRequestError as error:
        raise EnrolmentRefusedError(spec.node_id, str(error)) from error
    answer = Answer(
        key_fingerprint(key),
        entry.serial,
        session.at.replace(microsecond=0),
        issuer_id,
        leaf.public_bytes(Encoding.DER),
    )
    entry = replace(entry, through=issuer_id, enrolled=enrolled)
    session.record_answer(action, entry, replace(asked, answer=answer))
    return _identity(session, leaf)


def _identity(session: CASession, leaf: x509.Certificate) -> EnrolledIdentity:
    chain = session.bundle.chain_of(leaf)
    return EnrolledIdentity(tuple(one.public_bytes(Encoding.DER) for one in chain), session.bundle)


def _claimed_id(leaf: x509.Certificate) -> str | None:
    try:
        return identity_of(leaf).node_id
    except CertsError:
        return None


def _leaf_key(leaf: x509.Certificate) -> str:
    key = leaf.public_key()
    return key_fingerprint(key) if is_usable_key(key) else ""


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()
