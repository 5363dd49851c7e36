"""How much of the machine a benchmark has: what other processes use, and how fast it is."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path


class Load:
    """The share of the machine that processes other than this one and its children use."""

    def __init__(self) -> None:
        self._began = self._now()

    def by_others(self) -> float:
        """Returns the mean since this was made, of all cores: 0 to 1."""
        (at, busy, ours), (now, busy_now, ours_now) = self._began, self._now()
        used = busy_now - busy - (ours_now - ours)
        return max(0.0, used / max(now - at, 0.01) / (os.cpu_count() or 1))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Returns the time, the CPU seconds of everybody, and those of this process's tree."""
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, irq, softirq = (
            int(field) for field in Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
        )
        used: dict[int, tuple[int, float]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            # Its own CPU time, and that of its children that have ended.
            used[int(stat.parent.name)] = int(fields[1]), sum(map(int, fields[11:15])) / tick
        ours, parents = 0.0, {os.getpid()}
        ours += used[os.getpid()][1]
        while parents:
            parents = {pid for pid, (parent, _) in used.items() if parent in parents}
            ours += sum(used[pid][1] for pid in parents)
        return time.monotonic(), (user + nice + system + irq + softirq) / tick, ours


load = Load()
"""Measured from the start of the benchmark."""


class Speed:
    """How long the same short work takes again and again, in CPU time."""

    def __init__(self) -> None:
        self._taken: list[float] = []

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            began = time.thread_time()
            for number in range(10_000):
                number * number
            self._taken.append(time.thread_time() - began)

    @property
    def slowdown(self) -> float:
        """The median over the least; 1 after few looks."""
        taken = self._taken
        return statistics.median(taken) / min(taken) if len(taken) >= 8 else 1.0


speed = Speed()
"""Looked at before each measurement."""

BUSY = 0.1
"""The share of the machine used by others from which on figures with a unit are not judged."""

SLOW = 1.15
"""How much longer than at its fastest the same work may take, in the middle of the run, before
figures with a unit are not judged."""


def was_busy() -> tuple[bool, str]:
    """Tells whether figures with a unit can be judged now, and why in one sentence."""
    used, slowdown = load.by_others(), speed.slowdown
    line = (
        f"Other processes used {used:.0%} of {os.cpu_count()} cores; the same work took "
        f"{slowdown:.2f} times its least."
    )
    return used > BUSY or slowdown > SLOW, line
