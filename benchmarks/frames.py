"""A small HTTP/2 client over mutual TLS that sends the frames it is told to send.

As a load generator it costs a tenth of a gRPC channel, so that the server is what limits the calls
per second. As an attacker it sends what no gRPC channel would: headers without a request, resets,
floods of SETTINGS and PING. RFC 9113 describes the frames, RFC 7541 the headers.
"""

from __future__ import annotations

import socket
import ssl
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from aegis_certs import TLSConfig

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 2, 3, 4, 6, 7
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = 2**31 - 1
NEWEST_HEADER = b"\xbe"
MAX_FRAME = 16_384
"""Bytes of a frame that every peer must accept."""


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends_stream(self) -> bool:
        return self.kind in {DATA, HEADERS} and bool(self.flags & END_STREAM)


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
    return head + payload


def request_headers(path: str, authority: str) -> bytes:
    """Returns the header block of a gRPC call, without compression."""

    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()  # strings of up to 126 bytes

    return b"".join(
        (
            b"\x83\x87",  # :method POST, :scheme https
            b"\x04" + text(path),
            b"\x01" + text(authority),
            b"\x0f\x10" + text("application/grpc"),  # content-type
            b"\x00" + text("te") + text("trailers"),
        )
    )


def indexed_header(name: bytes, value: bytes) -> bytes:
    """Returns a header that the server remembers; `NEWEST_HEADER` names it from then on."""
    length, digits = len(value) - 127, bytearray([127])
    while length >= 128:
        digits.append(length % 128 | 128)
        length //= 128
    return b"\x40" + bytes([len(name)]) + name + bytes([*digits, length]) + value


def message(content: bytes) -> bytes:
    """Returns a gRPC message: not compressed, its length, its bytes."""
    return struct.pack(">BI", 0, len(content)) + content


def client_context(tls: TLSConfig | None, trust_bundle: bytes = b"") -> ssl.SSLContext:
    """Returns a context with an identity, or without one."""
    context = ssl.create_default_context(
        cadata=(tls.trust_bundle if tls else trust_bundle).decode()
    )
    context.set_alpn_protocols(["h2"])
    if tls:
        with tempfile.TemporaryDirectory() as directory:  # it loads files only
            path = Path(directory, "identity.pem")
            path.write_bytes(tls.private_key + tls.certificate_chain)
            context.load_cert_chain(path)
    return context


class Connection:
    """One connection. It answers SETTINGS and PING; all else is up to its user.

    Args:
        address: `host:port`.
        server_name: The node id of the server.
        context: See `client_context`.
        window: Bytes that each stream may receive until its user sends a WINDOW_UPDATE.
        timeout: Seconds for each operation.
        session: A TLS session to resume.
    """

    def __init__(
        self,
        address: str,
        server_name: str,
        context: ssl.SSLContext,
        *,
        window: int = LARGEST_WINDOW,
        timeout: float = 30.0,
        session: ssl.SSLSession | None = None,
    ) -> None:
        host, port = address.rsplit(":", 1)
        raw = socket.create_connection((host, int(port)), timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw, server_hostname=server_name, session=session)
        self.server_name = server_name
        self.window = 65_535
        """Bytes of DATA that the server accepts now."""
        self.max_streams = LARGEST_WINDOW
        self.stream_window = 0
        """Bytes of DATA that the server accepts on a new stream; 0 until it has said so."""
        self.acknowledges = True
        """Whether it acknowledges the settings of the server, whose limits hold from then on."""
        self._received = b""
        self._consumed = 0
        self._last_stream = -1
        # No table of headers, and the size of the window of a stream.
        settings = frame(SETTINGS, 0, struct.pack(">HIHI", 1, 0, 4, window))
        enlarge = frame(WINDOW_UPDATE, 0, struct.pack(">I", LARGEST_WINDOW - 65_535))
        self.send(PREFACE + settings + enlarge)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def await_settings(self) -> None:
        """Waits until the server has said what a stream may send."""
        while not self.stream_window:
            for _ in self.receive():
                pass

    def next_stream(self) -> int:
        self._last_stream += 2
        return self._last_stream

    def open(self, path: str) -> int:
        """Sends the headers of a call and nothing else; returns its stream."""
        stream = self.next_stream()
        block = request_headers(path, self.server_name)
        self.send(frame(HEADERS, stream, block, END_HEADERS))
        return stream

    def call(self, path: str, request: bytes) -> int:
        """Sends a unary request; returns its stream."""
        stream = self.open(path)
        self.send(frame(DATA, stream, message(request), END_STREAM))
        return stream

    def receive(self) -> Iterator[Frame]:
        """Waits for bytes; yields the frames that they complete.

        Raises:
            ConnectionError: If the server has closed the connection.
            TimeoutError: If nothing arrives in time.
        """
        received = self.socket.recv(65_536)
        if not received:
            raise ConnectionError("the server has closed the connection")
        buffer = self._received + received
        start = 0
        while len(buffer) - start >= 9:
            length = int.from_bytes(buffer[start : start + 3], "big")
            end = start + 9 + length
            if len(buffer) < end:
                break
            kind, flags, stream = struct.unpack_from(">BBI", buffer, start + 3)
            got = Frame(kind, flags, stream & LARGEST_WINDOW, buffer[start + 9 : end])
            start = end
            self._answer(got)
            yield got
        self._received = buffer[start:]

    def _answer(self, got: Frame) -> None:
        if got.kind == DATA:
            self._consumed += len(got.payload)
            if self._consumed > 2**24:
                self.send(frame(WINDOW_UPDATE, 0, struct.pack(">I", self._consumed)))
                self._consumed = 0
        elif got.kind == WINDOW_UPDATE and not got.stream:
            self.window += int.from_bytes(got.payload, "big")
        elif got.kind == SETTINGS and not got.flags & ACK:
            for name, value in struct.iter_unpack(">HI", got.payload):
                if name == 3:  # SETTINGS_MAX_CONCURRENT_STREAMS
                    self.max_streams = value
                elif name == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                    self.stream_window = value
            if self.acknowledges:
                self.send(frame(SETTINGS, 0, flags=ACK))
        elif got.kind == PING and not got.flags & ACK:
            self.send(frame(PING, 0, got.payload, flags=ACK))


class UnaryCalls:
    """Makes unary calls on one connection, several at a time."""

    def __init__(self, connection: Connection, path: str, request: bytes) -> None:
        self._connection = connection
        self._block = request_headers(path, connection.server_name)
        self._body = message(request)

    def __call__(self, calls: int, at_once: int) -> None:
        """Makes calls, and starts another one whenever one ends.

        Raises:
            AssertionError: If a call ended without a response message.
        """
        connection = self._connection
        started = ended = 0
        answered: set[int] = set()
        free = min(at_once, calls)
        while ended < calls:
            out = []
            while free and started < calls and connection.window >= len(self._body):
                out.append(self._call())
                connection.window -= len(self._body)
                started += 1
                free -= 1
            if out:
                connection.send(b"".join(out))
            for got in connection.receive():
                if got.kind == DATA:
                    answered.add(got.stream)
                if got.ends_stream:
                    assert got.stream in answered, "a call failed"
                    answered.discard(got.stream)
                    ended += 1
                    free += 1
                assert got.kind not in {RST_STREAM, GOAWAY}, "a call was reset"

    def _call(self) -> bytes:
        stream = self._connection.next_stream()
        return frame(HEADERS, stream, self._block, END_HEADERS) + frame(
            DATA, stream, self._body, END_STREAM
        )
