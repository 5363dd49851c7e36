"""All processes of the demo, and the directory that they share.

Each has a pipe as its standard input that only this process writes to, and ends when that ends.
Each also holds the other end of the pipe that the keeper of the directory reads. So whatever
happens to this process, the others end, and then the directory goes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Self

from aegis_cli.demo._process import ChildProcess
from aegis_cli.errors import DemoError

ENDING = 10.0
"""Seconds for a process to leave the mesh and end, when it is told to."""

ORPHANED = 3.0
"""Seconds for a process to end once its standard input has; then it is killed."""


class Crew:
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
