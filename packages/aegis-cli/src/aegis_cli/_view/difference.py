"""`mesh diff`: where the views of two nodes differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table

_COLUMNS = (
    Column("WHAT", folds=True),
    Column("A", folds=True),
    Column("B", folds=True),
)


@dataclass(frozen=True, slots=True)
class Held:
    """What one node holds.

    Attributes:
        node_id: The node.
        digest: The digest of its topology.
        nodes: Facts of each node by its id: words by name.
        documents: Sequences of documents by their kinds.
        policies: The policies that decide there, in words.
    """

    node_id: str
    digest: str
    nodes: Mapping[str, Mapping[str, str]]
    documents: Mapping[str, int]
    policies: Sequence[str]


def difference(a: Held, b: Held) -> Answer:
    """Compares two nodes."""
    lines = [*_nodes(a, b), *_documents(a, b)]
    if list(a.policies) != list(b.policies):
        of_a, of_b = (", ".join(one.policies) or "none" for one in (a, b))
        lines.append(("policies", of_a, of_b))
    same = f"{a.node_id} and {b.node_id} agree on {len(a.nodes)} nodes"
    one, many = "1 difference", f"{len(lines)} differences"
    title = f"{one if len(lines) == 1 else many} between {a.node_id} (A) and {b.node_id} (B)"
    head = [Cell(title, "red") if lines else Cell(same, "green")]
    head.append(Cell(f"A: digest {a.digest[:12]}; B: digest {b.digest[:12]}", "dim"))
    facts: dict[str, Any] = {
        "a": a.node_id,
        "b": b.node_id,
        "digests": [a.digest, b.digest],
        "differences": [{"what": what, "a": left, "b": right} for what, left, right in lines],
    }
    table = Table(_COLUMNS, [[Cell(text) for text in line] for line in lines])
    return Answer(facts, head, table, wrong=len(lines))


def _nodes(a: Held, b: Held) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for node_id in sorted({*a.nodes, *b.nodes}):
        left, right = a.nodes.get(node_id), b.nodes.get(node_id)
        if left is None or right is None:
            a_knows, b_knows = ("not known" if one is None else "known" for one in (left, right))
            found.append((node_id, a_knows, b_knows))
            continue
        found += [
            (f"{node_id}: {name}", value, right.get(name, "-"))
            for name, value in left.items()
            if value != right.get(name)
        ]
    return found


def _documents(a: Held, b: Held) -> list[tuple[str, str, str]]:
    return [
        (f"document {kind}", str(a.documents.get(kind, "-")), str(b.documents.get(kind, "-")))
        for kind in sorted({*a.documents, *b.documents})
        if a.documents.get(kind) != b.documents.get(kind)
    ]
