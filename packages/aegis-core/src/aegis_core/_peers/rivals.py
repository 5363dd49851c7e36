"""Other processes that run, or ran, under a node's id. Pure."""

from __future__ import annotations

import logging

from aegis_discovery import Topology
from aegis_discovery.records import Record
from aegis_discovery.signals import LogLimiter

_log = logging.getLogger("aegis.membership")

MAX_ANSWERED = 256
"""Remembered instances of other processes under this node's id; more than a node ever has."""


class Rivals:
    """Decides whether one node, or another process with its id, gives way."""

    def __init__(self, topology: Topology) -> None:
        assert topology.owner  # noqa: S101 - a topology of nobody has no place in a mesh
        self._own_id = topology.owner
        self._topology = topology
        self._answered: set[str] = set()
        self._log_limiter = LogLimiter(_log)

    def holds_id(self, node_id: str, instance: str) -> bool:
        """Tells whether a process that states this id and instance is another one of this id."""
        own = self._topology.get_record(self._own_id)
        is_other = own is not None and instance not in ("", own.instance)
        return node_id == self._own_id and is_other

    def record_received(self, record: Record, now: float) -> str | None:
        """Handles a newer record of the own id by another process.

        An earlier instance of this node may have written it while its clock was ahead, so this node
        publishes a newer one. If that process answers in turn, it runs under the same id: the one
        that began later gives way.

        Returns:
            The address of the process to give way to; None if this node continues.
        """
        if record.info is not None and record.instance in self._answered:
            own = self._topology.get_record(self._own_id)
            if own is None or _seniority(own) > _seniority(record):
                return record.info.address
        if len(self._answered) >= MAX_ANSWERED:
            self._answered.clear()
        self._answered.add(record.instance)
        if record.info is not None:
            line = "another process runs, or ran, under the id %s at %s; this one continues"
            own_id, address = self._own_id, record.info.address
            self._log_limiter.warn(own_id, "another instance", line, own_id, address, now=now)
        self._topology.republish()
        return None


def _seniority(record: Record) -> tuple[float, str]:
    """Orders the processes of one id: by their start, then by their instance."""
    began = record.info.joined_at if record.info is not None else None
    return began.timestamp() if began is not None else 0.0, record.instance
