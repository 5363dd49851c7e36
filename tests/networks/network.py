"""A network on one machine: a namespace for each host, and a switch between them."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

CLEANUP = """
cat >/dev/null
for name; do ip netns pids "$name" | xargs -r kill -9; done
for name; do ip netns del "$name"; done
"""
"""Waits for the end of its input, which also happens if its parent is killed; then cleans up."""


MTU, SMALL_MTU = 1500, 600


class NetworkError(Exception):
    """This machine does not permit network namespaces."""


@dataclass(frozen=True)
class Host:
    """One host of the network.

    Attributes:
        name: The name of its namespace.
        ip: Its only address.
        port: The interface of the switch to which it is connected.
    """

    name: str
    ip: str
    port: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that make it run on this host, with the same process id."""
        return ("ip", "netns", "exec", self.name)


class Network:
    """Hosts on one switch; links can be taken down and packets can be dropped.

    The names are unique to this process, and the network of the machine does not change. When this
    process ends, even by SIGKILL, the namespaces are deleted and their processes killed.

    Args:
        size: The number of hosts.

    Attributes:
        was_disturbed: Whether any link was ever taken down or any packet dropped.

    Raises:
        NetworkError: If this machine does not permit namespaces.
    """

    def __init__(self, size: int) -> None:
        run = f"aegis-{os.getpid()}-{secrets.token_hex(3)}"
        self._switch = f"{run}-switch"
        self.hosts = tuple(Host(f"{run}-{n}", f"10.77.0.{n}", f"p{n}") for n in range(1, size + 1))
        self._dropped: set[tuple[Host, Host]] = set()
        self._unplugged: set[Host] = set()
        self._swallowing: set[Host] = set()
        self.was_disturbed = False
        names = [host.name for host in self.hosts]
        self._cleanup = subprocess.Popen(
            ["sh", "-c", CLEANUP, "cleanup", self._switch, *names],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Signals to the process group of the tests, such as Ctrl-C, must not reach it.
            start_new_session=True,
        )
        try:
            self._build(names)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills all processes on the hosts and removes the network."""
        assert self._cleanup.stdin is not None
        self._cleanup.stdin.close()
        self._cleanup.wait()

    def unplug(self, host: Host) -> None:
        """Takes a host's interface down."""
        self.was_disturbed = True
        _ip("-n", host.name, commands=["link set eth0 down"])
        self._unplugged.add(host)

    def plug(self, host: Host) -> None:
        """Brings a host's interface up again."""
        _ip("-n", host.name, commands=["link set eth0 up"])
        self._unplugged.discard(host)

    def drop(self, sources: Iterable[Host], targets: Sequence[Host]) -> None:
        """Drops all packets from these sources to those targets, in this direction only."""
        self.was_disturbed = True
        for source in sources:
            pairs = [(source, target) for target in targets if target != source]
            wanted = [pair for pair in pairs if pair not in self._dropped]
            _ip("-n", source.name, commands=[f"route add blackhole {t.ip}" for _, t in wanted])
            self._dropped |= set(wanted)

    def isolate(self, host: Host) -> None:
        """Drops all packets from and to a host."""
        self.cut([host], self.hosts)

    def cut(self, one_side: Sequence[Host], other_side: Sequence[Host]) -> None:
        """Drops all packets between two sides."""
        self.drop(one_side, other_side)
        self.drop(other_side, one_side)

    def swallow_large(self, host: Host) -> None:
        """Drops large packets to a host, and tells nobody, as a wrongly set up tunnel does."""
        self.was_disturbed = True
        _ip("-n", self._switch, commands=[f"link set {host.port} mtu {SMALL_MTU}"])
        self._swallowing.add(host)

    def heal(self) -> None:
        """Brings all interfaces up and lets all packets pass."""
        for host in self._swallowing:
            _ip("-n", self._switch, commands=[f"link set {host.port} mtu {MTU}"])
        self._swallowing.clear()
        for source in {source for source, _ in self._dropped}:
            targets = [target for at, target in self._dropped if at == source]
            _ip("-n", source.name, commands=[f"route del blackhole {t.ip}" for t in targets])
        self._dropped.clear()
        for host in list(self._unplugged):
            self.plug(host)

    def _build(self, names: Sequence[str]) -> None:
        _ip(commands=[f"netns add {name}" for name in (self._switch, *names)])
        _ip(
            *("-n", self._switch),
            commands=[
                "link add bridge type bridge",
                "link set bridge up",
                *(
                    command
                    for host in self.hosts
                    for command in (
                        f"link add {host.port} type veth peer name eth0 netns {host.name}",
                        f"link set {host.port} master bridge up",
                    )
                ),
            ],
        )
        for host in self.hosts:
            commands = [
                f"address add {host.ip}/24 dev eth0",
                # A packet is never larger than the MTU, as on a real network.
                "link set eth0 up gso_max_segs 1",
                "link set lo up",
            ]
            _ip("-n", host.name, commands=commands)


def _ip(*options: str, commands: Sequence[str]) -> None:
    try:
        subprocess.run(
            ["ip", *options, "-batch", "-"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        raise NetworkError("there is no `ip` command here; install iproute2") from None
    except subprocess.CalledProcessError as error:
        raise NetworkError(f"{commands} was refused: {error.stderr.strip()}") from None
