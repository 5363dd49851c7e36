"""How many nodes a topology holds, and how many one node may vouch for."""

from __future__ import annotations

from aegis_certs import owner_of

from aegis_discovery._topology.store import RecordStore

MAX_NODES = 20_000
"""Nodes that a topology holds: twice the largest mesh that is tested, some 60 MB of records."""

MAX_VOUCHED = 256
"""Nodes that one identity may vouch for. Without a limit it could fill the mesh with fake ones."""

MAX_VOUCHED_IDS = 8 * MAX_VOUCHED
"""As `MAX_VOUCHED`, but with the removed ones, whose tombstones are kept for some 25 hours.

It lets a voucher replace each of its nodes seven times a day.
"""


def holds_max_nodes(store: RecordStore) -> bool:
    """Tells whether records of further nodes are dropped."""
    return store.live >= MAX_NODES


def exceeded_limit(store: RecordStore, node_id: str, voucher: str | None, *, is_node: bool) -> str:
    """Returns the limit that a record, or a tombstone, would exceed; empty if it has room.

    Tombstones do not count as nodes: a mesh that often replaces its nodes has many. Tombstones that
    nodes sign themselves are bounded by the certificates. A voucher could invent any number of ids,
    so all of them count, and an id that it removes keeps its place.
    """
    if voucher is None and not holds_max_nodes(store):
        return ""
    held = store.get_record(node_id)
    holds_node = held is not None and held.info is not None
    if voucher is not None:
        voucher = owner_of(voucher)
        is_known = held is not None and owner_of(held.voucher or "") == voucher
        vouched = store.vouched[voucher]
        if is_node and not (is_known and holds_node) and vouched >= MAX_VOUCHED:
            return f"{voucher} vouches for {MAX_VOUCHED} nodes, the most it may"
        if not is_known and vouched + store.withdrawn[voucher] >= MAX_VOUCHED_IDS:
            return f"{voucher} vouched for {MAX_VOUCHED_IDS} nodes in a day, the most it may"
        if not is_node and is_known:
            return ""
    if is_node and not holds_node and holds_max_nodes(store):
        return f"the topology holds {MAX_NODES} nodes, the most it may"
    is_invented = voucher is not None and not is_node and (held is None or holds_node)
    if is_invented and store.removed >= MAX_NODES:
        return f"the topology holds {MAX_NODES} removed nodes, the most it may"
    return ""
