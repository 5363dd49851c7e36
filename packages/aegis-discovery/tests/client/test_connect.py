from __future__ import annotations

import socket
from typing import Any

import pytest
from aegis_discovery import ConnectError, NodeInfo, NodeStatus, ServiceInfo, aio, connect
from aegis_discovery._client.bootstrap import check_services, feed_candidates
from aegis_discovery.transport import SeedPeer, resolve_seed

SEEDS = (SeedPeer("10.0.0.9:1"), SeedPeer("10.0.0.1:1", "a"))
ALIVE, FAILED = NodeStatus.ALIVE, NodeStatus.FAILED


def node(node_id: str, number: int, status: NodeStatus = ALIVE, **options: Any) -> NodeInfo:
    return NodeInfo(node_id, address=f"10.0.0.{number}:1", status=status, **options)


def test_alive_nodes_are_asked_first_then_seed_peers_then_failed_nodes() -> None:
    nodes = [node("dead", 4, FAILED), node("b", 2), node("a", 1), node("go", 3, vouched_by="a")]
    found = [str(peer) for peer in feed_candidates(nodes, SEEDS, None)]
    assert sorted(found[:2]) == ["a@10.0.0.1:1", "b@10.0.0.2:1"]
    assert found[2:] == ["10.0.0.9:1", "dead@10.0.0.4:1"], "each peer once"


def test_alive_nodes_of_the_own_region_are_asked_before_others() -> None:
    nodes = [node(name, number, region=name[:2]) for number, name in enumerate(("us1", "eu1"))]
    nodes += [node("eu2", 2, FAILED, region="eu"), node("none", 3)]
    found = [peer.node_id for peer in feed_candidates(nodes, SEEDS[:1], None, "eu")]
    assert (found[0], set(found[1:3]), found[3:]) == ("eu1", {"us1", "none"}, [None, "eu2"])


def test_the_last_server_is_asked_first() -> None:
    last = SeedPeer("10.0.0.7:1", "way")
    nodes = [node("a", 1), node("b", 2)]
    assert feed_candidates(nodes, SEEDS, last)[0] == last
    assert feed_candidates(nodes, (), SeedPeer("10.0.0.2:1", "b"))[0].node_id == "b"


def test_a_name_is_resolved_to_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(host: str, port: int, **_: Any) -> list[Any]:
        ips = ["10.0.0.1", "10.0.0.2", "10.0.0.1", "::1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ips]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    found = {str(peer) for peer in resolve_seed(SeedPeer("mesh.test:5", "x"))}
    assert found == {"x@10.0.0.1:5", "x@10.0.0.2:5", "x@[::1]:5"}


@pytest.mark.parametrize("address", ["10.0.0.1:5", "[::1]:5", "name.invalid:5"])
def test_a_seed_peer_with_one_address_or_none_stays_as_it_is(address: str) -> None:
    assert resolve_seed(SeedPeer(address)) == (SeedPeer(address),)


def test_services_that_no_feed_can_be_limited_to_are_refused() -> None:
    assert check_services([ServiceInfo("a", "")]) == (ServiceInfo("a", ""),)
    with pytest.raises(ConnectError, match="has no name"):
        check_services([ServiceInfo("", "v1")])
    with pytest.raises(ConnectError, match=r"'xxxx.*256 characters at most"):
        check_services([ServiceInfo("x" * 257, "v1")])


@pytest.mark.parametrize("services", ["stock", ServiceInfo("stock", "v1"), ["stock"]])
def test_services_of_the_wrong_type_are_refused_with_what_to_give(services: Any) -> None:
    with pytest.raises(ConnectError, match=r"is not a list of services; give \[ServiceInfo\("):
        connect("127.0.0.1:1", services=services)


def test_seed_peers_in_a_list_are_refused_with_what_to_give() -> None:
    peers: Any = ["127.0.0.1:1"]
    with pytest.raises(ConnectError, match="give each as an argument of its own"):
        connect(peers)


async def test_the_error_of_an_unknown_keyword_names_connect() -> None:
    wrong: Any = {"node": "client"}
    for face in (connect, aio.connect):
        with pytest.raises(TypeError, match=r"^connect\(\) got an unexpected keyword .*'node'"):
            await face("127.0.0.1:1", **wrong)


@pytest.mark.parametrize("name", ["region", "zone"])
def test_a_place_without_a_printable_short_name_is_refused(name: str) -> None:
    for value, problem in (("a\nb", "is not printable text"), ("x" * 65, "has 65 bytes")):
        with pytest.raises(ConnectError, match=f"^{name}: .*{problem}"):
            connect("127.0.0.1:1", node_id="client", **{name: value})
