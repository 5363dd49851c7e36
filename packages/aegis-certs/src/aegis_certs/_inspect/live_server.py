"""What a live TLS server shows of itself, to one who does not believe it yet."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from aegis_certs.errors import NotFoundError

_SECONDS = 10.0


@dataclass(frozen=True)
class Sighting:
    """What a server showed.

    Attributes:
        chain: The certificates that it sent, leaf first; before Python 3.13 the leaf alone.
        protocol: The TLS version, such as `TLSv1.3`.
        accepted: It went on talking after the handshake; None where it kept silent.
    """

    chain: tuple[x509.Certificate, ...]
    protocol: str
    accepted: bool | None


def look_at(host: str, port: int, identity: tuple[Path, Path] | None = None) -> Sighting:
    """Makes a TLS handshake, and tells what the server showed; nothing is believed or sent.

    Args:
        host: Where it listens.
        port: Its port.
        identity: The files of a certificate and its key to show, for servers that want one;
            None shows none.

    Raises:
        NotFoundError: Nobody answers there, or not with TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is only looked at; the caller checks what it sees
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        context.load_cert_chain(*identity)
    place = f"{host}:{port}"
    try:
        with (
            socket.create_connection((host, port), timeout=_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
            if der is None:
                raise NotFoundError("certificate", place, "the server shows none")
            rest: Callable[[], Sequence[bytes]] = getattr(tls, "get_unverified_chain", list)
            others = rest()[1:]  # before Python 3.13 only the leaf can be had
            chain = tuple(map(x509.load_der_x509_certificate, (der, *others)))
            return Sighting(chain, tls.version() or "", _goes_on(tls))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        advice = f"{str(reason).lower()}; check the address, and whether it speaks TLS"
        raise NotFoundError("TLS server", place, advice) from error


def _goes_on(tls: ssl.SSLSocket) -> bool | None:
    """Since TLS 1.3 a server refuses a client only after the handshake."""
    tls.settimeout(1.0)
    try:
        return tls.recv(1) != b""
    except TimeoutError:
        return None
    except OSError:
        return False
