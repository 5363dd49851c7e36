"""Real etcd on loopback, with certificates of our CA and client authentication."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_discovery.registry._etcd import EtcdMember
from aegis_discovery.transport import SeedPeer

PATIENCE = 30.0
"""Seconds after which a wait fails. A bound for a busy machine, not a measurement."""

EXECUTABLE = shutil.which("etcd")


class Etcd:
    """A cluster of etcd members, each a process with the certificate of its own name.

    Args:
        folder: For the data and the logs.
        authority: The CA of the mesh.
        size: The number of members.
        is_durable: Whether a write waits for the disk, as in production.
    """

    def __init__(
        self,
        folder: Path,
        authority: CertificateAuthority,
        size: int = 1,
        *,
        is_durable: bool = False,
    ) -> None:
        self._folder = folder
        self._authority = authority
        self._is_durable = is_durable
        self._names = [f"etcd-{number}" for number in range(1, size + 1)]
        ports = free_ports(2 * size)
        self.clients = dict(zip(self._names, ports[:size], strict=True))
        self._peers = dict(zip(self._names, ports[size:], strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in self._names:
            tls = authority.issue(name, hosts=["127.0.0.1"], key_type=KeyType.P256)
            (folder / f"{name}.pem").write_bytes(tls.certificate_chain)
            (folder / f"{name}.key").write_bytes(tls.private_key)
            (folder / "ca.pem").write_bytes(tls.trust_bundle)

    @property
    def url(self) -> str:
        """The address of this registry."""
        return f"etcd://{','.join(f'127.0.0.1:{port}' for port in self.clients.values())}/aegis"

    def start(self, *names: str) -> None:
        """Starts these members, or all."""
        for name in names or self._names:
            self._processes[name] = self._start(name)

    def kill(self, *names: str) -> None:
        """Kills these members, or all."""
        for name in names or list(self._processes):
            process = self._processes.pop(name)
            process.send_signal(signal.SIGKILL)
            process.wait()

    def lose_data(self) -> None:
        """Deletes what the members have written; call it while none runs."""
        for name in self._names:
            shutil.rmtree(self._folder / name)

    async def wait_ready(self, tls: TLSConfig, names: list[str] | None = None) -> None:
        """Waits until these members, or all, serve with a leader."""
        for name in names or self._names:
            await self.until(lambda at=name: self._serves(tls, at))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                result = condition()
                if await result if asyncio.iscoroutine(result) else result:
                    return
                await asyncio.sleep(0.05)

    def member(self, tls: TLSConfig, name: str = "etcd-1") -> EtcdMember:
        """Returns calls to one member."""
        return EtcdMember(SeedPeer(f"127.0.0.1:{self.clients[name]}"), tls)

    async def leader(self, tls: TLSConfig) -> str:
        """Returns the name of the leader."""
        ids: dict[int, str] = {}
        leaders: set[int] = set()
        for name in self._processes:
            async with self.member(tls, name) as member:
                own, leader = await status(member)
                ids[own] = name
                leaders.add(leader)
        return next(ids[one] for one in leaders if one in ids)

    async def contents(self, tls: TLSConfig) -> dict[str, bytes]:
        """Returns all keys."""
        found: dict[str, bytes] = {}
        async with self.member(tls, next(iter(self._processes))) as member:
            async for _, _, page in member.read(b"aegis/", b"aegis0"):
                found |= {kv.key.decode(): kv.value for kv in page}
        return found

    async def keys(self, tls: TLSConfig) -> set[str]:
        """Returns the keys of nodes, without what is before the id."""
        mark = "/nodes/"
        return {key.partition(mark)[2] for key in await self.contents(tls) if mark in key}

    async def _serves(self, tls: TLSConfig, name: str) -> bool:
        try:
            async with self.member(tls, name) as member:
                async for _ in member.read(b"aegis/", b"aegis0"):
                    pass
        except grpc.aio.AioRpcError:
            return False
        return True

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        assert EXECUTABLE is not None
        client, peer = (f"https://127.0.0.1:{ports[name]}" for ports in (self.clients, self._peers))
        cluster = ",".join(f"{one}=https://127.0.0.1:{port}" for one, port in self._peers.items())
        files = [
            self._folder / f"{name}.pem",
            self._folder / f"{name}.key",
            self._folder / "ca.pem",
        ]
        options = {
            "name": name,
            "data-dir": self._folder / name,
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": cluster,
            "initial-cluster-token": "aegis",
            **dict(zip(("cert-file", "key-file", "trusted-ca-file"), files, strict=True)),
            **dict(
                zip(("peer-cert-file", "peer-key-file", "peer-trusted-ca-file"), files, strict=True)
            ),
        }
        flags = ["--client-cert-auth", "--peer-client-cert-auth"]
        if not self._is_durable:
            flags.append("--unsafe-no-fsync")
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [EXECUTABLE, *flags, *(f"--{key}={value}" for key, value in options.items())],
                stdout=log,
                stderr=log,
            )


async def status(member: EtcdMember) -> tuple[int, int]:
    """Returns the id of a member, and that of the leader as it sees it."""
    method = member._channel.unary_unary("/etcdserverpb.Maintenance/Status")
    answer = await method(b"", timeout=5)
    fields = _fields(answer)
    header = _fields(fields[1])
    return header[2], fields.get(4, 0)


def _fields(data: bytes) -> dict[int, int | bytes]:
    """Reads the fields of a message, varints and bytes only."""
    found: dict[int, int | bytes] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            found[tag >> 3] = varint()
        else:
            size = varint()
            found[tag >> 3] = data[at : at + size]
            at += size
    return found


def free_ports(count: int) -> list[int]:
    """Returns ports that are free now, below those that systems assign to others by themselves."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            with suppress(OSError):
                port = random.SystemRandom().randrange(11_000, 20_000)
                sockets.append(socket.create_server(("127.0.0.1", port)))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
