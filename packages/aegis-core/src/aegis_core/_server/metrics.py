"""Serves metrics over HTTP, to a Prometheus that reads them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from aegis_discovery.transport import join_address

from aegis_core._address import describe_os_error, metrics_address
from aegis_core._server.prometheus import CONTENT_TYPE, metrics_text
from aegis_core.errors import AddressInUseError

if TYPE_CHECKING:
    from aegis_core._stats import NodeStats

_log = logging.getLogger("aegis.node")

MAX_WAITING = 64
"""Connections whose request has not arrived; a further one closes the oldest.

An honest reader sends its request at once. So nobody keeps it away by holding connections.
"""

BACKLOG = 16
"""Connections that are accepted at once, and that the system holds until then.

It is well below `MAX_WAITING`: a request is read a few turns of the event loop after its
connection was accepted, and must not be closed before by those that were accepted meanwhile.
"""

MAX_UNREAD = 8
"""Answers that are held since their readers have not read them; a further one drops the longest.

Each may have some megabytes, for the edges of all callers.
"""

MAX_SHARE = 0.05
"""The share of the time of the event loop in which metrics may be written down.

That takes up to 0.1 s where there are many callers. Until its share allows it, requests get the
same text again, so that strangers who ask all the time do not stop the node.
"""

MAX_REQUEST = 8 * 1024
"""Bytes of the head of a request."""

TIMEOUT = 10.0
"""Seconds that a connection has for its request and for reading the answer."""


async def serve_metrics(address: str, stats: Callable[[], NodeStats]) -> MetricsServer:
    """Serves the metrics of a node at `HOST:PORT`.

    Raises:
        AddressInUseError: The address cannot be bound.
    """
    server = MetricsServer(*metrics_address(address), lambda: metrics_text(stats()))
    await server.start()
    _log.info("%s has metrics at http://%s/metrics", stats().node_id, server.address)
    return server


class MetricsServer:
    """Answers `GET /metrics`, one request on each connection, in plain HTTP.

    Args:
        host: Where it listens.
        port: The port; 0 takes a free one.
        text: Returns the metrics.
    """

    def __init__(self, host: str, port: int, text: Callable[[], str]) -> None:
        self._host = host
        self._port = port
        self._text = text
        self._waiting: dict[asyncio.WriteTransport, None] = {}  # the oldest first
        self._unread: dict[asyncio.WriteTransport, None] = {}  # so too
        self._written = b""
        self._write_at = 0.0
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return join_address(self._host, self._port)

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            AddressInUseError: The address cannot be bound.
        """
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._port, limit=MAX_REQUEST, backlog=BACKLOG
            )
        except OSError as error:
            raise AddressInUseError(self.address, describe_os_error(error)) from error
        self._port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        # Cancelled tasks would be logged by asyncio before Python 3.12.
        for transport in (*self._waiting, *self._unread):
            transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        if len(self._waiting) >= MAX_WAITING:
            _drop(self._waiting, next(iter(self._waiting)))
        self._waiting[transport] = None
        try:
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                self._waiting.pop(transport, None)
                for part in self._answer(head):
                    writer.write(part)
                self._hold(transport)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._waiting.pop(transport, None)
            self._unread.pop(transport, None)
            with contextlib.suppress(Exception):
                transport.abort()  # without effect on one that is closed

    def _hold(self, transport: asyncio.WriteTransport) -> None:
        """Limits the answers that the system did not take at once."""
        if not transport.get_write_buffer_size():
            return
        self._unread[transport] = None
        if len(self._unread) > MAX_UNREAD:
            _drop(self._unread, max(self._unread, key=lambda one: one.get_write_buffer_size()))

    def _answer(self, head: bytes) -> tuple[bytes, bytes]:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return _response("404 Not Found", b"the metrics are at /metrics\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"use GET\n")
        return _response("200 OK", self._metrics(), CONTENT_TYPE, has_body=method == b"GET")

    def _metrics(self) -> bytes:
        began = time.monotonic()
        if began >= self._write_at:
            self._written = self._text().encode(errors="replace")
            now = time.monotonic()
            self._write_at = now + (now - began) / MAX_SHARE
        return self._written


def _drop(held: dict[asyncio.WriteTransport, None], transport: asyncio.WriteTransport) -> None:
    del held[transport]
    transport.abort()


def _response(
    status: str, body: bytes, kind: str = "text/plain; charset=utf-8", *, has_body: bool = True
) -> tuple[bytes, bytes]:
    """Returns head and body apart, since all connections share one body.

    With a copy each, those that are reset hold much memory until the garbage is collected.
    """
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode(), body if has_body else b""
