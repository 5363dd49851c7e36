"""Enrolment: the first identity of a process, for a token."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aegis_certs import (
    CertsError,
    DirectoryError,
    ExpectedIdentity,
    IdentitySource,
    InvalidPemError,
    InvalidTokenError,
    KeyMismatchError,
    KeyType,
    LockTimeoutError,
    NotFoundError,
    RequestedIdentity,
    TLSConfig,
    Token,
    existing_identity,
    requesting,
)

from aegis_discovery._model import DEFAULT_MESH
from aegis_discovery.enrolment._ask import ask_issuers
from aegis_discovery.enrolment._known import keep_documents
from aegis_discovery.errors import EnrolmentError, TokenError
from aegis_discovery.proto import mesh_pb2

_log = logging.getLogger("aegis.identity")

TIMEOUT = 300.0
"""Seconds that enrolment takes at most, by default.

An issuer that 500 machines ask at once, on a busy machine, needs more than a minute for them.
"""

CA_FILE = "ca-cert.pem"
"""The trust bundle of a certificate directory."""

AnyToken = Token | str | Path
"""A token, its text, or the path of a file that holds its text."""


def enroll(
    token: AnyToken,
    cert_dir: str | Path | None = "./certs",
    *,
    node_id: str | None = None,
    mesh: str = DEFAULT_MESH,
    key_type: KeyType = KeyType.RSA_2048,
    timeout: float = TIMEOUT,
) -> TLSConfig:
    """Gets the first identity of a node or client from an issuer of the mesh, for a token.

    The key is created here and never leaves this machine. The issuers that the token names are
    asked in turn, until one answers; each must prove its id by a certificate of the token's trust
    bundle. A valid identity that the directory has already is returned as it is, and the token is
    not used. In a directory that cannot be written, the identity stays in memory.

    Args:
        token: The token: its text, or the `Path` of a file that holds it.
        cert_dir: Where the identity is kept, as `aegis_certs.load_or_generate_tls` loads it; None
            keeps it in memory.
        node_id: The id that the token must be for; by default any.
        mesh: The name of the mesh, whose documents are kept beside the identity.
        key_type: The type of the new key.
        timeout: Seconds until it gives up.

    Raises:
        TokenError: The token cannot be used: it is for another id, has expired, or names no issuer.
        EnrolmentError: No issuer gave a certificate; `causes` has the reason of each.
        aegis_certs.CertsError: The token is damaged, or the directory holds what cannot be used.
    """
    return enroll_until_cancelled(
        token, cert_dir, node_id=node_id, mesh=mesh, key_type=key_type, timeout=timeout
    )[0]


def enroll_until_cancelled(
    token: AnyToken,
    cert_dir: str | Path | None,
    *,
    node_id: str | None = None,
    mesh: str = DEFAULT_MESH,
    key_type: KeyType = KeyType.RSA_2048,
    timeout: float = TIMEOUT,
    must_write: bool = False,
    cancelled: threading.Event | None = None,
) -> tuple[TLSConfig, bool]:
    """As `enroll`; returns also whether the token was used.

    With `must_write`, a directory that cannot be written is an error, and costs no token. Files of
    an identity that cannot be read are replaced.
    """
    found, _ = _existing(node_id, cert_dir)
    try:
        token = read_token(token)
    except (TokenError, InvalidTokenError):
        if found is not None:
            return found, False  # the file of the token may be gone, as it should be
        raise
    if node_id not in (None, token.node_id):
        if found is not None:
            return found, False
        raise TokenError(f"it is for {token.node_id}, not for {node_id}", token.node_id)
    found, damage = _kept(token, cert_dir)
    if found is not None:
        return found, False
    if damage is not None:
        found_wrong = str(damage).partition(";")[0]  # the advice is followed already
        _log.warning("%s needs the token for a new identity: %s", token.node_id, found_wrong)
    _check(token, datetime.now(UTC))
    expected = ExpectedIdentity(token.node_id, token.bundle, token.trust_domain)
    with contextlib.ExitStack() as stack:
        try:
            request = stack.enter_context(
                requesting(expected, cert_dir, key_type=key_type, timeout=timeout)
            )
        except LockTimeoutError:
            raise
        except DirectoryError as error:
            if must_write:
                raise
            _log.warning("%s will be kept in memory only: %s", token.node_id, error)
            request = stack.enter_context(requesting(expected, None, key_type=key_type))
        found, _ = _kept(token, cert_dir)
        if found is not None:
            return found, False  # another process was faster
        tls, documents = _ask(token, request, timeout, must_write, cancelled)
        if cert_dir is not None:
            keep_documents(documents, tls, cert_dir, mesh)
        return tls, True


def _existing(
    node_id: str | None, cert_dir: str | Path | None
) -> tuple[TLSConfig | None, CertsError | None]:
    """The identity in a directory, or why its files cannot be read.

    No copy of a key exists that was created here, so only a new identity helps. A trust bundle that
    cannot be read is an error: the answer of an issuer could not be installed beside it.
    """
    if node_id is None or cert_dir is None:
        return None, None
    try:
        return existing_identity(node_id, cert_dir), None
    except (InvalidPemError, KeyMismatchError, NotFoundError) as error:
        if isinstance(error, InvalidPemError) and Path(error.source or "").name == CA_FILE:
            reason = f"{error.reason}, or remove the file and enrol with a new token"
            raise InvalidPemError(error.what, reason, error.source) from error
        return None, error


def _kept(token: Token, cert_dir: str | Path | None) -> tuple[TLSConfig | None, CertsError | None]:
    """The identity in a directory if it can be used; None if the token is needed.

    A process that was off while the CA was replaced trusts nobody of the mesh any more, and nobody
    can tell it of the new CA. Its operator can, by a token that is valid now.
    """
    found, damage = _existing(token.node_id, cert_dir)
    if found is None or datetime.now(UTC) >= token.not_after:
        return found, damage
    is_known = token.bundle.certificates[0] in found.bundle.certificates
    return (found if is_known or token.trust_domain != found.trust_domain else None), None


def load_or_enroll(
    source: IdentitySource | None,
    node_id: str,
    token: AnyToken | None,
    cert_dir: str | Path | None,
    *,
    mesh: str = DEFAULT_MESH,
    cancelled: threading.Event | None = None,
) -> tuple[IdentitySource, TLSConfig]:
    """Loads an identity, or gets one for a token; returns also what keeps it fresh.

    Raises:
        TokenError: As `enroll`.
        EnrolmentError: As `enroll`.
        aegis_certs.CertsError: The identity cannot be loaded.
    """
    if source is not None and (token is None or _has_ca_key(cert_dir)):
        return source, source.load()
    assert token is not None  # noqa: S101 - without a token there is a source
    tls, _ = enroll_until_cancelled(
        token, cert_dir, node_id=node_id, mesh=mesh, cancelled=cancelled
    )
    if source is not None and cert_dir is not None:
        found, _ = _existing(node_id, cert_dir)
        if found is not None and found.certificate == tls.certificate:
            return source, source.load()
    return IdentitySource.fixed(tls), tls


def _has_ca_key(cert_dir: str | Path | None) -> bool:
    return cert_dir is not None and (Path(cert_dir) / "ca-key.pem").exists()


def _ask(
    token: Token,
    request: RequestedIdentity,
    timeout: float,
    must_write: bool,
    cancelled: threading.Event | None,
) -> tuple[TLSConfig, Sequence[mesh_pb2.SignedDocument]]:
    left = (token.not_after - datetime.now(UTC)).total_seconds()
    try:
        pair, documents = ask_issuers(
            token.issuers,
            token.tls(),
            "Enroll",
            request.csr,
            lambda answer: (request.verify(tuple(answer.chain)), answer.documents),
            timeout=min(timeout, left),
            cancelled=cancelled,
        )
    except EnrolmentError as error:
        if datetime.now(UTC) >= token.not_after:
            raise TokenError(_expired(token), token.node_id) from error
        raise
    # Not while issuers are asked: a full disk is no reason to ask another one.
    tls = request.install(pair, must_write=must_write)
    _log.info("%s has enrolled; its certificate expires at %s", tls.node_id, tls.not_after)
    return tls, documents


def read_token(token: AnyToken) -> Token:
    """Reads a token from its text, or from a file.

    Raises:
        TokenError: The file cannot be read.
        aegis_certs.InvalidTokenError: It is no token.
    """
    if isinstance(token, Token):
        return token
    if isinstance(token, Path):
        try:
            token = token.read_text(encoding="ascii", errors="replace")
        except OSError as error:
            raise TokenError(f"cannot read {token}: {error.strerror or error}") from error
    return Token.parse(token)


def _check(token: Token, now: datetime) -> None:
    if now >= token.not_after:
        raise TokenError(_expired(token), token.node_id)
    start = token.certificate.not_valid_before_utc
    if now < start:
        raise TokenError(
            f"it is valid from {start:%Y-%m-%d %H:%M:%S} UTC on, and here it is "
            f"{now:%Y-%m-%d %H:%M:%S} UTC; set the clock of this machine",
            token.node_id,
        )
    if not token.issuers:
        raise TokenError(
            "it names no issuer; start one (`aegis node run --issuer`) and make another token, or "
            "name its address when you make it (`--at HOST:PORT`)",
            token.node_id,
        )


def _expired(token: Token) -> str:
    ago = max(datetime.now(UTC) - token.not_after, timedelta())
    when = f"{token.not_after:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"it has expired at {when}, {int(ago.total_seconds())} s ago by the clock of this machine; "
        f"make another one where the CA's key is (`aegis certs token {token.node_id}`)"
    )
