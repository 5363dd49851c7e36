"""What a supervisor tells a worker at its start, and the settings of a worker."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aegis_discovery.transport import join_address, split_host_port

from aegis_core._address import metrics_address
from aegis_core._node.settings import configured
from aegis_core._node.workers.registrars import load_registrars
from aegis_core.errors import ConfigError

NodeT = TypeVar("NodeT")

_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one worker runs. It is pickled, so a worker is never a fork of its supervisor.

    Attributes:
        identity: The node id in the certificate of all workers.
        number: The number of this one.
        target: The function that runs the node, as `MODULE:NAME`. It takes a `Worker`.
        arguments: Further arguments of that function.
        registrars: The names of the registrars.
        options: Options of the node, as given in code or on the command line.
        config: The file of settings. Each worker reads it anew.
        siblings: Workers of the same identity that serve, as `id@host:port`.
        python_path: `sys.path` of the supervisor.
        grace: Seconds that calls in flight have when the worker stops.
    """

    identity: str
    number: int
    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    registrars: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    config: str | Path | None = None
    siblings: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    grace: float = 5.0

    @property
    def node_id(self) -> str:
        """The id of the worker's node."""
        return f"{self.identity}#{self.number}"

    def encode(self) -> bytes:
        """Returns the bytes that `receive` reads.

        Raises:
            ConfigError: If an option cannot be sent to another process.
        """
        try:
            pickled = pickle.dumps(self)
        except Exception as error:
            raise _unsendable(f"({error})") from error
        if b"__main__" in pickled:
            # A worker does not run the program that started the supervisor.
            raise _unsendable("that is defined in the program itself")
        # The path comes first: what is pickled may be of a module that is found there.
        path = json.dumps(self.python_path).encode()
        return _LENGTH.pack(len(path)) + path + _LENGTH.pack(len(pickled)) + pickled

    def make(self, node: Callable[..., NodeT]) -> NodeT:
        """Loads the registrars, and makes the node of this worker.

        Raises:
            RegistrarError: If a registrar cannot be loaded.
            ConfigError: If a setting cannot work.
        """

        def numbered(*, workers: object = None, **values: Any) -> NodeT:
            values["id"] = self.node_id
            values["address"] = numbered_address(values["address"], self.number)
            if values.get("advertise"):
                values["advertise"] = numbered_address(values["advertise"], self.number)
            if values.get("metrics"):
                metrics = join_address(*metrics_address(values["metrics"]))
                values["metrics"] = numbered_address(metrics, self.number)
            if values.get("registry") is None:  # else it knows them from there
                values["seed_peers"] = [*values.get("seed_peers", ()), *self.siblings]
            return node(**values)

        registrars = load_registrars(self.registrars)
        return configured(numbered, {**self.options, "registrars": registrars}, self.config)


def receive_path(source: int) -> list[str]:
    """Reads the first part of a job: `sys.path`, which the second part needs."""
    path: list[str] = json.loads(_read(source))
    return path


def receive_job(source: int) -> Job:
    """Reads the second part. It is from the supervisor, over its own pipe."""
    job: Job = pickle.loads(_read(source))  # noqa: S301 - nobody else can write to this pipe
    return job


def numbered_address(address: str, number: int) -> str:
    """Returns `host:port` with the port of a worker: the first port and its number.

    Raises:
        ConfigError: If there is no such port.
    """
    host, port = split_host_port(address)
    if port and port + number > 65535:
        reason = f"worker {number} would listen at port {port + number}; give a smaller port"
        raise ConfigError("address", reason)
    return join_address(host, port + number if port else 0)


def _read(source: int) -> bytes:
    (length,) = _LENGTH.unpack(_read_bytes(source, _LENGTH.size))
    return _read_bytes(source, length)


def _read_bytes(source: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        part = os.read(source, length)
        if not part:
            sys.exit(1)  # the supervisor has ended
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _unsendable(what: str) -> ConfigError:
    reason = f"an option cannot be sent to a worker {what}; define it in a module that it imports"
    return ConfigError("options", reason)
