"""What a registry is to a process of a mesh."""

from __future__ import annotations

from typing import Protocol


class Registry(Protocol):
    """Where the processes of a mesh publish their signed records, and learn those of all others.

    The feed with its rings is the one that every node has. A registry writes what it learns into a
    topology, as verified records, verdicts and documents; who is alive follows from the verdicts.
    """

    async def run(self) -> None:
        """Publishes what this process signs, and follows all others, until it is cancelled.

        If the registry is away, it goes on trying: what is known stays known.
        """

    async def say_goodbye(self, aware: frozenset[str]) -> None:
        """Publishes the tombstone of this node, for a few seconds at most.

        Args:
            aware: The nodes that have it already.
        """
