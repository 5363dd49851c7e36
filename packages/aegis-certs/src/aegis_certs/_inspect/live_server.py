"""The certificates that a TLS server sends, before any trust in it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from aegis_certs.errors import NotFoundError

_TIMEOUT = 10.0  # seconds
_REFUSAL_TIMEOUT = 1.0  # seconds


@dataclass(frozen=True)
class Handshake:
    """What a server showed in a handshake.

    Attributes:
        chain: The certificates that it sent, leaf first; before Python 3.13 the leaf alone.
        protocol: The TLS version, such as `TLSv1.3`.
        accepted: It sent data after the handshake; None if it neither sent data nor closed.
    """

    chain: tuple[x509.Certificate, ...]
    protocol: str
    accepted: bool | None


def probe(host: str, port: int, identity: tuple[Path, Path] | None = None) -> Handshake:
    """Makes a TLS handshake that verifies nothing and sends nothing.

    It presents the identity, the files of a certificate and of its key, if one is given.

    Raises:
        NotFoundError: No server answers there, or it does not speak TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the caller verifies what it receives
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        context.load_cert_chain(*identity)
    place = f"{host}:{port}"
    try:
        with (
            socket.create_connection((host, port), timeout=_TIMEOUT) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
            if der is None:
                raise NotFoundError("certificate", place, "the server sends none")
            rest: Callable[[], Sequence[bytes]] = getattr(tls, "get_unverified_chain", list)
            others = rest()[1:]  # before Python 3.13 only the leaf is available
            chain = tuple(map(x509.load_der_x509_certificate, (der, *others)))
            return Handshake(chain, tls.version() or "", _accepts(tls))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        advice = f"{str(reason).lower()}; check the address, and whether it speaks TLS"
        raise NotFoundError("TLS server", place, advice) from error


def _accepts(tls: ssl.SSLSocket) -> bool | None:
    """Waits for data, because with TLS 1.3 a server refuses a client after the handshake."""
    tls.settimeout(_REFUSAL_TIMEOUT)
    try:
        return tls.recv(1) != b""
    except TimeoutError:
        return None
    except OSError:
        return False
