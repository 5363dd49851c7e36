"""A mesh whose nodes each have a host of their own."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ..mesh.process import PATIENCE, START, Fact, NodeProcess, Process
from .network import Host, Network

PORT = 7000
SEEDS = 2
"""How many of the nodes the others join through."""

Marks = dict[str, int]


class Cluster:
    """Node processes on the hosts of a network, the last of which is left for a client.

    Args:
        network: Where they run.
        ids: The node ids, one for each host but the last.
        cert_dir: Has the identities of all.
        logs: Where each process' standard error goes.
    """

    def __init__(self, network: Network, ids: Sequence[str], cert_dir: Path, logs: Path) -> None:
        *hosts, self._client_host = network.hosts
        self.network = network
        self.hosts = dict(zip(ids, hosts, strict=True))
        self.nodes: dict[str, NodeProcess] = {}
        self._cert_dir = str(cert_dir)
        self._logs = logs

    def start(self, *node_ids: str) -> None:
        """Starts nodes, all at once, in place of those that ran under these ids."""
        for node_id in node_ids:
            if node_id in self.nodes:
                self.nodes[node_id].kill()
            host = self.hosts[node_id]
            self.nodes[node_id] = NodeProcess(
                node_id,
                self._logs / f"{node_id}.log",
                prefix=host.prefix,
                cert_dir=self._cert_dir,
                address=f"{host.ip}:{PORT}",
                seed_peers=[address for address in self._seeds() if f"{host.ip}:" not in address],
                # All start at once, and some before their seed peers.
                join_timeout=0,
            )
        for node_id in node_ids:
            assert self.nodes[node_id].address

    def start_client(self) -> Process:
        """Starts a client that calls without end."""
        options = {"node_id": "client", "cert_dir": self._cert_dir, "seeds": self._seeds()}
        log = self._logs / "client.log"
        return Process("client_process.py", options, log, prefix=self._client_host.prefix)

    def make_whole(self) -> None:
        """Undoes all harm; starts everybody anew where it is not as if nothing had been."""
        self.network.heal()
        for node in self.nodes.values():
            node.signal(signal.SIGCONT)
        # Nodes that could not reach each other remember that for a minute.
        if not self.nodes or self.network.was_harmed or not self.is_one():
            self.start(*self.hosts)
            self.network.was_harmed = False
            self.become_one(within=START)

    def close(self) -> None:
        """Kills them all."""
        for node in self.nodes.values():
            node.kill()

    # What they know

    def is_one(self, among: Iterable[str] | None = None) -> bool:
        """Tells whether these nodes know the same, and that exactly they are there and alive."""
        return self._disagreement(among) is None

    def become_one(self, among: Iterable[str] | None = None, *, within: float = PATIENCE) -> None:
        """Waits until `is_one`."""
        among = None if among is None else list(among)
        deadline = time.monotonic() + within
        while (views := self._disagreement(among)) is not None:
            if time.monotonic() > deadline:
                pytest.fail(f"not one mesh within {within:g} s: {views}")
            pause(0.1)

    def mark(self) -> Marks:
        """Returns where the events to come begin, at each node."""
        # An answer comes after the events before it, so that none of them is news later.
        for node in self.nodes.values():
            node.ask("topology")
        return {node_id: node.mark() for node_id, node in self.nodes.items()}

    def wait_event(self, event: str, at: Iterable[str], since: Marks, **wanted: Any) -> None:
        """Waits until these nodes were told of an event."""
        for node_id in at:
            self.nodes[node_id].wait_event(event, since=since[node_id], **wanted)

    def events(self, since: Marks) -> Iterator[tuple[str, str]]:
        """Goes through what happened, as (at which node, what)."""
        for node_id, mark in since.items():
            node = self.nodes[node_id]
            for fact in node.facts[mark:]:
                if "event" in fact:
                    yield node_id, fact["event"]

    def failures(self, since: Marks, at: Iterable[str] | None = None) -> list[tuple[str, str]]:
        """Lists who was failed, as (in whose eyes, who); one that flaps is there more than once."""
        observers = set(self.hosts if at is None else at)
        told = [(where, *what.split()) for where, what in self.events(since)]
        return sorted(
            (where, whom) for where, kind, whom in told if kind == "failed" and where in observers
        )

    def others(self, *but: str) -> list[str]:
        """Lists all nodes but these."""
        return [node_id for node_id in self.hosts if node_id not in but]

    def host_of(self, *node_ids: str) -> list[Host]:
        """Lists the hosts of these nodes."""
        return [self.hosts[node_id] for node_id in node_ids]

    def _seeds(self) -> list[str]:
        return [f"{host.ip}:{PORT}" for host in list(self.hosts.values())[:SEEDS]]

    def _disagreement(self, among: Iterable[str] | None) -> dict[str, Fact] | None:
        ids = sorted(self.hosts if among is None else among)
        views = {node_id: self.nodes[node_id].ask("topology") for node_id in ids}
        whole = dict.fromkeys(ids, "alive")
        same = len({view["digest"] for view in views.values()}) == 1
        if same and all(view["topology"] == whole for view in views.values()):
            return None
        return {node_id: view["topology"] for node_id, view in views.items()}


def pause(seconds: float) -> None:
    """Lets time pass: between two looks, or where how long a fault lasts is the scenario."""
    threading.Event().wait(seconds)
