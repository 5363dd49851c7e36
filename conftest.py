"""Shared by all tests: a CA, identities from it, and bounded waits."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import hypothesis
import pytest
from aegis_certs import CertificateAuthority, KeyType, TLSConfig

# Hundreds of processes start in these tests. Without bytecode each one compiles all it imports.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The files of certificates are written durably: tens of thousands of fsyncs, each of which waits
# for the disk. In memory they do not wait, and tests cannot see the difference.
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a directory of its own in it


def _has_room(directory: Path) -> bool:
    if not os.access(directory, os.W_OK):
        return False
    system = os.statvfs(directory)
    return system.f_bavail * system.f_frsize > 2 * 1024**3 and not system.f_flag & os.ST_NOEXEC


if _has_room(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# The time of an example depends on the load of the machine, not on our code.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

PATIENCE = 15.0
"""Seconds after which a wait fails. A bound for a busy machine, not a measurement."""

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """A CA with EC keys, since the generation of RSA keys takes seconds."""
    return CertificateAuthority.create(tmp_path_factory.mktemp("ca"), key_type=KeyType.P256)


@pytest.fixture(scope="session")
def identity(ca: CertificateAuthority) -> MakeIdentity:
    """Issues identities, once for each node id in a test run."""
    made: dict[str, TLSConfig] = {}

    def make(node_id: str) -> TLSConfig:
        if node_id not in made:
            made[node_id] = ca.issue(node_id, key_type=KeyType.P256)
        return made[node_id]

    return make


@pytest.fixture(scope="session")
def cert_dir(ca: CertificateAuthority) -> Path:
    """The directory of the CA and of all issued identities."""
    return ca.directory


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes `aio.Node` serve as the (indirect) parameter says; by default on `grpc.aio`.

    `blocking` is `grpc.server`, and `public` is the same with gRPC's public API only. A blocking
    node is such a node on an event loop of its own, so one test can drive all.
    """
    kind: str = getattr(request, "param", "aio")
    if kind != "aio":
        from aegis_core._server.sync.server import BlockingServer

        monkeypatch.setattr("aegis_core._node.node.Node._make_server", BlockingServer)
    if kind == "public":
        unusable = "aegis_core._server.sync.grpc_internals.is_usable"
        monkeypatch.setattr(unusable, lambda: False)
    return kind


@pytest.fixture
def until() -> Until:
    """Waits until a condition is true; else fails with the last value of the condition."""

    async def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"not true within {PATIENCE:g} s: {value!r}")
            await asyncio.sleep(0.01)

    return wait


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Returns twice the CPUs: the tests wait half of the time, for processes, timers and peers."""
    return 2 * (os.cpu_count() or 1)


class LoadOrder:
    """Lets each worker load the files of tests in an order of its own; the tests keep theirs.

    In a fresh clone all modules are compiled while they are loaded, which takes four times as long
    as the rest. In one order, all workers would compile all of them at the same time.
    """

    def __init__(self, worker: str) -> None:
        self._random = random.Random(worker)
        # Where each file and directory stands among its neighbours.
        self._places: dict[pytest.Item | pytest.Collector, int] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Shuffles what was found in a directory."""
        report = yield
        # The session comes first; before it ends, only directories above those that were named.
        if isinstance(collector, pytest.Session) or (
            self._places and isinstance(collector, pytest.Directory)
        ):
            self._places.update((node, place) for place, node in enumerate(report.result))
            self._random.shuffle(report.result)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Puts the tests in the order of the files again."""
        places = self._places
        items.sort(key=lambda item: [places[node] for node in item.listchain() if node in places])
        places.clear()


def pytest_configure(config: pytest.Config) -> None:
    """Adds what only workers need."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        # A plugin is asked about all directories, a conftest only about those that are loaded.
        config.pluginmanager.register(LoadOrder(worker))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the long runs with the longest limits first, so that none is left alone at the end."""
    if config.option.markexpr == "soak":
        items.sort(key=lambda item: -_limit(item))


def pytest_collection_finish() -> None:
    """Takes all that exists by now, which stays, out of every later garbage collection."""
    gc.collect()
    gc.freeze()


def _limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker and marker.args else 0.0
