"""Stops a node when the CA of its mesh, or an operator, orders it to drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aegis_discovery.documents import Change, DocumentKind

from aegis_core._state import NodeState


def stop_when_drained(state: NodeState, stop: Callable[[str], None]) -> None:
    """Calls `stop`, on the event loop, when this process is ordered to drain.

    The order names one life of a node: a process that starts later under the same id serves.
    """
    loop = asyncio.get_running_loop()
    own = state.node_id, state.instance

    def on_change(change: Change) -> None:
        if change.document.kind is not DocumentKind.DRAIN:
            return
        if any((one.node_id, one.instance) == own for one in state.documents.drained):
            loop.call_soon_threadsafe(stop, "an order to drain, signed by the CA of the mesh")

    state.documents.subscribe(on_change)
    state.drain = stop
