from __future__ import annotations

import pytest
from aegis_core import ConfigError, PeerInfo
from aegis_core._address import bound_address, published_address
from aegis_discovery.transport import join_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:50051", ("::1", 50051)), ("a.b:1", ("a.b", 1))],
)
def test_addresses_split_and_join(address: str, expected: tuple[str, int]) -> None:
    assert bound_address(address) == expected
    assert join_address(*expected) == address


INVALID_ADDRESSES = (
    *("", "a", "a:", ":1", "a:b", "a:65536", "::1:50051", "[::1:5", "[[::1]]:5", "[x]:1"),
    *("h:\u0663", "a b/../c:1", "a..b:1", "a\n2026 ERROR:1", "unix:1"),
)


@pytest.mark.parametrize("address", INVALID_ADDRESSES)
def test_an_invalid_address_is_refused_with_the_name_of_its_option(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^address: "):
        bound_address(address)
    with pytest.raises(ConfigError, match=r"^address: "):
        PeerInfo("a", address)


@pytest.mark.parametrize(
    ("bind", "advertise", "expected"),
    [
        ("127.0.0.1:0", None, "127.0.0.1:77"),
        ("[::1]:0", None, "[::1]:77"),
        ("0.0.0.0:0", "10.0.0.7:0", "10.0.0.7:77"),
        ("0.0.0.0:0", "node.example:9000", "node.example:9000"),
    ],
)
def test_the_bound_port_is_published(bind: str, advertise: str | None, expected: str) -> None:
    assert published_address(bind, advertise, 77) == expected


@pytest.mark.parametrize(
    ("bind", "advertise"), [("0.0.0.0:1", None), ("[::]:1", None), ("127.0.0.1:1", "0.0.0.0:1")]
)
def test_an_address_that_cannot_be_dialled_is_refused(bind: str, advertise: str | None) -> None:
    with pytest.raises(ConfigError, match="advertise"):
        published_address(bind, advertise, 1)


def test_a_peer_needs_an_address_to_dial() -> None:
    with pytest.raises(ConfigError, match="no port"):
        PeerInfo("a", "127.0.0.1:0")
