"""Real nodes for a measurement: one process each, all on a separate loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from aegis_certs import CertificateAuthority

Message = dict[str, Any]

AT_ONCE = 4
"""Processes that start at the same time; more would only slow each other down."""

PATIENCE = 120.0
"""Seconds to wait for anything that must happen."""

GRACE = 10.0
"""Seconds that a process has to end in order."""

HERE = Path(__file__).parent


class Worker:
    """A process that prints messages, one JSON object a line, and takes commands.

    Python finds the bytecode of all modules, as it does where pip installed them: the first process
    compiles it.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.messages: list[Message] = []
        self._arrived = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, script: str, options: Message, namespace: Namespace | None = None
    ) -> Worker:
        """Starts one of the scripts beside this file."""
        prefix = namespace.prefix if namespace else ()
        settings = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": _bytecode().name}
        return cls(
            await asyncio.create_subprocess_exec(
                *(*prefix, sys.executable, str(HERE / script), json.dumps(options)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **settings},
            )
        )

    async def wait(self, wanted: Callable[[Message], object], *, since: int = 0) -> Message:
        """Returns the first message with a key since a position in `messages`.

        Raises:
            TimeoutError: If none arrives.
        """
        async with asyncio.timeout(PATIENCE):
            while True:
                for message in self.messages[since:]:
                    if wanted(message):
                        return message
                since = len(self.messages)
                self._arrived.clear()
                await self._arrived.wait()

    def send(self, *words: str) -> None:
        """Sends a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(words).encode() + b"\n")

    async def ask(self, *words: str) -> Message:
        """Sends a command whose answer has its first word as the key."""
        since = len(self.messages)
        self.send(*words)
        return await self.wait(lambda message: words[0] in message, since=since)

    async def end(self) -> None:
        """Closes its input, which makes it end, and waits for that."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self.process.wait()
        await self.kill()

    async def kill(self) -> None:
        """Kills it with SIGKILL."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.messages.append(json.loads(line))
            self._arrived.set()


@cache
def _bytecode() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="aegis-bytecode-")


class Namespace:
    """A network namespace with a loopback; it ends with the process that holds it."""

    def __init__(self, holder: asyncio.subprocess.Process) -> None:
        self._holder = holder

    @classmethod
    @asynccontextmanager
    async def private(cls) -> AsyncIterator[Namespace]:
        """Makes one.

        Raises:
            PermissionError: If this user may not.
        """
        holder = await asyncio.create_subprocess_exec(
            *("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && cat >/dev/null"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            if await holder.stdout.readline() != b"up\n":
                raise PermissionError("cannot make a network namespace; run this as root")
            yield cls(holder)
        finally:
            holder.stdin.close()
            await holder.wait()

    @property
    def prefix(self) -> tuple[str, ...]:
        """The prefix of a command that runs in this namespace and keeps its process id."""
        return ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net")

    def octets_sent(self) -> int:
        """Returns the bytes of IP packets sent in this namespace, headers included."""
        table = Path(f"/proc/{self._holder.pid}/net/netstat").read_text().splitlines()
        names, values = (line.split() for line in table if line.startswith("IpExt:"))
        return int(dict(zip(names, values, strict=True))["OutOctets"])


class ProcessGroup:
    """Nodes that form one mesh."""

    def __init__(self, size: int, certs: Path, namespace: Namespace) -> None:
        self.workers: dict[str, Worker] = {}
        self.ids = [f"node-{number:03}" for number in range(size)]
        self.namespace = namespace
        self._certs = certs
        self._gate = asyncio.Semaphore(AT_ONCE)

    @classmethod
    @asynccontextmanager
    async def of(cls, size: int) -> AsyncIterator[ProcessGroup]:
        """Starts nodes with default certificates, and waits until they are one mesh."""
        with tempfile.TemporaryDirectory() as directory:
            ca = CertificateAuthority.create(directory)
            async with Namespace.private() as namespace:
                group = cls(size, Path(directory), namespace)
                for node_id in group.ids:
                    ca.issue(node_id)
                try:
                    await group.start(group.ids[0])
                    await asyncio.gather(*map(group.start, group.ids[1:]))
                    await group.settle()
                    yield group
                finally:
                    await asyncio.gather(*(worker.kill() for worker in group.workers.values()))

    async def start(self, node_id: str) -> None:
        """Starts a node, again if it ran before, and waits until it serves."""
        seeds = [worker.messages[0]["ready"] for worker in list(self.workers.values())[:2]]
        options = {"id": node_id, "cert_dir": str(self._certs), "seed_peers": seeds}
        async with self._gate:
            worker = await Worker.start("node.py", options, self.namespace)
            self.workers[node_id] = worker
            await worker.wait(lambda message: "ready" in message)

    async def settle(self) -> None:
        """Waits until all nodes agree, and see each other alive."""
        deadline = time.monotonic() + PATIENCE
        while True:
            views = await asyncio.gather(*(w.ask("view") for w in self.workers.values()))
            digests = {view["view"] for view in views}
            if len(digests) == 1 and all(view["alive"] == len(self.ids) for view in views):
                return
            if time.monotonic() > deadline:
                alive = sorted({view["alive"] for view in views})
                raise TimeoutError(f"no one mesh: {len(digests)} digests, {alive} alive")
            await asyncio.sleep(0.5)

    async def last_report_at(
        self, by: Iterable[str], wanted: Callable[[Message], object], since: dict[str, int]
    ) -> float:
        """Returns when the last of these nodes printed such a message (`time.monotonic`)."""
        messages = await asyncio.gather(
            *(self.workers[node_id].wait(wanted, since=since[node_id]) for node_id in by)
        )
        return float(max(message["at"] for message in messages))

    def positions(self) -> dict[str, int]:
        """Returns the position of the next message."""
        return {node_id: len(worker.messages) for node_id, worker in self.workers.items()}
