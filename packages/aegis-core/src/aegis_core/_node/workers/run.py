"""Runs the workers of one identity: `aegis_core.run_workers`, and the base of the command."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aegis_certs import MAX_WORKERS, parse_worker_id

from aegis_core._node.options import BlockingOptions, NodeOptions
from aegis_core._node.settings import configured
from aegis_core._node.workers.cores import usable_cores
from aegis_core._node.workers.job import Job, numbered_address
from aegis_core._node.workers.supervisor import Supervisor
from aegis_core.errors import ConfigError, NodeStateError, WorkerStartError

BLOCKING = "aegis_core._node.workers.worker:run_blocking"


def run_workers(
    registrars: str | Sequence[str],
    *,
    workers: int | str | None = None,
    reload: bool = False,
    config: str | Path | None = None,
    **options: Any,
) -> None:
    """Runs a service in several processes under one identity, until SIGTERM or SIGINT.

    Each worker is a node of its own, a blocking `aegis_core.Node`: with the id `orders-1#2` and the
    third port from that of `address`. Call it in the main thread of a program that does little
    else; it starts no gRPC itself. SIGHUP replaces the workers one by one by new ones, which load
    the code and the settings anew; no call fails because of it. A worker that ends is started
    again. A second signal to stop kills all at once.

    Settings are found as `Node.from_env` finds them: an argument overrides a variable, and a
    variable overrides the file.

    Args:
        registrars: Functions that add the gRPC services to the server, by name, such as
            `orders:register`. Each worker imports them.
        workers: How many to run, at most 64; `auto` for one on each core that the process may use.
            By default what `AEGIS_WORKERS` or the file says, or else `auto`.
        reload: Whether a change of the program's files replaces the workers, for development.
        config: A TOML file of settings, as in `Node.from_env`.
        options: Options of the node, which are sent to each worker.

    Raises:
        ConfigError: If an option cannot work, or cannot be sent to another process.
        WorkerStartError: If no worker could start; its error is on standard error.
    """
    names = (registrars,) if isinstance(registrars, str) else tuple(registrars)
    given = options if workers is None else {**options, "workers": workers}
    supervise(
        names,
        given,
        config=config,
        reload=reload,
        target=BLOCKING,
        options_type=BlockingOptions,
    )


def supervise(
    registrars: Sequence[str],
    options: Mapping[str, Any],
    *,
    config: str | Path | None,
    reload: bool,
    target: str,
    arguments: Mapping[str, Any] | None = None,
    options_type: type[NodeOptions] = NodeOptions,
) -> None:
    """Runs workers whose nodes are run by `target`; otherwise as `run_workers`.

    Raises:
        ConfigError: If an option cannot work, or cannot be sent to another process.
        WorkerStartError: If no worker could start.
    """
    if threading.current_thread() is not threading.main_thread():
        raise NodeStateError("workers are run in the main thread, which receives the signals")

    def checked(*, workers: int | str = "auto", **values: Any) -> tuple[NodeOptions, int]:
        node, count = options_type(**values), parse_workers(workers)
        if parse_worker_id(node.id).number is not None:
            reason = f"{node.id} has a number already; give the identity alone"
            raise ConfigError("id", reason)
        for address in filter(None, (node.address, node.advertise)):
            numbered_address(address, count - 1)
        return node, count

    node, count = configured(checked, _with_registrars(options, registrars), config)
    sent = {name: value for name, value in options.items() if name != "workers"}

    def job(number: int, siblings: tuple[str, ...]) -> Job:
        return Job(
            identity=node.id,
            number=number,
            target=target,
            arguments=arguments or {},
            registrars=tuple(registrars),
            options=sent,
            config=config,
            siblings=siblings,
            python_path=tuple(sys.path),
            grace=node.grace,
        )

    job(0, ()).encode()  # an option that cannot be sent is reported here

    async def run() -> int | None:
        return await Supervisor(node.id, count, job, grace=node.grace, watches_files=reload).run()

    code = asyncio.run(run())
    if code is not None:
        raise WorkerStartError(node.id, code)


def asks_for_workers(
    registrars: Sequence[str], options: Mapping[str, Any], config: str | Path | None
) -> bool:
    """Tells whether an option, a variable or the file gives a number of workers."""

    def given(*, workers: object = None, **_: Any) -> bool:
        return workers is not None

    return configured(given, _with_registrars(options, registrars), config)


def _with_registrars(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Adds a placeholder for each registrar: the supervisor does not import them."""
    return {**options, "registrars": [lambda _: None for _ in names]}


def parse_workers(value: int | str) -> int:
    """Returns the number of workers that an option, a variable or a file gives.

    Raises:
        ConfigError: If it is neither a number from 1 to 64 nor `auto`.
    """
    if value == "auto":
        return usable_cores()
    try:
        count = int(value)
    except ValueError:
        count = 0
    if not 1 <= count <= MAX_WORKERS or isinstance(value, bool):
        reason = f"{value!r} is no number of workers; give 1 to {MAX_WORKERS}, or 'auto'"
        raise ConfigError("workers", reason)
    return count
