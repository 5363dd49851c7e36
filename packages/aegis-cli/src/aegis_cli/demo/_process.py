"""One process of the demo, as the one that started it sees it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

from aegis_cli.errors import DemoError

ENDING = 10.0
"""Seconds for a process to leave the mesh and end, when it is told to."""

ORPHANED = 3.0
"""Seconds for a process to end once its standard input has; then it is killed."""


class ProcessGroup:
    """Starts processes, waits for what they tell, and ends them all when it is left.

    Args:
        directory: For their logs.
        holder: The descriptor that all of them hold for as long as they live.
    """

    def __init__(self, directory: Path, holder: int) -> None:
        self._directory = directory
        self._holder = holder
        self._children: list[ChildProcess] = []
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(child.end(ORPHANED) for child in self._children))

    async def start(self, name: str, module: str, *arguments: str) -> ChildProcess:
        """Starts a module of the demo as a process."""
        log = self._directory / f"{name}.log"
        with log.open("wb") as file:
            process = await _spawn(
                module, *arguments, stdin=PIPE, stderr=file, pass_fds=(self._holder,)
            )
        child = ChildProcess(name, process, log=log, on_news=self._news.set)
        self._children.append(child)
        return child

    async def until(self, is_so: Callable[[], bool], within: float, failure: str) -> None:
        """Waits until the topologies that the processes tell are as they should be.

        Raises:
            DemoError: If they are not in time, or a process ended.
        """
        try:
            async with asyncio.timeout(within):
                while not is_so():
                    self._news.clear()
                    await self._news.wait()
                    for child in self._children:
                        child.check()
        except TimeoutError:
            raise DemoError(f"{failure} within {within:g} s") from None

    async def stop(self) -> None:
        """Tells all to stop, and waits until they did.

        Raises:
            DemoError: If one does not end, or not as it should.
        """
        running = [child for child in self._children if child.is_running]
        await asyncio.gather(*(child.stop(ENDING) for child in running))

    def release(self) -> None:
        """From now on, it is nobody's business if one of them ends."""
        for child in self._children:
            child.may_end = True


@asynccontextmanager
async def kept_directory() -> AsyncIterator[tuple[Path, int]]:
    """A temporary directory that goes when nobody holds the descriptor any more.

    Yields:
        The directory, and the descriptor for processes to inherit.

    Raises:
        DemoError: If there can be none.
    """
    read, write = os.pipe()
    with os.fdopen(write, "wb") as holder:
        with os.fdopen(read, "rb") as source:
            keeper = await _spawn("keeper", stdin=source, stderr=DEVNULL)
        assert keeper.stdout is not None  # noqa: S101 - it is a pipe, which the type cannot tell
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING):
                line = await keeper.stdout.readline()
        if not line:
            raise DemoError(f"no directory can be made in {tempfile.gettempdir()}")
        try:
            yield Path(os.fsdecode(line.rstrip(b"\n"))), write
        finally:
            holder.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(ENDING):
                    await keeper.wait()


async def _spawn(
    module: str,
    *arguments: str,
    stdin: int | IO[bytes],
    stderr: int | IO[bytes],
    pass_fds: tuple[int, ...] = (),
) -> Process:
    """Starts a module of the demo: away from the terminal, whose Ctrl-C is for us alone."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # the directory that one happens to be in must not shadow a module
        "-m",
        f"aegis_cli.demo.{module}",
        *arguments,
        stdin=stdin,
        stdout=PIPE,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=True,
    )


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
