"""What the demo does, step by step. Each wait has a bound, and says what did not come."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from aegis_certs import KeyType

from aegis_cli._identity import client_identity
from aegis_cli._mesh.status import Collector
from aegis_cli._mesh.status_view import collector
from aegis_cli.demo._facts import Calls, Kill, Member, check_balance, check_calls
from aegis_cli.demo._narrator import Narrator
from aegis_cli.demo._process import ChildProcess, ProcessGroup, kept_directory

Keys = tuple[KeyType, KeyType]
DEFAULT_KEYS = (KeyType.RSA_4096, KeyType.RSA_2048)
"""As `aegis certs` makes them."""

MESH = "aegis"
SEED = "front"
PROVIDERS = ("greeter-1", "greeter-2")
VICTIM = PROVIDERS[1]
CLIENT = "client"
CALLS = 200

# Seconds; each is many times what a slow machine needs.
MAKING_KEYS = 120.0
STARTING = 30.0
AGREEING = 15.0
CALLING = 60.0
NOTICING = 15.0


async def tell(*, json: bool, keep: bool, keys: Keys = DEFAULT_KEYS) -> None:
    """Plays the demo and tells what happens.

    Args:
        json: Tell it at the end, to machines.
        keep: Leave the mesh running until Ctrl-C.
        keys: The key types of the CA and of its leaves.

    Raises:
        DemoError: If it did not show what it promises.
    """
    began = time.monotonic()
    narrator = Narrator(json=json)
    async with kept_directory() as (directory, holder), ProcessGroup(directory, holder) as crew:
        demo = Demo(crew, directory / "certs", narrator)
        await demo.make_identities(keys)
        await demo.start_nodes()
        tls = client_identity(str(demo.certs), None)
        async with collector(demo.seed.address, tls, MESH) as collecting:
            await demo.agree(collecting)
            await demo.call()
            await demo.kill_one(collecting)
        if keep:
            narrator.kept(_status_command(demo.seed.address, demo.certs))
            narrator.complete(time.monotonic() - began)
            crew.release()
            await _interrupted()
        with narrator.progress("Ending all processes"):
            await crew.stop()
    narrator.ended(time.monotonic() - began)
    if not keep:
        narrator.complete(time.monotonic() - began)


class Demo:
    """The steps, in their order; each needs what those before it made.

    Args:
        crew: Starts the processes.
        certs: The certificate directory, to be made.
        narrator: Is told what happened.
    """

    seed: Member

    def __init__(self, crew: ProcessGroup, certs: Path, narrator: Narrator) -> None:
        self.certs = certs
        self._crew = crew
        self._narrator = narrator
        self._nodes: dict[str, ChildProcess] = {}

    async def make_identities(self, keys: Keys) -> None:
        """Makes a CA, and an identity for every process."""
        began = time.monotonic()
        names = (SEED, *PROVIDERS, CLIENT)
        with self._narrator.progress(
            "Making a CA and identities; an RSA key can take some seconds"
        ) as say:
            maker = await self._crew.start(
                "identities", "identities", str(self.certs), *keys, *names
            )
            for _ in ("the CA", *names):
                say((await maker.expect("made", MAKING_KEYS))["what"])
            await maker.stop(STARTING)
        self._narrator.identities(names, time.monotonic() - began)

    async def start_nodes(self) -> None:
        """Starts the seed node, then the providers at the same time, which join through it."""
        with self._narrator.progress("Starting three nodes"):
            await self._start_node(SEED)
            self.seed = await self._member(SEED)
            for name in PROVIDERS:
                await self._start_node(name, "--greet", "--join", self.seed.address)
            # Needed later, but it loads while the nodes do.
            self._client = await self._crew.start(
                CLIENT, "client", CLIENT, str(self.certs), self.seed.address
            )
            joined = [await self._member(name) for name in PROVIDERS]
        self._members = {member.id: member for member in joined}
        self._narrator.started(self.seed, joined)

    async def agree(self, collecting: Collector) -> None:
        """Waits until all nodes have the same topology, with all of them alive."""
        with self._narrator.progress("Waiting until all see the same topology"):
            await self._crew.until(
                lambda: _agree(self._nodes.values()) and _sees_all(self._client),
                AGREEING,
                "the processes did not come to see the same topology",
            )
            mesh = await collecting.collect()
        self._narrator.agreed(mesh)

    async def call(self) -> None:
        """Calls the service from a node and from a client."""
        with self._narrator.progress("Calling the service from a node and from a client"):
            await self._client.expect("ready", STARTING)
            await self._begin("call", times=CALLS)
            calls = await self._results()
        check_calls(calls, client=CLIENT)
        check_balance(calls, times=CALLS, providers=PROVIDERS)
        self._narrator.called(calls)

    async def kill_one(self, collecting: Collector) -> None:
        """Kills a provider under load, and goes on calling until everybody has noticed."""
        with self._narrator.progress(f"Killing {VICTIM} while both go on calling"):
            await self._begin("call on")
            began = time.monotonic()
            self._nodes[VICTIM].kill()
            others = [child for name, child in self._nodes.items() if name != VICTIM]
            await self._crew.until(
                lambda: _all_know(VICTIM, [*others, self._client]),
                NOTICING,
                f"{VICTIM} was killed, and not everybody saw it fail",
            )
            noticed_after = time.monotonic() - began
            for caller in self._callers:
                caller.order("enough")
            calls = await self._results()
            mesh = await collecting.collect()
        check_calls(calls, client=CLIENT)
        self._narrator.killed(Kill(self._members[VICTIM], noticed_after, calls, mesh))

    @property
    def _callers(self) -> tuple[ChildProcess, ChildProcess]:
        return self._nodes[SEED], self._client

    async def _start_node(self, name: str, *options: str) -> None:
        self._nodes[name] = await self._crew.start(name, "node", name, str(self.certs), *options)

    async def _member(self, name: str) -> Member:
        """Waits until a node serves, and returns where."""
        child = self._nodes[name]
        ready = await child.expect("ready", STARTING)
        return Member(name, child.pid, ready["address"])

    async def _begin(self, order: str, **details: object) -> None:
        for caller in self._callers:
            caller.order(order, **details)
        for caller in self._callers:
            await caller.expect("calling", CALLING)

    async def _results(self) -> Sequence[Calls]:
        results = []
        for caller in self._callers:
            told = await caller.expect("called", CALLING)
            results.append(
                Calls(
                    caller.name,
                    told["by_provider"],
                    told["callers"],
                    told["failures"],
                    told["loaded_aegis_core"],
                )
            )
        return results


def _agree(nodes: Iterable[ChildProcess]) -> bool:
    nodes = tuple(nodes)
    states = {(node.topology.get("version"), node.topology.get("digest")) for node in nodes}
    return len(states) == 1 and all(map(_sees_all, nodes))


def _sees_all(process: ChildProcess) -> bool:
    return process.topology.get("nodes") == dict.fromkeys((SEED, *PROVIDERS), "alive")


def _all_know(victim: str, processes: Iterable[ChildProcess]) -> bool:
    return all(process.topology["nodes"].get(victim) == "failed" for process in processes)


async def _interrupted() -> None:
    """Waits for Ctrl-C or SIGTERM: here, they are how the demo is meant to end."""
    loop, interrupted = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    try:
        await interrupted.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _status_command(address: str, certs: Path) -> str:
    """The command that shows this mesh, as it has to be typed in another terminal."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        # Its environment is on no PATH but ours.
        command = ["uv", "run", "aegis"]
    elif shutil.which("aegis"):
        command = ["aegis"]
    else:
        command = [sys.executable, "-m", "aegis_cli"]
    return shlex.join([*command, "mesh", "status", "--node", address, "--cert-dir", str(certs)])
