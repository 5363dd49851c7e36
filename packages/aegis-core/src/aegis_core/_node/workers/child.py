"""The program of a worker's process: `python -m aegis_core._node.workers.child DESCRIPTOR`."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from aegis_certs import CertsError
from aegis_discovery.errors import DiscoveryError

from aegis_core._node.signals import count_signals_once
from aegis_core._node.workers.job import Job, receive_job, receive_path
from aegis_core._node.workers.supervision import STOP_MARGIN, USAGE
from aegis_core._node.workers.worker import Worker
from aegis_core.errors import ConfigError, MeshError, RegistrarError

SUPERVISOR_LOST = 3
"""The exit code of a worker that did not end in order after its supervisor had ended."""


def main() -> None:
    """Runs what the supervisor sends on standard input, until the other end of it is closed."""
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    # Programs that a handler starts must not read from the supervisor.
    supervisor = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.path[:] = receive_path(supervisor)
    job = receive_job(supervisor)
    count_signals_once()
    arguments = supervisor, job.grace + STOP_MARGIN
    threading.Thread(target=_end_with, args=arguments, name="supervisor", daemon=True).start()
    try:
        _target(job)(Worker(job, report), **job.arguments)
    except (CertsError, DiscoveryError, MeshError) as error:
        print(f"Error: {job.node_id}: {error}", file=sys.stderr)  # noqa: T201 - for the user
        sys.exit(USAGE if isinstance(error, ConfigError | RegistrarError) else 1)


def _target(job: Job) -> Callable[..., object]:
    module, _, name = job.target.partition(":")
    target: Callable[..., object] = getattr(importlib.import_module(module), name)
    return target


def _end_with(supervisor: int, longest: float) -> None:
    """Stops this worker when the supervisor says so, or has ended."""
    while os.read(supervisor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # A supervisor kills a worker that does not end. If it was killed itself, nobody else does.
    time.sleep(longest)
    os._exit(SUPERVISOR_LOST)


if __name__ == "__main__":
    main()
