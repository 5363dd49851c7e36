"""Reads the mesh for as long as somebody looks at the page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Protocol

from aegis_cli._mesh.connecting import LastingReader, MeshPlace
from aegis_cli._mesh.live import read_again
from aegis_cli._mesh.reader import Reader
from aegis_cli._view.model import STALE, View
from aegis_cli._view.page import Page

INTERVAL = 1.0
"""Least seconds between two readings."""

SHARE = 4.0
"""How much longer the pause is than the CPU time of a reading: a large mesh is read less often."""

MAX_INTERVAL = 10.0
"""Most seconds of a pause."""

IDLE = 15.0
"""Seconds after the last request at which reading pauses."""

WAIT = 2.0
"""Seconds that the first request after a pause waits for something new."""

_OWN = ("standings", "events", "started_at")
_OF_ALL = ("edges", "edges_left_out", "started_at", "pool")


class Source(Protocol):
    """Where views come from."""

    async def read(self, last: View | None) -> View:
        """Returns the next view; if it cannot be read, the last one with the trouble."""

    async def close(self) -> None:
        """Ends all connections."""


class MeshSource:
    """Reads a mesh.

    Args:
        place: The mesh.
    """

    def __init__(self, place: MeshPlace) -> None:
        self._reader = LastingReader(place)

    async def read(self, last: View | None) -> View:
        """Returns the next view; if it cannot be read, the last one with the trouble.

        Raises:
            aegis_discovery.ConnectError: The mesh cannot be read, and could not be before.
            aegis_certs.CertsError: There is no identity to read it with.
        """
        if last is None:
            return await _read_all(await self._reader.open())
        return await read_again(self._reader, _read_all, last)

    async def close(self) -> None:
        await self._reader.close()


async def _read_all(reader: Reader) -> View:
    return await reader.read(own=_OWN, of_all=_OF_ALL)


class Watch:
    """Keeps a page up to date.

    Args:
        page: The page.
        source: Where its views come from.
    """

    def __init__(self, page: Page, source: Source) -> None:
        self._page = page
        self._source = source
        self._asked_at = time.monotonic()
        self._asked = asyncio.Event()
        self._asked.set()
        self._read = asyncio.Event()
        self._pause = INTERVAL

    async def start(self) -> None:
        """Reads for the first time; raises what `MeshSource.read` raises."""
        self._page.add(await self._source.read(None))

    async def run(self) -> None:
        """Reads until it is cancelled."""
        while True:
            await asyncio.sleep(self._pause)
            if time.monotonic() - self._asked_at > IDLE:
                self._asked.clear()
                self._read.clear()
                await self._asked.wait()
            began = time.process_time()
            self._page.add(await self._source.read(self._page.view))
            cost = time.process_time() - began
            self._pause = min(max(INTERVAL, SHARE * cost), MAX_INTERVAL)
            self._read.set()

    async def asked(self) -> float:
        """Notes that somebody looks; returns the age in seconds above which a view is stale."""
        self._asked_at = time.monotonic()
        if not self._asked.is_set():
            self._asked.set()
            with contextlib.suppress(TimeoutError):  # then the page says how old it is
                await asyncio.wait_for(self._read.wait(), WAIT)
        return max(STALE, 3 * self._pause)
