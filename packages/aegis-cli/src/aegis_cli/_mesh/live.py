"""Answers once, or again and again until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import grpc
from aegis_certs import CertsError
from aegis_discovery.errors import DiscoveryError

from aegis_cli._mesh.connecting import LastingReader, MeshPlace, reading
from aegis_cli._mesh.reader import Reader
from aegis_cli._output.answer import Answer
from aegis_cli._output.show import Screen, show
from aegis_cli._output.table import Cell
from aegis_cli._view.model import STALE, View, span
from aegis_cli.errors import CliError

INTERVAL = 1.0
"""Seconds between two updates."""

Read = Callable[[Reader], Awaitable[View]]
Shown = Callable[[View], Answer]


class Place(MeshPlace):
    """Where to read a mesh, and how to show what was read."""

    async def once(self, read: Read, shown: Shown, *, json: bool) -> int:
        """Shows one answer; returns how many things are wrong."""
        async with reading(self) as reader:
            answer = shown(await read(reader))
        show(answer, json=json)
        return answer.wrong

    async def live(
        self, read: Read, shown: Shown, *, json: bool, interval: float = INTERVAL
    ) -> int:
        """Shows answers until it is interrupted; a view that cannot be read anew is marked."""
        screen = Screen(json=json)
        reader = LastingReader(self)
        with until_stopped():
            try:
                view = await read(await reader.open())
                with screen.opened():
                    while True:
                        answer = shown(view)
                        screen.show(answer)
                        await asyncio.sleep(interval)
                        again = asyncio.create_task(read_again(reader, read, view))
                        await _mark_while_it_hangs(again, screen, answer, view)
                        view = again.result()
            finally:
                await reader.close()
        return 0


async def _mark_while_it_hangs(
    again: asyncio.Task[View], screen: Screen, answer: Answer, last: View
) -> None:
    """Waits for the next view; a screen says how old the last answer is if that takes long."""
    try:
        while not again.done():
            await asyncio.wait([again], timeout=INTERVAL)
            old = (datetime.now(UTC) - last.taken_at).total_seconds()
            if not again.done() and old > STALE:
                mark = Cell(f"STALE: this is {span(old)} old, and nothing newer arrives", "red")
                screen.show_old(answer._replace(head=[*answer.head, mark]))
    finally:
        again.cancel()


async def read_again(reader: LastingReader, read: Read, last: View) -> View:
    """Returns the next view; if it cannot be read, the last one with the trouble."""
    try:
        view = await read(await reader.open())
    except (CertsError, CliError, DiscoveryError, grpc.RpcError) as error:
        silent = (datetime.now(UTC) - last.taken_at).total_seconds()
        return last._replace(trouble=str(error), silent_for=silent)
    return view._replace(trouble=reader.trouble)


@contextmanager
def until_stopped() -> Iterator[None]:
    """Ends quietly when Ctrl-C or SIGTERM cancels the task that it runs in."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None  # noqa: S101 - a coroutine runs it
    is_main = threading.current_thread() is threading.main_thread()
    handled = is_main and sys.platform != "win32"
    if handled:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        with suppress(asyncio.CancelledError):
            yield
    finally:
        if handled:
            loop.remove_signal_handler(signal.SIGTERM)
