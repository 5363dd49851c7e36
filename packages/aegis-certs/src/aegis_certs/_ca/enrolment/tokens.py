"""Making, listing and cancelling tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography.hazmat.primitives import hashes

from aegis_certs._ca.builder import build_bootstrap
from aegis_certs._ca.enrolment.issuer_addresses import read_issuer_addresses
from aegis_certs._ca.issued import IssuedToken
from aegis_certs._ca.revoke import of_our_cas, revoke_entries
from aegis_certs._ca.session import CREATE_ADVICE, CASession
from aegis_certs._ca.spec import CertificateSpec
from aegis_certs._ca.view import CAView
from aegis_certs._store.directory import Store
from aegis_certs._time import format_utc
from aegis_certs._x509.identity import Identity
from aegis_certs._x509.issuer_address import IssuerAddress
from aegis_certs._x509.keys import encode_key, generate_key, key_id
from aegis_certs._x509.names import CA_NAME, KeyType
from aegis_certs._x509.revocation import RevocationReason
from aegis_certs._x509.token import Token, unique_issuers
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import validity
from aegis_certs.errors import InvalidRequestError, NotFoundError

logger = logging.getLogger("aegis_certs")

TOKEN_LIFE = timedelta(minutes=15)
MAX_TOKEN_LIFE = timedelta(days=30)
_DAY = timedelta(days=1)
_SHORT = 8  # digits of a serial number that the table of tokens shows


class TokenState(StrEnum):
    """The state of a token.

    A `used` token has enrolled its node: until its end the same key may ask again, no other may.
    An `expired` one was not used until its end, or until its CA was retired.
    """

    UNUSED = "unused"
    USED = "used"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """One token that was made, without its key.

    Attributes:
        id: The node that it grants.
        serial: The serial number of its certificate in hexadecimal.
        state: Its state.
        hosts: The further names that it grants.
        days: How long the certificate that it grants lives.
        server: Whether it grants use as a server, besides that as a client.
        not_before: Its start (UTC).
        not_after: Its end (UTC).
        used_by: SHA-256 of the public key that used it, in hexadecimal; empty if none did.
        used_at: When it was used (UTC); None if it was not.
        issuer: The node id of the issuer that it was used at; empty if it was not used.
        certificate: The serial number of the certificate that was issued for it, or empty.
    """

    id: str
    serial: str
    state: TokenState
    hosts: tuple[str, ...]
    days: float
    server: bool
    not_before: datetime
    not_after: datetime
    used_by: str = ""
    used_at: datetime | None = None
    issuer: str = ""
    certificate: str = ""


def create_token(
    session: CASession,
    spec: CertificateSpec,
    ttl: timedelta,
    issuers: Iterable[IssuerAddress],
) -> Token:
    """Makes a bootstrap identity, and records it and what it grants."""
    if not timedelta(seconds=1) <= ttl <= MAX_TOKEN_LIFE:
        reason = f"give at least a second and at most {MAX_TOKEN_LIFE.days} days"
        raise InvalidRequestError("ttl", str(ttl), reason)
    session.check_names(spec)
    _warn_of_others(session, spec.node_id)
    store, ca = session.store, session.issuer
    validity(session.at, spec.days, ca.certificate)  # wrong days are an error now, not later
    node = Identity(spec.node_id, session.trust_domain)
    key = generate_key(KeyType.P256)
    span = validity(session.at, ttl / _DAY, ca.certificate)
    certificate = build_bootstrap(node, key.public_key(), span, ca)
    known = [IssuerAddress.parse(*one) for one in issuers]
    token = Token(
        encode_key(key),
        certificate,
        session.bundle,
        unique_issuers([*known, *reversed(read_issuer_addresses(store))]),
    )
    token.encode()  # too large a token is an error before it is recorded
    entry = IssuedToken(
        id=spec.node_id,
        serial=token.serial,
        issuer=key_id(ca.certificate).hex(),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        hosts=tuple(map(str, spec.hosts)),
        days=spec.days,
        server=spec.server,
    )
    session.inventory.record_token(store, entry, session.at)
    return token


def read_tokens(store: Store, at: datetime) -> tuple[TokenInfo, ...]:
    """`list_tokens` of a directory, without the key of its CA.

    Raises:
        NotFoundError: There is no CA.
        DirectoryError: This user may not read the inventory.
    """
    if (chain := store.chain(CA_NAME)) is None:
        raise NotFoundError("CA", store.certificate_path(CA_NAME), CREATE_ADVICE)
    return list_tokens(CAView(store, at, TrustBundle(chain)))


def list_tokens(view: CAView) -> tuple[TokenInfo, ...]:
    """The tokens that are open or ended in the last week, the newest last."""
    return tuple(_info(view, token) for token in view.inventory.tokens())


def cancel_tokens(session: CASession, node_id_or_serial: str) -> tuple[TokenInfo, ...]:
    """Revokes the certificates of the tokens of a node that are unused, or of one token."""
    serial = node_id_or_serial.lower().replace(":", "").lstrip("0")
    tokens = list(session.inventory.tokens())
    named = [token for token in tokens if node_id_or_serial == token.id or serial == token.serial]
    if not named and len(serial) >= _SHORT:
        begun = [token for token in tokens if token.serial.startswith(serial)]
        named = begun if len(begun) == 1 else []
    open_ = [token for token in named if state_of(session, token) is TokenState.UNUSED]
    if not open_:
        raise NotFoundError(
            f"unused token of {node_id_or_serial}",
            session.store.inventory_path,
            _advice(session, named),
        )
    revoke_entries(session, of_our_cas(session, open_), RevocationReason.UNSPECIFIED)
    return tuple(_info(session, token) for token in open_)


def state_of(view: CAView, token: IssuedToken) -> TokenState:
    """The state of a token."""
    if token.answer is not None:
        return TokenState.USED
    if view.revocations.has_serial(token.serial):
        return TokenState.CANCELLED
    trusted = any(key_id(ca).hex() == token.issuer for ca in view.bundle.certificates)
    over = view.at > token.not_after or not trusted
    return TokenState.EXPIRED if over else TokenState.UNUSED


def _warn_of_others(session: CASession, node_id: str) -> None:
    tokens = [token for token in session.inventory.tokens() if token.id == node_id]
    for token in tokens:
        if state_of(session, token) is TokenState.UNUSED:
            logger.warning(
                "%s has another unused token until %s, so two machines could become this node; "
                "cancel the one that is not needed (`aegis-certs token --cancel %s`)",
                node_id,
                format_utc(token.not_after),
                token.serial,
            )


def _advice(session: CASession, named: Sequence[IssuedToken]) -> str:
    if any(state_of(session, token) is TokenState.USED for token in named):
        return (
            f"it is used, so revoke the certificate that it gave if that is not the node's own "
            f"(`aegis-certs revoke {named[-1].id}`)"
        )
    return "see `aegis-certs token --list` for the tokens"


def _info(view: CAView, token: IssuedToken) -> TokenInfo:
    answer = token.answer
    return TokenInfo(
        id=token.id,
        serial=token.serial,
        state=state_of(view, token),
        hosts=token.hosts,
        days=token.days,
        server=token.server,
        not_before=token.not_before,
        not_after=token.not_after,
        used_by=answer.key if answer else "",
        used_at=answer.at if answer else None,
        issuer=answer.through if answer else "",
        certificate=answer.serial if answer else "",
    )
