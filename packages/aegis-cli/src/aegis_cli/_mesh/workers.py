"""The workers of one identity, as one line of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from aegis_certs import owner_of, parse_worker_id

from aegis_cli._mesh.status import NodeFacts

_FROM_BAD_TO_GOOD = ("failed", "no answer", "unhealthy", "suspected", "unknown")

Workers = Sequence[NodeFacts]
"""A node, or several workers of one identity."""


def in_order(nodes: Iterable[NodeFacts]) -> list[NodeFacts]:
    """Nodes by identity, and workers by their numbers."""

    def key(node: NodeFacts) -> tuple[str, int]:
        identity, number = parse_worker_id(node.info.id)
        return identity, -1 if number is None else number

    return sorted(nodes, key=key)


def lines(nodes: Iterable[NodeFacts], *, each: bool) -> list[Workers]:
    """One line for each identity, or for `each` node."""
    if each:
        return [(node,) for node in in_order(nodes)]
    return [tuple(group) for _, group in groupby(in_order(nodes), lambda n: owner_of(n.info.id))]


def line_id(workers: Workers) -> str:
    """The id of a node, or the identity and how many workers it has."""
    first = workers[0].info.id
    if len(workers) == 1:
        return first
    return f"{owner_of(first)} ({len(workers)} workers)"


def line_name(workers: Workers) -> str:
    """The name that all have; each worker is named by its id if it has no other name."""
    if len(workers) == 1:
        return workers[0].info.name
    return _common(
        owner_of(w.info.id) if w.info.name == w.info.id else w.info.name for w in workers
    )


def line_type(workers: Workers) -> str:
    """The type that all workers have; a policy finds none if they do not agree."""
    return _common(worker.info.type for worker in workers)


def line_address(workers: Workers) -> str:
    """The address of the first, and how many others there are."""
    others = len(workers) - 1
    return workers[0].info.address + (f" +{others}" if others else "")


def line_state(states: Sequence[str]) -> tuple[str, str]:
    """The worst state as it is shown, with how many are in it, and the state itself."""
    counts = Counter(states)
    worst = next((state for state in _FROM_BAD_TO_GOOD if state in counts), states[0])
    if len(counts) == 1:
        return worst, worst
    return f"{counts[worst]} of {len(states)} {worst}", worst


def _common(values: Iterable[str]) -> str:
    found = set(values)
    return found.pop() if len(found) == 1 else "-"
