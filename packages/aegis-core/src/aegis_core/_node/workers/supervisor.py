"""Runs the processes of workers, as `supervision` decides. It uses neither gRPC nor threads."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable

from aegis_core._node.signals import notify_manager, stop_signals
from aegis_core._node.workers.files import modified
from aegis_core._node.workers.job import Job
from aegis_core._node.workers.supervision import State, Supervision

_log = logging.getLogger("aegis.workers")

CHILD = "aegis_core._node.workers.child"

POLL_INTERVAL = 0.5
"""Seconds between two looks at the files of the program, where a change replaces the workers."""

MAX_SIBLINGS = 3
"""Workers that serve, which a new one joins through in addition to its seed peers."""

SPAWN_FAILED = 1

_LINE = 16 * 1024 * 1024
"""Bytes of the longest report of a worker: the files of its program."""


class Supervisor:
    """Starts, watches, replaces and stops the workers of one identity.

    Args:
        identity: The node id in their certificate.
        count: How many to run.
        job: Makes the job of a worker, from its number and from siblings that serve.
        grace: Seconds that calls in flight have when a worker stops.
        watches_files: Whether a change of the program's files replaces the workers.
    """

    def __init__(
        self,
        identity: str,
        count: int,
        job: Callable[[int, tuple[str, ...]], Job],
        *,
        grace: float,
        watches_files: bool = False,
    ) -> None:
        self._supervision = Supervision(identity, count, self, grace=grace)
        self._identity = identity
        self._job = job
        self._watches_files = watches_files
        self._processes: dict[int, Process] = {}
        self._told_to_stop: set[int] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._addresses: dict[int, str] = {}
        self._files: dict[str, int] = {}
        self._notified = State.STARTING
        self._timer: asyncio.TimerHandle | None = None
        self._done = asyncio.Event()

    async def run(self) -> int | None:
        """Runs the workers until SIGTERM or SIGINT; a second one kills them at once.

        Returns:
            The exit code of the worker for which it gave up; None if it did not.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        watching = asyncio.create_task(self._watch_files()) if self._watches_files else None
        try:
            with stop_signals(self._stop_all, loop, at_once=self._kill_all):
                self._tick()
                await self._done.wait()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            if watching is not None:
                watching.cancel()
            self._kill_all()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        return self._supervision.exit_code

    # WorkerShell

    def spawn(self, number: int) -> None:
        name = f"aegis-worker-{number}"
        self._tasks[number] = asyncio.create_task(self._run_worker(number), name=name)

    def stop(self, number: int) -> None:
        self._told_to_stop.add(number)  # also one whose process is being started
        process = self._processes.get(number)
        if process is not None and process.stdin is not None:
            process.stdin.close()

    def kill(self, number: int) -> None:
        process = self._processes.get(number)
        if process is not None and process.returncode is None:
            process.kill()

    # Signals and time

    def _stop_all(self, number: signal.Signals) -> None:
        _log.info(
            "the workers of %s stop after %s; a second signal ends them at once",
            self._identity,
            number.name,
        )
        self._supervision.stop(_now())
        self._tick()

    def _kill_all(self) -> None:
        for number in list(self._processes):
            self.kill(number)

    def _reload(self) -> None:
        self._supervision.reload(_now())
        self._tick()

    def _tick(self) -> None:
        due = self._supervision.tick(_now())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due < math.inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due - _now()), self._tick)
        state = self._supervision.state
        if state is not self._notified:
            self._notified = state
            notify_manager(state.name)
        if self._supervision.is_done:
            self._done.set()

    # Processes

    async def _run_worker(self, number: int) -> None:
        code = SPAWN_FAILED
        try:
            code = await self._run_process(number)
        except OSError as error:
            _log.error("%s#%d cannot be started: %s", self._identity, number, error)
        finally:
            self._addresses.pop(number, None)
            self._processes.pop(number, None)
            self._tasks.pop(number, None)
            self._told_to_stop.discard(number)
        self._supervision.ended(number, code, _now())
        self._tick()

    async def _run_process(self, number: int) -> int:
        """Runs the process of a worker to its end; returns its exit code."""
        siblings = list(self._addresses.values())[-MAX_SIBLINGS:]
        job = self._job(number, tuple(siblings)).encode()
        report, written = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a file in the current directory must not shadow a module
                "-m",
                CHILD,
                str(written),
                stdin=PIPE,
                pass_fds=(written,),
                env=_environment(number),
                # Ctrl-C is for the supervisor, which stops its workers in order.
                start_new_session=True,
            )
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(written)
        self._processes[number] = process
        reading = asyncio.create_task(self._read(number, report))
        try:
            assert process.stdin is not None  # noqa: S101 - it is a pipe, which the type cannot say
            process.stdin.write(job)
            if number in self._told_to_stop:
                process.stdin.close()
            return await process.wait()
        finally:
            reading.cancel()

    async def _read(self, number: int, report: int) -> None:
        reader = asyncio.StreamReader(_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(report, "rb")
        )
        try:
            line = await reader.readline()
        finally:
            transport.close()
        if line:
            facts = json.loads(line)
            self._addresses[number] = facts["address"]
            self._files = facts["files"]
            self._supervision.serves(number, _now())
            self._tick()

    # Files

    async def _watch_files(self) -> None:
        """Replaces the workers when a file of the program has changed, once that has ended."""
        before: dict[str, int] = {}
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            found = modified(self._files)
            changed = sorted(file for file, at in found.items() if at != self._files[file])
            if changed and found == before:
                _log.info("%s changed", ", ".join(changed[:3]))
                self._files = found
                self._reload()
            before = found


def _environment(number: int) -> dict[str, str]:
    """Returns the environment of a worker. It tells no service manager anything."""
    removed = ("NOTIFY_SOCKET", "AEGIS_WORKERS")
    environ = {name: value for name, value in os.environ.items() if name not in removed}
    return {**environ, "AEGIS_WORKER": str(number)}


def _now() -> float:
    return asyncio.get_running_loop().time()
