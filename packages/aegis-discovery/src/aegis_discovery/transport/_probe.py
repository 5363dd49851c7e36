"""Probes a node's identity by TLS, since gRPC does not show a server's certificate."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from aegis_certs import CertsError, Identity, TLSConfig, identity_of
from cryptography import x509

from aegis_discovery._runtime.addresses import split_address
from aegis_discovery._runtime.foreign_text import printable
from aegis_discovery.errors import ConnectError, PeerIdentityError

# RFC 9113, section 3.4: the client preface and an empty SETTINGS frame. A server that accepted
# our certificate answers with its own settings; with TLS 1.3 nothing earlier shows that.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))

_CLOSED = ("Socket closed", "SSL", "andshake", "reset")
_ALERT = "TSI_DATA_CORRUPTED"  # what gRPC 1.85 says of a TLS alert after the handshake

_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID


def probe_identity(address: str, tls: TLSConfig, timeout: float = 5.0) -> Identity:
    """Returns the identity in the certificate that the server at an address proves to own.

    The handshake shows our certificate and verifies the peer's chain against our trust bundle. It
    does not check the name, which is not known yet: use the result as the name of a channel.

    Args:
        address: `host:port`.
        tls: Our identity.
        timeout: Seconds for each step: connect, handshake, first answer.

    Raises:
        ConnectError: No server answers, it does not speak gRPC over TLS, or it refuses our
            certificate.
        PeerIdentityError: The peer's certificate is not trusted, or names no node.
    """
    host, port = split_address(address)
    # A text would make Python load its tables of international names, which take 2 ms.
    target: Any = (host.encode(), port)
    try:
        with socket.create_connection(target, timeout) as raw:
            der = _handshake(raw, address, tls, timeout)
    except TimeoutError:
        raise _unreachable(address, f"did not answer within {timeout:g} s") from None
    except ConnectionRefusedError:
        raise _unreachable(address, "refused the connection; is a node listening there?") from None
    except socket.gaierror as error:
        raise _unreachable(
            address, f"has a host that cannot be resolved ({error.strerror})"
        ) from None
    except OSError as error:
        raise _unreachable(address, f"cannot be reached ({error.strerror or error})") from error
    try:
        identity = identity_of(x509.load_der_x509_certificate(der))
    except (CertsError, ValueError) as error:
        raise PeerIdentityError(address, str(error)) from error
    ours = tls.trust_domain
    if ours and identity.trust_domain and identity.trust_domain != ours:
        raise PeerIdentityError(
            address,
            f"{identity.node_id} is of trust domain {identity.trust_domain}, we are of {ours}; "
            f"use the address of a node of our trust domain",
        )
    return identity


def describe_call_error(error: Exception, tls: TLSConfig, *, of: str = "a node") -> str:
    """Describes in one sentence why a call failed, where gRPC only reports `Socket closed`.

    A peer does not say which certificate it refuses, so this checks our own identity.

    Args:
        error: The exception that the call raised.
        tls: The identity that the call used.
        of: What should have answered.
    """
    details = (isinstance(error, grpc.RpcError) and error.details()) or str(error)
    if "Connection refused" in details:
        return f"it refused the connection; is {of} listening there?"
    details = printable(details)
    if "Hostname Verification" in details or "Peer name" in details:
        return f"another node than the expected one answered there: {details}"
    if "CERTIFICATE_VERIFY_FAILED: " in details:
        reason = details.rpartition("CERTIFICATE_VERIFY_FAILED: ")[2].partition(":")[0]
        return f"its certificate is not trusted ({reason}); both sides need certificates of one CA"
    if not any(hint in details for hint in (*_CLOSED, _ALERT)):
        return details
    problem = _own_problem(tls)
    if problem is None and _ALERT in details:
        problem = f"{of} may trust another CA; both sides need certificates of one CA"
    return f"our own identity is not accepted: {problem}" if problem else details


def _own_problem(tls: TLSConfig) -> str | None:
    """Describes what is wrong with our own certificate; None if it is valid."""
    try:
        tls.bundle.verify(tls.chain, "client")
    except CertsError as error:
        return str(error)
    return None


def _handshake(raw: socket.socket, address: str, tls: TLSConfig, timeout: float) -> bytes:
    """Returns the peer's certificate (DER) once the peer has accepted ours."""
    raw.settimeout(timeout)
    try:
        connection = _context(tls).wrap_socket(raw)
    except ssl.SSLCertVerificationError as error:
        raise PeerIdentityError(address, _untrusted(error, tls)) from error
    except ConnectionError as error:
        raise _closed(address, tls) from error
    except ssl.SSLError as error:
        if _is_end(error):
            raise _closed(address, tls) from error
        reason = error.reason or str(error)
        if "ALERT" in reason:
            raise _refused(address, tls, _plain(reason)) from error
        raise _unreachable(address, f"answers, but not with TLS ({_plain(reason)})") from error
    with connection:
        der = connection.getpeercert(binary_form=True)
        if connection.selected_alpn_protocol() != "h2" or der is None:
            raise _unreachable(address, "speaks TLS, but not gRPC (no HTTP/2)")
        try:
            connection.sendall(_HTTP2_PREFACE)
            accepted = connection.recv(1)
        except OSError as error:  # with TLS 1.3, the server refuses only after the handshake
            if isinstance(error, TimeoutError):
                raise
            if not isinstance(error, ssl.SSLError) or _is_end(error):
                raise _closed(address, tls) from error
            raise _refused(address, tls, _plain(error.reason or str(error))) from error
        if not accepted:
            raise _closed(address, tls)
        return der


