"""Decides which workers of an identity to start, to stop and to replace. Pure: time is an argument.

A worker is starting until it serves, and then ready. A reload replaces all workers, one by one: a
new one starts under a free number, and once it is ready, an old one leaves the mesh and ends.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aegis_certs import MAX_WORKERS

_log = logging.getLogger("aegis.workers")

FIRST_BACKOFF = 0.5
"""Seconds before a worker that did not start, or not for long, is started again; doubled each time.
"""

MAX_BACKOFF = 30.0
"""The most seconds before that."""

STABLE_AFTER = 10.0
"""Seconds of service after which a worker that ends is started again at once."""

START_ATTEMPTS = 3
"""Starts that may fail one after another while no worker serves; then the supervisor gives up."""

STOP_MARGIN = 10.0
"""Seconds in which a worker must end, beyond the grace of its calls; then it is killed.

Before the calls it leaves the mesh and waits until its callers know that, three seconds at most.
"""

USAGE = 2
"""The exit code of a worker whose settings cannot work. To start it again would not help."""


class State(StrEnum):
    """The state of all workers together."""

    STARTING = "starting"
    READY = "ready"
    RELOADING = "reloading"
    STOPPING = "stopping"


class WorkerShell(Protocol):
    """Starts and ends the processes."""

    def spawn(self, number: int) -> None:
        """Starts a worker under a number that no process has; `ended` tells of a failure too."""

    def stop(self, number: int) -> None:
        """Makes a worker leave the mesh, drain and end."""

    def kill(self, number: int) -> None:
        """Ends a worker at once."""


@dataclass(slots=True)
class _Worker:
    generation: int
    ready_at: float | None = None
    is_stopping: bool = False
    kill_at: float = math.inf


class Supervision:
    """The workers of one identity, from the start to the end of their supervisor.

    Args:
        name: The identity, for the log.
        count: How many workers are to run.
        shell: Carries out the decisions.
        grace: Seconds that calls in flight have when a worker stops.

    Attributes:
        state: What a service manager is told.
        exit_code: The code of the worker for which the supervisor gave up; None if it did not.
    """

    def __init__(self, name: str, count: int, shell: WorkerShell, *, grace: float) -> None:
        self._name = name
        self._count = count
        self._shell = shell
        self._grace = grace
        self._workers: dict[int, _Worker] = {}
        # The first worker starts alone: it creates what is missing, and the others join through it.
        self._starts: dict[int, float] = {0: -math.inf}
        self._failures: dict[int, int] = {}
        self._generation = 0
        self._replacement: int | None = None
        self._is_first = True
        self._failed_starts = 0
        self.state = State.STARTING
        self.exit_code: int | None = None

    def __repr__(self) -> str:
        return f"<Supervision of {self._name}: {self.state}, ready {sorted(self.ready)}>"

    @property
    def ready(self) -> tuple[int, ...]:
        """The numbers of the workers that serve and are not told to stop."""
        serving = ((n, w) for n, w in self._workers.items() if w.ready_at is not None)
        return tuple(number for number, worker in serving if not worker.is_stopping)

    @property
    def is_done(self) -> bool:
        """Whether all workers have ended for good."""
        return self.state is State.STOPPING and not self._workers

    def tick(self, now: float) -> float:
        """Does what is due; returns when to call it again at the latest."""
        for number, worker in list(self._workers.items()):
            if worker.kill_at <= now:
                worker.kill_at = math.inf
                _log.warning("%s does not end; it is killed", self._id(number))
                self._shell.kill(number)
        if self.state is not State.STOPPING:
            for number, due in list(self._starts.items()):
                if due <= now:
                    del self._starts[number]
                    self._spawn(number)
            self._replace_next(now)
        kills = (worker.kill_at for worker in self._workers.values())
        return min((*self._starts.values(), *kills), default=math.inf)

    def serves(self, number: int, now: float) -> None:
        """Notes that a worker has joined the mesh and serves."""
        worker = self._workers[number]
        worker.ready_at = now
        self._failed_starts = 0
        if self.state is State.STOPPING:
            return
        if number == self._replacement:
            self._replacement = None
            self._stop(self._oldest(), now)
        elif self._is_first:
            self._is_first = False
            self._starts |= dict.fromkeys(range(1, self._count), now)

    def ended(self, number: int, code: int, now: float) -> None:
        """Notes that the process of a worker has ended, or could not be started."""
        worker = self._workers.pop(number)
        if self.state is State.STOPPING:
            return
        if worker.is_stopping:
            if len(self._workers) + len(self._starts) < self._count:
                self._starts[number] = now  # no number was free, so its successor has the same one
            return
        self._failed_starts = 0 if self.ready or worker.ready_at else self._failed_starts + 1
        how = "before it served" if worker.ready_at is None else "unexpectedly"
        problem = f"{self._id(number)} ended {how} ({_describe(code)})"
        if number == self._replacement:
            self._replacement = None
            self._generation -= 1
            for other in self._workers.values():
                other.generation = self._generation
            _log.error("%s; the running workers continue with the old code", problem)
        elif self._gives_up(code):
            _log.error("%s; no worker is started any more", problem)
            self.exit_code = code
            self.stop(now)
        else:
            self._restart(number, worker, problem, now)

    def reload(self, now: float) -> None:
        """Replaces all workers by new ones, which load the code and the settings anew."""
        if self.state is State.STOPPING:
            return
        _log.info("the workers of %s are replaced one by one", self._name)
        self._generation += 1
        if self.state is State.READY:
            self.state = State.RELOADING
        self.tick(now)

    def stop(self, now: float) -> None:
        """Stops all workers, in any state."""
        if self.state is not State.STOPPING:
            self.state = State.STOPPING
            self._starts.clear()
            for number, worker in self._workers.items():
                if not worker.is_stopping:
                    self._stop(number, now)

    def _gives_up(self, code: int) -> bool:
        return self._failed_starts >= START_ATTEMPTS or (code == USAGE and self._is_first)

    def _restart(self, number: int, worker: _Worker, problem: str, now: float) -> None:
        if worker.ready_at is not None and now - worker.ready_at >= STABLE_AFTER:
            self._failures.pop(number, None)
        failures = self._failures.get(number, 0)
        is_first = worker.ready_at is not None and not failures
        delay = 0.0 if is_first else min(FIRST_BACKOFF * 2 ** max(0, failures - 1), MAX_BACKOFF)
        self._failures[number] = failures + 1
        self._starts[number] = now + delay
        when = f"in {delay:g} s" if delay else "at once"
        _log.warning("%s; it is started again %s", problem, when)

    def _replace_next(self, now: float) -> None:
        """Starts the next step of a reload, once all workers are ready and none is stopping."""
        if self._starts or len(self.ready) != len(self._workers):
            return
        if all(worker.generation == self._generation for worker in self._workers.values()):
            if self.state is not State.READY:
                _log.info("all workers of %s serve: %d", self._name, len(self._workers))
            self.state = State.READY
            return
        self.state = State.RELOADING
        free = next(self._free_numbers(), None)
        if free is None:
            self._stop(self._oldest(), now)
        else:
            self._replacement = free
            self._spawn(free)

    def _spawn(self, number: int) -> None:
        self._workers[number] = _Worker(self._generation)
        self._shell.spawn(number)

    def _stop(self, number: int, now: float) -> None:
        worker = self._workers[number]
        worker.is_stopping = True
        worker.kill_at = now + self._grace + STOP_MARGIN
        self._shell.stop(number)

    def _oldest(self) -> int:
        return min(self._workers, key=lambda number: (self._workers[number].generation, number))

    def _free_numbers(self) -> Iterator[int]:
        return (number for number in range(MAX_WORKERS) if number not in self._workers)

    def _id(self, number: int) -> str:
        return f"{self._name}#{number}"


def _describe(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
