"""Several processes under one identity: their supervisor, and what it runs in each of them."""

from aegis_core._node.workers.job import Job
from aegis_core._node.workers.registrars import load_registrars
from aegis_core._node.workers.run import asks_for_workers, run_workers, supervise
from aegis_core._node.workers.worker import Worker

__all__ = [
    "Job",
    "Worker",
    "asks_for_workers",
    "load_registrars",
    "run_workers",
    "supervise",
]
