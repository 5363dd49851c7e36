"""How many workers use all cores that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

from aegis_certs import MAX_WORKERS

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota: Path = _QUOTA) -> int:
    """Returns the cores that the process may use, within the limit of a container (cgroup v2).

    It is at most one less than an identity may have workers, so that a number is free for a reload.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS
        cores = os.cpu_count() or 1
    return max(1, min(cores, _cores_of_quota(quota), MAX_WORKERS - 1))


def _cores_of_quota(path: Path) -> int:
    try:
        limit, period = path.read_text().split()
        return math.ceil(int(limit) / int(period))
    except (OSError, ValueError):  # there is no file, or no limit ("max")
        return MAX_WORKERS
