from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from aegis_core import PeerInfo
from aegis_core._peers.directory import PeerDirectory
from aegis_discovery import NodeInfo, NodeStatus


@dataclass
class Record:
    stamp: int
    info: NodeInfo | None
    voucher: str = ""


@dataclass
class View:
    """What a directory asks of a topology."""

    owner: str = "a"
    records: dict[str, Record] = field(default_factory=dict)

    def get_record(self, node_id: str) -> Record | None:
        return self.records.get(node_id)

    def get_node(self, node_id: str) -> NodeInfo | None:
        return self.records[node_id].info if node_id in self.records else None


def directory(status: NodeStatus, address: str = "10.0.0.2:1") -> tuple[PeerDirectory, View]:
    view = View(records={"b": Record(5, NodeInfo("b", address="10.0.0.2:1", status=status))})
    found = PeerDirectory(view, on_change=lambda: None)  # type: ignore[arg-type]  # the part it uses
    found.add(PeerInfo("b", address))
    return found, view


def test_a_peer_added_at_the_address_that_it_publishes_is_left_to_membership() -> None:
    peers, _ = directory(NodeStatus.ALIVE)
    assert peers.wanted([], {}) == {}
    assert peers.wanted([], {"b": "eu"})["b"][1] == "eu", "a bridge's feed stays limited"


@pytest.mark.parametrize(
    ("status", "address"),
    [(NodeStatus.ALIVE, "10.0.0.9:1"), (NodeStatus.FAILED, "10.0.0.2:1")],
)
def test_a_peer_added_elsewhere_or_after_its_failure_has_a_feed_until_it_publishes(
    status: NodeStatus, address: str
) -> None:
    peers, view = directory(status, address)
    assert peers.wanted([], {}) == {"b": (PeerInfo("b", address), None)}
    view.records["b"].stamp = 6
    assert peers.wanted([], {}) == {}


def test_a_node_that_has_left_is_dialled_if_it_was_added_and_is_known_to_have_left() -> None:
    peers, view = directory(NodeStatus.ALIVE)
    assert not peers.has_left("b")
    assert not peers.has_left("never heard of")
    view.records["b"] = Record(6, None)
    assert peers.has_left("b")
    assert list(peers.wanted([], {})) == ["b"]
