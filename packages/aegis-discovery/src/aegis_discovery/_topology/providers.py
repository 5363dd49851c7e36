"""Who provides which service, and what changed in that."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, TypeAlias

from aegis_discovery._model import NodeInfo, NodeStatus
from aegis_discovery._topology.nodes import NodeList

Key: TypeAlias = tuple[str, str]
"""The name and the version of a service."""

MAX_LOG = 1024
"""Changes that are remembered. Who is further behind reads all providers again, which costs no more
than that many single changes."""


class ProviderChange(NamedTuple):
    """One provider that changed: as it is now, or None if it does not declare the service any more.

    A node with the status `FAILED` provides nothing, but is not gone.
    """

    service: Key
    node_id: str
    node: NodeInfo | None


class ProviderChanges(NamedTuple):
    """The providers that changed, each once, and the position that a reader reaches with them."""

    position: int
    providers: list[ProviderChange]


class _Providers(NodeList):
    """The providers of one service, and the position of their last change."""

    __slots__ = ("changed_at",)

    def __init__(self) -> None:
        super().__init__()
        self.changed_at = 0


class ProviderIndex:
    """The providers of each service, so that no query scans all nodes, and a log of their changes.

    Failed nodes provide nothing. They are kept apart, because callers need to know how much of what
    is near them has failed.

    Attributes:
        position: Counts the changes. It may be read without a lock: whoever sees its old value
            asked before the change.
    """

    __slots__ = ("_failed", "_log", "_of_name", "_providers", "_versions", "position")

    def __init__(self) -> None:
        self.position = 0
        self._log: deque[tuple[Key, str]] = deque(maxlen=MAX_LOG)
        self._providers: dict[Key, _Providers] = {}
        self._failed: dict[Key, dict[str, NodeInfo]] = {}
        self._versions: dict[str, set[str]] = {}
        self._of_name: dict[str, tuple[NodeInfo, ...]] = {}

    def change(self, before: NodeInfo | None, after: NodeInfo | None) -> None:
        """Follows the change of a node; None means that there is none."""
        declared: set[Key] = set() if after is None else _declared_by(after)
        if before is not None:
            has_failed = _has_failed(before)
            stays = after is not None and has_failed is _has_failed(after)
            for key in _declared_by(before) - (declared if stays else set()):
                (self._remove_failed if has_failed else self._remove)(key, before.id)
        if after is not None:
            put = self._put_failed if _has_failed(after) else self._put
            for key in declared:
                put(key, after)

    def get(self, name: str, version: str) -> tuple[NodeInfo, ...] | None:
        """Returns the answer of `find` if it is at hand; needs no lock."""
        providers = self._providers.get((name, version))
        return () if providers is None else providers.answer

    def changed_at(self, name: str, version: str) -> int:
        """Returns the position of a service's last change, 0 without providers; needs no lock."""
        providers = self._providers.get((name, version))
        return 0 if providers is None else providers.changed_at

    def find(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the providers in the order of their ids: the same object until one changes."""
        providers = self._providers.get((name, version))
        return () if providers is None else providers.all()

    def failed(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the nodes that would provide a service and have failed; needs no lock."""
        return tuple(self._failed.get((name, version), {}).values())

    def find_name(self, name: str) -> tuple[NodeInfo, ...]:
        """Returns the providers of any version, as `find`."""
        found = self._of_name.get(name)
        if found is None:
            versions = self._versions.get(name, ())
            answers = [self.find(name, version) for version in versions]
            if not answers:
                return ()
            if len(answers) == 1:
                return answers[0]
            by_id = {node.id: node for answer in answers for node in answer}
            found = tuple(by_id[node_id] for node_id in sorted(by_id))
            self._of_name[name] = found
        return found

    def versions(self, name: str) -> tuple[str, ...]:
        """Returns the versions of a service that have a provider, sorted."""
        return tuple(sorted(self._versions.get(name, ())))

    def changes_since(self, position: int) -> ProviderChanges | None:
        """Returns what changed after a position.

        Returns None if that is too long ago: then all providers have to be read again.
        """
        count = self.position - position
        if not 0 <= count <= len(self._log):
            return None
        # Counted from the end, where a deque is read at once.
        changed = dict.fromkeys(self._log[number] for number in range(-count, 0))
        return ProviderChanges(
            self.position,
            [ProviderChange(key, node_id, self._get(key, node_id)) for key, node_id in changed],
        )

    def _get(self, key: Key, node_id: str) -> NodeInfo | None:
        providers = self._providers.get(key)
        node = None if providers is None else providers.get(node_id)
        return node or self._failed.get(key, {}).get(node_id)

    def _put(self, key: Key, node: NodeInfo) -> None:
        providers = self._providers.get(key)
        if providers is None:
            providers = self._providers[key] = _Providers()
            self._versions.setdefault(key[0], set()).add(key[1])
        providers.put(node)
        # As `_note`, whose calls cost as much as its work: a join comes here for each service.
        self._of_name.pop(key[0], None)
        self._log.append((key, node.id))
        self.position = providers.changed_at = self.position + 1

    def _remove(self, key: Key, node_id: str) -> None:
        providers = self._providers[key]
        providers.remove(node_id)
        self._note(key, node_id, providers)
        if not providers:
            del self._providers[key]
            versions = self._versions[key[0]]
            versions.remove(key[1])
            if not versions:
                del self._versions[key[0]]

    def _put_failed(self, key: Key, node: NodeInfo) -> None:
        self._failed.setdefault(key, {})[node.id] = node
        self._log_change(key, node.id)

    def _remove_failed(self, key: Key, node_id: str) -> None:
        failed = self._failed[key]
        del failed[node_id]
        if not failed:
            del self._failed[key]
        self._log_change(key, node_id)

    def _note(self, key: Key, node_id: str, providers: _Providers) -> None:
        self._of_name.pop(key[0], None)
        self._log_change(key, node_id)
        providers.changed_at = self.position

    def _log_change(self, key: Key, node_id: str) -> None:
        self._log.append((key, node_id))
        self.position += 1


def _has_failed(node: NodeInfo) -> bool:
    return node.status is NodeStatus.FAILED


def _declared_by(node: NodeInfo) -> set[Key]:
    return {(service.name, service.version) for service in node.services}
