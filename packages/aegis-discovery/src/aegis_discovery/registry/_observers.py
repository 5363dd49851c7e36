"""Which nodes judge a node whose key vanished from a registry: the highest rendezvous hashes."""

from __future__ import annotations

import hashlib
from heapq import nlargest

from aegis_certs import owner_of

OBSERVERS = 5
"""Observers of a node. Three of them have to agree on a failure, as on the rings of the feed."""

_FACTOR, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1


class RendezvousObservers:
    """Chooses the observers of a node, each of another identity: highest random weight hashing.

    All processes choose the same ones from the same nodes (Thaler and Ravishankar, 1998). A choice
    goes through all nodes, so it is made only for nodes that are suspects.
    """

    def __init__(self) -> None:
        self._can_observe: dict[str, bool] = {}
        self._able: dict[str, int] = {}  # those that can, with their hashes
        self._observers: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._can_observe)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._can_observe

    def place(self, node_id: str, *, can_observe: bool) -> bool:
        """Adds a node, or notes whether it can observe; returns whether that is a change."""
        if self._can_observe.get(node_id) is can_observe:
            return False
        self._can_observe[node_id] = can_observe
        if can_observe:
            self._able[node_id] = _hash(node_id)
        else:
            self._able.pop(node_id, None)
        self._observers.clear()
        return True

    def remove(self, node_id: str) -> bool:
        if self._can_observe.pop(node_id, None) is None:
            return False
        self._able.pop(node_id, None)
        self._observers.clear()
        return True

    def observers(self, subject: str) -> frozenset[str]:
        """Returns the observers of a node."""
        chosen = self._observers.get(subject)
        if chosen is None:
            chosen = self._observers[subject] = self._choose(subject)
        return chosen

    def _choose(self, subject: str) -> frozenset[str]:
        own, salt = owner_of(subject), _hash(subject)
        weights = [
            ((node ^ salt) * _FACTOR & _MASK, node_id) for node_id, node in self._able.items()
        ]
        siblings: list[str] = []
        count = 4 * OBSERVERS
        while True:
            chosen: dict[str, str] = {}
            siblings.clear()
            for _, node_id in nlargest(count, weights):
                identity = owner_of(node_id)
                if identity != own:
                    chosen.setdefault(identity, node_id)
                elif node_id != subject:
                    siblings.append(node_id)
                if len(chosen) == OBSERVERS:
                    return frozenset(chosen.values())
            if count >= len(weights):
                return frozenset(chosen.values() or siblings[:OBSERVERS])
            count *= 8  # many workers of few identities


def _hash(node_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(node_id.encode(), digest_size=8).digest())
