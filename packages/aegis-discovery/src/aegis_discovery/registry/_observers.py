"""Which nodes judge a node whose key vanished from a registry: the highest rendezvous hashes."""

from __future__ import annotations

import hashlib
from heapq import nlargest

from aegis_certs import owner_of

OBSERVERS = 5
"""Observers of a node. Three of them have to agree on a failure, as on the rings of the feed."""


class RendezvousObservers:
    """Chooses the observers of a node, each of another identity: highest random weight hashing.

    All processes choose the same ones from the same nodes (Thaler and Ravishankar, 1998). A choice
    takes a hash of each node, so it is made only for nodes that are suspects.

    It has the methods of the rings, in whose place a node with a registry uses it. There is one
    difference: only suspects are watched.
    """

    def __init__(self) -> None:
        self._can_observe: dict[str, bool] = {}
        self._observers: dict[str, frozenset[str]] = {}
        self._suspects: dict[str, None] = {}
        self._has_changed = False

    def __len__(self) -> int:
        return len(self._can_observe)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._can_observe

    def place(self, node_id: str, *, can_observe: bool) -> bool:
        """Adds a node, or notes whether it can observe; returns whether that is a change."""
        if self._can_observe.get(node_id) is can_observe:
            return False
        self._can_observe[node_id] = can_observe
        self._observers.clear()
        return True

    def remove(self, node_id: str) -> bool:
        if self._can_observe.pop(node_id, None) is None:
            return False
        self._suspects.pop(node_id, None)
        self._observers.clear()
        return True

    def suspect(self, node_id: str) -> None:
        """Lets the observers of a node watch it."""
        if node_id in self._can_observe and node_id not in self._suspects:
            self._suspects[node_id] = None
            self._has_changed = True

    def trust(self, node_id: str) -> None:
        """Lets nobody watch a node any more."""
        if node_id in self._suspects:
            del self._suspects[node_id]
            self._has_changed = True

    def take_changed(self) -> bool:
        """Tells whether the suspects changed since the last question."""
        changed, self._has_changed = self._has_changed, False
        return changed

    def observers(self, subject: str) -> frozenset[str]:
        """Returns the observers of a node."""
        chosen = self._observers.get(subject)
        if chosen is None:
            chosen = self._observers[subject] = self._choose(subject)
        return chosen

    def subjects(self, observer: str) -> frozenset[str]:
        """Returns which suspects a node observes."""
        return frozenset(s for s in self._suspects if observer in self.observers(s))

    def followed(self, _node_id: str) -> frozenset[str]:
        """No node is followed for the news: the registry brings them."""
        return frozenset()

    def _choose(self, subject: str) -> frozenset[str]:
        own = owner_of(subject)
        suffix = b"\0" + subject.encode()
        best: dict[str, tuple[bytes, str]] = {}
        siblings: list[tuple[bytes, str]] = []
        for node_id, can_observe in self._can_observe.items():
            if not can_observe or node_id == subject:
                continue
            weight = hashlib.blake2b(node_id.encode() + suffix, digest_size=8).digest()
            identity = owner_of(node_id)
            if identity == own:
                siblings.append((weight, node_id))
            elif identity not in best or best[identity] < (weight, node_id):
                best[identity] = weight, node_id
        chosen = nlargest(OBSERVERS, best.values() or siblings)
        return frozenset(node_id for _, node_id in chosen)