def _context(tls: TLSConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # As gRPC does: an intermediate CA in the trust bundle is a trust anchor too.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=tls.trust_bundle.decode())
    with _as_file(tls.private_key + b"\n" + tls.certificate_chain) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _as_file(secret: bytes) -> Iterator[str]:
    """Gives `ssl`, which reads keys from files only, a path; on Linux it is never on a disk."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("aegis-identity")
        path = f"/proc/self/fd/{descriptor}"
    else:
        import tempfile  # loads slowly

        descriptor, path = tempfile.mkstemp()  # readable by its owner only
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            yield path
    finally:
        if sys.platform != "linux":
            os.unlink(path)


def _untrusted(error: ssl.SSLCertVerificationError, tls: TLSConfig) -> str:
    if error.verify_code == _EXPIRED:
        return "its certificate, or that of its CA, has expired; renew it there"
    if error.verify_code == _NOT_YET_VALID:
        return "its certificate is not valid yet; check the clocks of both machines"
    return (
        f"its certificate is not trusted ({error.verify_message}); "
        f"both sides need certificates of one CA; if the CA was replaced while this process was "
        f"off, start it with a new token of the mesh, from `aegis certs token {tls.node_id}`"
    )


def _plain(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _is_end(error: ssl.SSLError) -> bool:
    """Whether the connection just ended; OpenSSL names some of its ends `[SYS] unknown error`."""
    return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or error.library == "SYS"


def _closed(address: str, tls: TLSConfig) -> ConnectError:
    """A server may close without an alert because of our certificate, or because it stops."""
    if _own_problem(tls):
        return _refused(address, tls, "it closed the connection")
    reason = (
        "closed the connection before it answered; it may be stopping or trust another CA, or one "
        "of the two clocks is wrong"
    )
    return _unreachable(address, reason)


def _refused(address: str, tls: TLSConfig, what: str) -> ConnectError:
    reason = _own_problem(tls) or "it may trust another CA"
    return _unreachable(address, f"did not accept our certificate ({what}): {reason}")


def _unreachable(address: str, reason: str) -> ConnectError:
    return ConnectError(f"{address} {reason}", {address: reason})
