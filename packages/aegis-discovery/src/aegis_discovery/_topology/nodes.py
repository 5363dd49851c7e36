"""Nodes in the order of their ids: a list that changes, and snapshots of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from operator import attrgetter

from aegis_discovery._model import NodeInfo

_node_id = attrgetter("id")


class NodeList:
    """Nodes in the order of their ids. A change costs a search in it, and an answer one copy.

    Attributes:
        answer: All nodes, if they were asked for since the last change; may be read without a lock.
    """

    __slots__ = ("_nodes", "answer")

    def __init__(self) -> None:
        self._nodes: list[NodeInfo] = []
        self.answer: tuple[NodeInfo, ...] | None = ()

    def __len__(self) -> int:
        return len(self._nodes)

    def copy(self) -> NodeList:
        """Returns a list of the same nodes that changes on its own."""
        copied = NodeList()
        copied._nodes, copied.answer = list(self._nodes), self.answer
        return copied

    def get(self, node_id: str) -> NodeInfo | None:
        """Returns the node of this id, or None."""
        at = _position(self._nodes, node_id)
        return self._nodes[at] if _is_at(self._nodes, at, node_id) else None

    def put(self, node: NodeInfo) -> None:
        """Adds a node, or replaces the one with its id."""
        nodes, node_id = self._nodes, node.id
        self.answer = None
        if not nodes or node_id > nodes[-1].id:  # a feed of many nodes often has them in this order
            nodes.append(node)
            return
        at = _position(nodes, node_id)
        if nodes[at].id == node_id:
            nodes[at] = node
        else:
            nodes.insert(at, node)

    def remove(self, node_id: str) -> bool:
        """Removes a node; returns whether it was there."""
        at = _position(self._nodes, node_id)
        if not _is_at(self._nodes, at, node_id):
            return False
        del self._nodes[at]
        self.answer = None
        return True

    def all(self) -> tuple[NodeInfo, ...]:
        """Returns all nodes: the same object until one of them changes."""
        answer = self.answer
        if answer is None:
            answer = self.answer = tuple(self._nodes)
        return answer


class NodeMap(Mapping[str, NodeInfo]):
    """Nodes by id, in the order of their ids; it never changes.

    Attributes:
        nodes: The nodes.
    """

    __slots__ = ("nodes",)

    def __init__(self, nodes: tuple[NodeInfo, ...]) -> None:
        self.nodes = nodes

    def __getitem__(self, node_id: str) -> NodeInfo:
        if isinstance(node_id, str):
            at = _position(self.nodes, node_id)
            if _is_at(self.nodes, at, node_id):
                return self.nodes[at]
        raise KeyError(node_id)

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[str]:
        return map(_node_id, self.nodes)

    def values(self) -> ValuesView[NodeInfo]:
        return _Nodes(self)

    def items(self) -> ItemsView[str, NodeInfo]:
        return _Items(self)

    def __repr__(self) -> str:
        return f"NodeMap({dict(self)!r})"


class _Nodes(ValuesView[NodeInfo]):
    """The nodes of a map, without a search for each of them."""

    _mapping: NodeMap

    def __iter__(self) -> Iterator[NodeInfo]:
        return iter(self._mapping.nodes)


class _Items(ItemsView[str, NodeInfo]):
    """The same with their ids."""

    _mapping: NodeMap

    def __iter__(self) -> Iterator[tuple[str, NodeInfo]]:
        return zip(self._mapping, self._mapping.nodes, strict=True)


def _position(nodes: Sequence[NodeInfo], node_id: str) -> int:
    return bisect_left(nodes, node_id, key=_node_id)


def _is_at(nodes: Sequence[NodeInfo], at: int, node_id: str) -> bool:
    return at < len(nodes) and nodes[at].id == node_id
