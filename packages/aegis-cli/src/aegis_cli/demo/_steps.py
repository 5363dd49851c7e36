"""The steps of the demo. Each wait has a timeout, and its error says what did not happen."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aegis_certs import KeyType

from aegis_cli._identity import client_identity
from aegis_cli._mesh.connecting import MeshPlace, reading
from aegis_cli._mesh.reader import Reader
from aegis_cli._view.model import View
from aegis_cli.demo._output import DemoOutput
from aegis_cli.demo._process import ChildProcess, ProcessGroup, shared_directory
from aegis_cli.demo._results import Calls, Member, check_balance, check_calls
from aegis_cli.errors import DemoError

Keys = tuple[KeyType, KeyType]
DEFAULT_KEYS = (KeyType.RSA_4096, KeyType.RSA_2048)
"""The key types that `aegis certs` uses by default."""

MESH = "aegis"
SEED = "front"
PROVIDERS = ("greeter-1", "greeter-2")
VICTIM = PROVIDERS[1]
CLIENT = "client"
CALLS = 200

# Timeouts in seconds, each many times what a slow machine needs.
KEYS_TIMEOUT = 120.0
START_TIMEOUT = 30.0
TOPOLOGY_TIMEOUT = 15.0
CALLS_TIMEOUT = 60.0

POLL_INTERVAL = 0.05
"""Seconds between two looks at a mesh that is to change."""


async def run_demo(*, json: bool, keep: bool, keys: Keys = DEFAULT_KEYS) -> None:
    """Runs the demo and shows its results.

    Args:
        json: Print the results as JSON at the end.
        keep: Keep the mesh running until Ctrl-C.
        keys: The key types of the CA and of its leaves.
    """
    began = time.monotonic()
    output = DemoOutput(json=json)
    async with (
        shared_directory() as (directory, held_fd),
        ProcessGroup(directory, held_fd) as processes,
    ):
        demo = Demo(processes, directory / "certs", output)
        await demo.create_identities(keys)
        await demo.start_nodes()
        tls = client_identity(demo.certs, None)
        async with reading(MeshPlace(demo.seed.address, lambda: tls, MESH)) as status:
            await demo.wait_for_topology(status)
            await demo.call()
            await demo.kill_provider(status)
        if keep:
            output.kept(_status_command(demo.seed.address, demo.certs))
            output.print_json(time.monotonic() - began)
            processes.allow_ends()
            await _interrupted()
        with output.progress("Stopping all processes"):
            await processes.stop()
    output.ended(time.monotonic() - began)
    if not keep:
        output.print_json(time.monotonic() - began)


class Demo:
    """The steps in their order; each needs the results of those before it."""

    seed: Member

    def __init__(self, processes: ProcessGroup, certs: Path, output: DemoOutput) -> None:
        self.certs = certs
        self._processes = processes
        self._output = output
        self._nodes: dict[str, ChildProcess] = {}

    async def create_identities(self, keys: Keys) -> None:
        began = time.monotonic()
        names = (SEED, *PROVIDERS, CLIENT)
        text = "Creating a CA and identities; an RSA key can take some seconds"
        with self._output.progress(text) as detail:
            maker = await self._processes.start(
                "identities", "identities", str(self.certs), *keys, *names
            )
            for _ in ("the CA", *names):
                detail((await maker.expect("made", KEYS_TIMEOUT))["what"])
            await maker.stop(START_TIMEOUT)
        self._output.identities(names, time.monotonic() - began)

    async def start_nodes(self) -> None:
        """Starts the seed node, then the providers in parallel, which join through it."""
        with self._output.progress("Starting three nodes"):
            await self._start_node(SEED)
            self.seed = await self._member(SEED)
            for name in PROVIDERS:
                await self._start_node(name, "--greet", "--join", self.seed.address)
            # A later step needs the client; it loads while the nodes do.
            self._client = await self._processes.start(
                CLIENT, "client", CLIENT, str(self.certs), self.seed.address
            )
            joined = [await self._member(name) for name in PROVIDERS]
        self._members = {member.id: member for member in joined}
        self._output.nodes(self.seed, joined)

    async def wait_for_topology(self, status: Reader) -> None:
        """Waits until all nodes have the same topology, in which all are alive."""
        with self._output.progress("Waiting until all have the same topology"):
            await self._processes.wait_until(
                lambda: _agree(self._nodes.values()) and _sees_all(self._client),
                TOPOLOGY_TIMEOUT,
                "the processes did not have the same topology",
            )
            mesh = await _facts(status, dict.fromkeys(self._nodes, "alive"))
        self._output.mesh(mesh)

    async def call(self) -> None:
        with self._output.progress("Calling the service from a node and from a client"):
            await self._client.expect("ready", START_TIMEOUT)
            await self._start_calls("call", times=CALLS)
            calls = await self._results()
        check_calls(calls, client=CLIENT)
        check_balance(calls, times=CALLS, providers=PROVIDERS)
        self._output.calls(calls)

    async def kill_provider(self, status: Reader) -> None:
        """Kills a provider under load, and keeps calling until every process has seen it fail."""
        with self._output.progress(f"Killing {VICTIM} while both keep calling"):
            await self._start_calls("keep calling")
            began = time.monotonic()
            self._nodes[VICTIM].kill()
            others = [child for name, child in self._nodes.items() if name != VICTIM]
            await self._processes.wait_until(
                lambda: _all_see_failed(VICTIM, [*others, self._client]),
                TOPOLOGY_TIMEOUT,
                f"{VICTIM} was killed, and not every process saw it fail",
            )
            detected_after = time.monotonic() - began
            for caller in self._callers:
                caller.send("stop calling")
            calls = await self._results()
            statuses = dict.fromkeys(self._nodes, "alive") | {VICTIM: "failed"}
            mesh = await _facts(status, statuses)
        check_calls(calls, client=CLIENT)
        self._output.kill(self._members[VICTIM], detected_after, calls, mesh)

    @property
    def _callers(self) -> tuple[ChildProcess, ChildProcess]:
        return self._nodes[SEED], self._client

    async def _start_node(self, name: str, *options: str) -> None:
        self._nodes[name] = await self._processes.start(
            name, "node", name, str(self.certs), *options
        )

    async def _member(self, name: str) -> Member:
        """Waits until a node serves, and returns its address."""
        child = self._nodes[name]
        ready = await child.expect("ready", START_TIMEOUT)
        return Member(name, child.pid, ready["address"])

    async def _start_calls(self, command: str, **details: object) -> None:
        for caller in self._callers:
            caller.send(command, **details)
        for caller in self._callers:
            await caller.expect("calling", CALLS_TIMEOUT)

    async def _results(self) -> Sequence[Calls]:
        reports = [await caller.expect("called", CALLS_TIMEOUT) for caller in self._callers]
        return [
            Calls(
                caller.name,
                report["by_provider"],
                report["callers"],
                report["failures"],
                report["loaded_aegis_core"],
            )
            for caller, report in zip(self._callers, reports, strict=True)
        ]


async def _facts(status: Reader, statuses: Mapping[str, str]) -> View:
    """Collects the facts of the mesh, once its feed to this process has these statuses too."""
    deadline = time.monotonic() + TOPOLOGY_TIMEOUT
    while True:
        mesh = await status.read(own=("standings",))
        if {node.info.id: node.info.status for node in mesh.nodes} == statuses:
            return mesh
        if time.monotonic() > deadline:
            failure = "the demo did not see what all processes see"
            raise DemoError(f"{failure} within {TOPOLOGY_TIMEOUT:g} s")
        await asyncio.sleep(POLL_INTERVAL)


def _agree(nodes: Iterable[ChildProcess]) -> bool:
    nodes = tuple(nodes)
    states = {(node.topology.get("version"), node.topology.get("digest")) for node in nodes}
    return len(states) == 1 and all(map(_sees_all, nodes))


def _sees_all(process: ChildProcess) -> bool:
    return process.topology.get("nodes") == dict.fromkeys((SEED, *PROVIDERS), "alive")


def _all_see_failed(victim: str, processes: Iterable[ChildProcess]) -> bool:
    return all(process.topology["nodes"].get(victim) == "failed" for process in processes)


async def _interrupted() -> None:
    """Waits for Ctrl-C or SIGTERM, which end the demo without an error here."""
    loop, interrupted = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    try:
        await interrupted.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _status_command(address: str, certs: Path) -> str:
    """The command that shows this mesh, as the user can paste it into another terminal."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        command = ["uv", "run", "aegis"]  # its environment is on the PATH of this process alone
    elif shutil.which("aegis"):
        command = ["aegis"]
    else:
        command = [sys.executable, "-m", "aegis_cli"]
    return shlex.join([*command, "mesh", "status", "--node", address, "--cert-dir", str(certs)])
