"""Whom a node watches. Today everybody: right for a few dozen nodes, and simple to reason about."""

from __future__ import annotations

from collections.abc import Iterable


def whom_to_watch(own_id: str, node_ids: Iterable[str]) -> frozenset[str]:
    """Returns the ids whose feeds this node holds open."""
    return frozenset(node_ids) - {own_id}
