"""Serves metrics over HTTP, to a Prometheus that reads them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from aegis_discovery.transport import join_address

from aegis_core._address import describe_os_error, metrics_address
from aegis_core._server.prometheus import CONTENT_TYPE, metrics_text
from aegis_core.errors import AddressInUseError

if TYPE_CHECKING:
    from aegis_core._stats import NodeStats

_log = logging.getLogger("aegis.node")

MAX_CONNECTIONS = 8
"""Connections that are open at the same time; a further one closes the oldest.

An honest reader takes milliseconds. So nobody keeps it away by holding connections.
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
        self._open: dict[asyncio.WriteTransport, None] = {}  # the oldest first
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
                self._serve, self._host, self._port, limit=MAX_REQUEST
            )
        except OSError as error:
            raise AddressInUseError(self.address, describe_os_error(error)) from error
        self._port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        # Cancelled tasks would be logged by asyncio before Python 3.12.
        for transport in list(self._open):
            transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()
        self._open[writer.transport] = None
        try:
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._open.pop(writer.transport, None)
            with contextlib.suppress(Exception):
                writer.transport.abort()  # without effect on one that is closed

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return _response("404 Not Found", b"the metrics are at /metrics\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"use GET\n")
        body = self._text().encode(errors="replace")
        return _response("200 OK", body, CONTENT_TYPE, has_body=method == b"GET")


def _response(
    status: str, body: bytes, kind: str = "text/plain; charset=utf-8", *, has_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
