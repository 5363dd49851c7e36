"""A mesh in which each node has its own host."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from ..mesh.process import PATIENCE, START, Message, NodeProcess, Process
from .network import Host, Network

PORT = 7000
SEEDS = 2
"""The number of nodes that the others use as seed peers."""

Positions = dict[str, int]


class Cluster:
    """Node processes on the hosts of a network; the last host is for a client.

    Args:
        network: The network on which the processes run.
        ids: The node ids, one for each host except the last.
        cert_dir: The directory with the identities of all nodes.
        logs: The directory for the standard error of each process.
        options: Further options of some nodes.
    """

    def __init__(
        self,
        network: Network,
        ids: Sequence[str],
        cert_dir: Path,
        logs: Path,
        options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        self._options = options
        *hosts, self._client_host = network.hosts
        self.network = network
        self.hosts = dict(zip(ids, hosts, strict=True))
        self.nodes: dict[str, NodeProcess] = {}
        self._cert_dir = str(cert_dir)
        self._logs = logs

    def start(self, *node_ids: str) -> None:
        """Starts nodes, all at once; first kills the processes that run under these ids."""
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
                # All start at once, some of them before their seed peers.
                join_timeout=0,
                **self._options.get(node_id, {}),
            )
        for node_id in node_ids:
            assert self.nodes[node_id].address

    @contextmanager
    def calling_client(self) -> Iterator[Process]:
        """Runs a client that calls until the block ends; then checks that no call failed."""
        options = {"node_id": "client", "cert_dir": self._cert_dir, "seeds": self._seeds()}
        log = self._logs / "client.log"
        client = Process("client_process.py", options, log, prefix=self._client_host.prefix)
        try:
            client.wait(lambda message: message.get("calls"))
            yield client
            client.close_input()
            outcome = client.wait(lambda message: "answered" in message)
        finally:
            client.kill()
        assert outcome["failures"] == []
        assert set(outcome["answered"]) == set(self.hosts)

    def reset(self) -> None:
        """Restores all links; restarts all nodes unless they are an undisturbed mesh."""
        self.network.heal()
        for node in self.nodes.values():
            node.signal(signal.SIGCONT)
        # Nodes that could not reach each other remember that for a minute.
        if not self.nodes or self.network.was_disturbed or not self.is_one_mesh():
            self.start(*self.hosts)
            self.network.was_disturbed = False
            self.wait_until_one_mesh(within=START)

    def close(self) -> None:
        """Kills all processes."""
        for node in self.nodes.values():
            node.kill()

    # The views of the nodes

    def is_one_mesh(self, among: Iterable[str] | None = None) -> bool:
        """Tells whether these nodes have equal topologies that list exactly them, all alive."""
        return self._disagreement(among) is None

    def wait_until_one_mesh(
        self, among: Iterable[str] | None = None, *, within: float = PATIENCE
    ) -> None:
        """Waits until `is_one_mesh`."""
        among = None if among is None else list(among)
        deadline = time.monotonic() + within
        while (views := self._disagreement(among)) is not None:
            if time.monotonic() > deadline:
                pytest.fail(f"not one mesh within {within:g} s: {views}")
            let_pass(0.1)

    def positions(self) -> Positions:
        """Returns the index of the next message of each node."""
        # An answer arrives after all earlier events, so none of them is taken for a later one.
        for node in self.nodes.values():
            node.ask("topology")
        return {node_id: node.position() for node_id, node in self.nodes.items()}

    def wait_event(self, event: str, at: Iterable[str], since: Positions, **wanted: Any) -> None:
        """Waits until these nodes have reported an event."""
        for node_id in at:
            self.nodes[node_id].wait_event(event, since=since[node_id], **wanted)

    def events(self, since: Positions) -> Iterator[tuple[str, str]]:
        """Yields the events as (reporting node, event)."""
        for node_id, position in since.items():
            node = self.nodes[node_id]
            for message in node.messages[position:]:
                if "event" in message:
                    yield node_id, message["event"]

    def failures(self, since: Positions, at: Iterable[str] | None = None) -> list[tuple[str, str]]:
        """Lists failures as (observer, failed node), once for each time that a node failed."""
        observers = set(self.hosts if at is None else at)
        events = [(at_node, *event.split()) for at_node, event in self.events(since)]
        return sorted(
            (where, subject)
            for where, kind, subject in events
            if kind == "failed" and where in observers
        )

    def others(self, *excluded: str) -> list[str]:
        """Lists all nodes except these."""
        return [node_id for node_id in self.hosts if node_id not in excluded]

    def host_of(self, *node_ids: str) -> list[Host]:
        """Lists the hosts of these nodes."""
        return [self.hosts[node_id] for node_id in node_ids]

    def _seeds(self) -> list[str]:
        return [f"{host.ip}:{PORT}" for host in list(self.hosts.values())[:SEEDS]]

    def _disagreement(self, among: Iterable[str] | None) -> dict[str, Message] | None:
        ids = sorted(self.hosts if among is None else among)
        views = {node_id: self.nodes[node_id].ask("topology") for node_id in ids}
        whole = dict.fromkeys(ids, "alive")
        same = len({view["digest"] for view in views.values()}) == 1
        if same and all(view["topology"] == whole for view in views.values()):
            return None
        return {node_id: view["topology"] for node_id, view in views.items()}


def let_pass(seconds: float) -> None:
    """Waits between two polls, or for as long as a fault of the scenario lasts."""
    threading.Event().wait(seconds)
