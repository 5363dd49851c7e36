"""The processes of the demo, as the process that starts them sees them.

A process that fails, ends unexpectedly or is late raises a `DemoError` with the reason.
"""

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

STOP_TIMEOUT = 10.0
"""Seconds in which a process must leave the mesh and end after `stop`."""

KILL_AFTER = 3.0
"""Seconds in which a process must end after its standard input; then it is killed."""

Message = Mapping[str, Any]

_ENDED: Message = {"event": "ended"}


class ProcessGroup:
    """Starts processes, waits for their reports, and ends all of them when its block is left.

    Their logs are in `directory`, and each of them holds the descriptor `held_fd` while it lives.
    """

    def __init__(self, directory: Path, held_fd: int) -> None:
        self._directory = directory
        self._held_fd = held_fd
        self._children: list[ChildProcess] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(child.end(KILL_AFTER) for child in self._children))

    async def start(self, name: str, module: str, *arguments: str) -> ChildProcess:
        """Starts a module of the demo as a process."""
        log = self._directory / f"{name}.log"
        with log.open("wb") as file:
            process = await _spawn(
                module, *arguments, stdin=PIPE, stderr=file, pass_fds=(self._held_fd,)
            )
        child = ChildProcess(name, process, log=log, on_change=self._changed.set)
        self._children.append(child)
        return child

    async def wait_until(self, condition: Callable[[], bool], within: float, failure: str) -> None:
        """Waits until the topologies that the processes report meet a condition."""
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
                    for child in self._children:
                        child.check()
        except TimeoutError:
            raise DemoError(f"{failure} within {within:g} s") from None

    async def stop(self) -> None:
        """Stops all processes."""
        running = [child for child in self._children if child.is_running]
        await asyncio.gather(*(child.stop(STOP_TIMEOUT) for child in running))

    def allow_ends(self) -> None:
        """Makes it no error if a process ends from now on."""
        for child in self._children:
            child.may_end = True


@asynccontextmanager
async def shared_directory() -> AsyncIterator[tuple[Path, int]]:
    """A temporary directory, which is removed once no process holds the descriptor."""
    read, write = os.pipe()
    with os.fdopen(write, "wb") as held:
        with os.fdopen(read, "rb") as source:
            cleanup = await _spawn("cleanup", stdin=source, stderr=DEVNULL)
        assert cleanup.stdout is not None  # noqa: S101 - it is a pipe, which the type cannot say
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT):
                line = await cleanup.stdout.readline()
        if not line:
            raise DemoError(f"cannot create a directory in {tempfile.gettempdir()}")
        try:
            yield Path(os.fsdecode(line.rstrip(b"\n"))), write
        finally:
            held.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await cleanup.wait()


async def _spawn(
    module: str,
    *arguments: str,
    stdin: int | IO[bytes],
    stderr: int | IO[bytes],
    pass_fds: tuple[int, ...] = (),
) -> Process:
    """Starts a module of the demo in its own session, so that Ctrl-C reaches only the demo."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # a file in the current directory must not shadow a module
        "-m",
        f"aegis_cli.demo.{module}",
        *arguments,
        stdin=stdin,
        stdout=PIPE,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=True,
    )


class ChildProcess:
    """A process that executes commands and reports events.

    It calls `on_change` when it reported its topology, or ended.

    Attributes:
        topology: The last topology that it reported; empty at first.
        may_end: Whether it may end without `stop`.
    """

    def __init__(
        self, name: str, process: Process, *, log: Path, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self.topology: Message = {}
        self.may_end = False
        self.pid = process.pid
        self._process = process
        self._log = log
        self._on_change = on_change
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(), name=f"demo-{name}")

    @property
    def is_running(self) -> bool:
        return not self._reading.done()

    def send(self, command: str, **details: object) -> None:
        """Sends a command."""
        if self._process.stdin is not None:
            line = json.dumps({"command": command, **details}) + "\n"
            self._process.stdin.write(line.encode())

    async def expect(self, event: str, within: float) -> Message:
        """Waits for its next report that is not its topology."""
        try:
            async with asyncio.timeout(within):
                message = await self._messages.get()
        except TimeoutError:
            raise DemoError(f"{self.name} was not {event} within {within:g} s") from None
        if message["event"] != event:
            raise self._failure(message)
        return message

    def check(self) -> None:
        """Raises a `DemoError` if it ended and must not."""
        if not self.is_running and not self.may_end:
            raise self._failure(_ENDED)

    def kill(self) -> None:
        """Kills it without a warning (SIGKILL)."""
        self.may_end = True
        self._process.kill()

    async def stop(self, within: float) -> None:
        """Sends `stop`, and waits for its end."""
        self.send("stop")
        if not await self._ends(within):
            raise DemoError(f"{self.name} did not stop within {within:g} s")
        if self._process.returncode != 0 and not self.may_end:
            raise self._failure(_ENDED)
        self.may_end = True

    async def end(self, within: float) -> None:
        """Ends it in any case: closes its standard input, then kills it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not await self._ends(within):
            self._process.kill()
            await self._ends(within)

    async def _ends(self, within: float) -> bool:
        done, _ = await asyncio.wait([self._reading], timeout=within)
        return bool(done)

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe, which the type cannot say
        async for line in self._process.stdout:
            message = json.loads(line)
            if message["event"] == "topology":
                self.topology = message
                self._on_change()
            else:
                self._messages.put_nowait(message)
        await self._process.wait()
        self._messages.put_nowait(_ENDED)
        self._on_change()

    def _failure(self, message: Message) -> DemoError:
        if message["event"] == "failed":
            return DemoError(f"{self.name} failed: {message['reason']}")
        if message["event"] != _ENDED["event"]:
            return DemoError(f"{self.name} reported {message['event']!r}, which was not expected")
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "it logged nothing")
        code = self._process.returncode
        return DemoError(f"{self.name} ended unexpectedly (exit code {code}): {last.strip()}")
