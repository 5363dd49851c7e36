"""What a running node remembers of the mesh: frozen values that are parts of its statistics.

The statistics themselves are loaded when somebody asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class MeshEvent:
    """Something that happened in the mesh, as one node saw it.

    Attributes:
        number: Counts the events of this node since it started.
        at: When the node saw it (UTC).
        kind: `joined`, `updated`, `suspected`, `failed`, `recovered`, `left`, `expired`, `revoked`
            or `forgotten` for a node; `document`, `policy` or `identity` for the node that saw it.
        node_id: The node that it is about; empty for the node that saw it.
        what: What changed, in words. A peer may have written parts of it.
        by: The observers whose verdicts caused it.
    """

    number: int
    at: datetime
    kind: str
    node_id: str
    what: str
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeStanding:
    """The status of another node, as this one derived it.

    Attributes:
        id: The other node.
        status: Its status.
        since: When it got it (UTC).
        by: The observers whose verdicts caused it; none for a node that recovered.
    """

    id: str
    status: str
    since: datetime
    by: tuple[str, ...]
