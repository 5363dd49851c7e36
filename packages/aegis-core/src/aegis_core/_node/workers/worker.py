"""A worker, as the function sees it that runs its node."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from aegis_core._node.sync_node import Node
from aegis_core._node.workers.files import modified, own_files
from aegis_core._node.workers.job import Job


class Worker:
    """One worker.

    Args:
        job: What it runs.
        report: A descriptor that the supervisor reads.
    """

    def __init__(self, job: Job, report: int) -> None:
        self.job = job
        self._report = report

    def serves(self, node: Any) -> None:
        """Tells the supervisor that the node serves; call it once."""
        published = node.topology.nodes[node.id].address
        facts = {"address": f"{node.id}@{published}", "files": modified(own_files())}
        data = memoryview(json.dumps(facts).encode() + b"\n")
        while data:
            data = data[os.write(self._report, data) :]


def run_blocking(worker: Worker) -> None:
    """Runs a blocking node: the target of `aegis_core.run_workers`."""
    node = worker.job.make(Node)
    # Nothing happens if a module of the registrars has set up logging.
    line = f"%(asctime)s {node.id} %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=line)
    node.run(on_ready=lambda: worker.serves(node))
