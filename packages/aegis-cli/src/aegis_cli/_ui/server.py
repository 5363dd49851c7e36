"""Listens on loopback, within limits that a stranger on this machine cannot exceed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aegis_cli._ui.http import MAX_HEAD, BadRequestError, Request, Response, parse, refused
from aegis_cli.errors import CannotListenError

LOOPBACK = ("127.0.0.1", "::1")
"""Where the page is: nowhere else, and at the second one only where there is no IPv4."""

MAX_CONNECTIONS = 64
"""Connections that are open at the same time.

A further one closes the oldest whose request has not arrived, so that nobody keeps the browser away
by holding connections. If all wait for their answers, it is closed itself.
"""

BACKLOG = 16
"""Connections that are accepted at once: few, so that a request is read before its connection is
the oldest."""

TIMEOUT = 10.0
"""Seconds that a connection has for its request, and for reading the answer."""

_UNAVAILABLE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class LoopbackServer:
    """Serves HTTP on loopback, one request on each connection.

    Args:
        answer: Returns the answer to a request.
    """

    def __init__(self, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._answer = answer
        self._open: dict[asyncio.Task[Any], asyncio.WriteTransport] = {}
        self._waiting: dict[asyncio.Task[Any], None] = {}  # the oldest first
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> str:
        """Begins to listen; returns `HOST:PORT`.

        Raises:
            CannotListenError: The port is taken, or not allowed.
        """
        for host in LOOPBACK:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                held = socket.create_server((host, port), family=family)
            except OSError as error:
                if error.errno in _UNAVAILABLE and host != LOOPBACK[-1]:
                    continue
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise CannotListenError(port, reason.lower()) from error
            self._server = await asyncio.start_server(
                self._serve, sock=held, limit=MAX_HEAD, backlog=BACKLOG
            )
            bound = held.getsockname()[1]
            return f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        raise AssertionError  # the last address returns or raises

    async def close(self) -> None:
        """Ends all connections."""
        if self._server is not None:
            self._server.close()
        # Cancelled tasks would be logged by asyncio before Python 3.12.
        for transport in self._open.values():
            transport.abort()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            if not self._waiting:
                writer.transport.abort()
                return
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._open.pop(oldest).abort()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs this
        self._open[task] = writer.transport
        self._waiting[task] = None
        try:
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                self._waiting.pop(task, None)
                writer.write(bytes(await self._response(head)))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._open.pop(task, None)
            self._waiting.pop(task, None)
            with contextlib.suppress(Exception):
                writer.transport.abort()  # without effect on one that is closed

    async def _response(self, head: bytes) -> Response:
        try:
            request = parse(head)
        except BadRequestError:
            return refused(HTTPStatus.BAD_REQUEST, "This is no request.")
        return await self._answer(request)
