"""A network on one machine: a namespace for each host, and a switch between them."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

KEEPER = """
cat >/dev/null
for name; do ip netns pids "$name" | xargs -r kill -9; done
for name; do ip netns del "$name"; done
"""
"""Waits until its input ends, as it does when its parent does, in whatever way; then tidies up."""


class NetworkError(Exception):
    """This machine does not let us make a network."""


@dataclass(frozen=True)
class Host:
    """One host of the network.

    Attributes:
        name: Of its namespace.
        ip: Its only address.
        port: Of the switch, where its cable ends.
    """

    name: str
    ip: str
    port: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Goes before a command, so that it runs on this host and keeps its process id."""
        return ("ip", "netns", "exec", self.name)


class Network:
    """Hosts on one switch, whose cables can be pulled and whose packets can vanish.

    The names are this process's own, and nothing is added to the machine's own network. When this
    process ends, even by SIGKILL, the namespaces and all that runs in them go.

    Args:
        size: How many hosts.

    Attributes:
        was_harmed: Whether any packet was kept from its way, ever.

    Raises:
        NetworkError: If namespaces are not permitted here.
    """

    def __init__(self, size: int) -> None:
        run = f"aegis-{os.getpid()}-{secrets.token_hex(3)}"
        self._switch = f"{run}-switch"
        self.hosts = tuple(Host(f"{run}-{n}", f"10.77.0.{n}", f"p{n}") for n in range(1, size + 1))
        self._holes: set[tuple[Host, Host]] = set()
        self._unplugged: set[Host] = set()
        self.was_harmed = False
        names = [host.name for host in self.hosts]
        self._keeper = subprocess.Popen(
            ["sh", "-c", KEEPER, "keeper", self._switch, *names],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Whatever is sent to our group, such as Ctrl-C, must not reach it.
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
        """Ends everything that runs on the hosts, and takes the network down."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()

    def unplug(self, host: Host) -> None:
        """Takes a host's interface down."""
        self.was_harmed = True
        _ip("-n", host.name, commands=["link set eth0 down"])
        self._unplugged.add(host)

    def plug(self, host: Host) -> None:
        """Takes a host's interface up again."""
        _ip("-n", host.name, commands=["link set eth0 up"])
        self._unplugged.discard(host)

    def drop(self, sources: Iterable[Host], targets: Sequence[Host]) -> None:
        """Lets every packet from these sources to those targets vanish, one way."""
        self.was_harmed = True
        for source in sources:
            holes = [(source, target) for target in targets if target != source]
            wanted = [hole for hole in holes if hole not in self._holes]
            _ip("-n", source.name, commands=[f"route add blackhole {t.ip}" for _, t in wanted])
            self._holes |= set(wanted)

    def isolate(self, host: Host) -> None:
        """Lets every packet from and to a host vanish."""
        self.cut([host], self.hosts)

    def cut(self, one_side: Sequence[Host], other_side: Sequence[Host]) -> None:
        """Lets every packet between two sides vanish."""
        self.drop(one_side, other_side)
        self.drop(other_side, one_side)

    def heal(self) -> None:
        """Plugs everybody in, and lets all packets through."""
        for source in {source for source, _ in self._holes}:
            targets = [target for at, target in self._holes if at == source]
            _ip("-n", source.name, commands=[f"route del blackhole {t.ip}" for t in targets])
        self._holes.clear()
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
            commands = [f"address add {host.ip}/24 dev eth0", "link set eth0 up", "link set lo up"]
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
