"""One process of the demo, as the one that started it sees it."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aegis_cli.errors import DemoError

Message = Mapping[str, Any]

_ENDED: Message = {"event": "ended"}


class ChildProcess:
    """A process that takes orders and tells what happens.

    Args:
        name: For people.
        process: Started, with pipes as standard input and output.
        log: The file that its standard error goes to.
        on_news: Called when it told its topology, or ended.

    Attributes:
        topology: What it last told of its topology; empty at first.
        may_end: Whether it may end without being told to.
    """

    def __init__(
        self, name: str, process: Process, *, log: Path, on_news: Callable[[], None]
    ) -> None:
        self.name = name
        self.topology: Message = {}
        self.may_end = False
        self._process = process
        self._log = log
        self._on_news = on_news
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(), name=f"demo-{name}")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._reading.done()

    def order(self, order: str, **details: object) -> None:
        """Tells it what to do."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps({"order": order, **details}).encode() + b"\n")

    async def expect(self, event: str, within: float) -> Message:
        """Waits for what it tells next, of anything but its topology.

        Raises:
            DemoError: If that is something else, or does not come in time.
        """
        try:
            async with asyncio.timeout(within):
                message = await self._messages.get()
        except TimeoutError:
            raise DemoError(f"{self.name} was not {event} within {within:g} s") from None
        if message["event"] != event:
            raise self._failure(message)
        return message

    def check(self) -> None:
        """Makes sure that it runs, unless it may end.

        Raises:
            DemoError: If it ended.
        """
        if not self.is_running and not self.may_end:
            raise self._failure(_ENDED)

    def kill(self) -> None:
        """Kills it without any warning (SIGKILL)."""
        self.may_end = True
        self._process.kill()

    async def stop(self, within: float) -> None:
        """Tells it to stop, and waits for its end.

        Raises:
            DemoError: If it does not end, or not as it should.
        """
        self.order("stop")
        if not await self._ends(within):
            raise DemoError(f"{self.name} did not stop within {within:g} s")
        if self._process.returncode != 0 and not self.may_end:
            raise self._failure(_ENDED)
        self.may_end = True

    async def end(self, within: float) -> None:
        """Ends it in any case: takes its standard input away, then kills it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not await self._ends(within):
            self._process.kill()
            await self._ends(within)

    async def _ends(self, within: float) -> bool:
        done, _ = await asyncio.wait([self._reading], timeout=within)
        return bool(done)

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe, the type cannot tell
        async for line in self._process.stdout:
            message = json.loads(line)
            if message["event"] == "topology":
                self.topology = message
                self._on_news()
            else:
                self._messages.put_nowait(message)
        await self._process.wait()
        self._messages.put_nowait(_ENDED)
        self._on_news()

    def _failure(self, message: Message) -> DemoError:
        if message["event"] == "failed":
            return DemoError(f"{self.name} failed: {message['reason']}")
        if message["event"] != _ENDED["event"]:
            return DemoError(f"{self.name} told {message['event']!r}, which nobody expected")
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "it logged nothing")
        code = self._process.returncode
        return DemoError(f"{self.name} ended unexpectedly (exit code {code}): {last.strip()}")
