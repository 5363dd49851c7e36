import pytest
from aegis_discovery import ConnectError, InvalidAddressError, connect
from aegis_discovery.registry import Keys, parse_registry
from aegis_discovery.transport import SeedPeer


def test_an_address_names_the_members_and_the_prefix():
    address = parse_registry("etcd://etcd-1@10.0.0.5:2379,10.0.0.6:2379/prod/aegis/")
    assert address.endpoints == (SeedPeer("10.0.0.5:2379", "etcd-1"), SeedPeer("10.0.0.6:2379"))
    assert address.prefix == "prod/aegis"
    assert str(address) == "etcd://etcd-1@10.0.0.5:2379,10.0.0.6:2379/prod/aegis"


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.5:2379",
        "http://10.0.0.5:2379/aegis",
        "etcd://10.0.0.5:2379",
        "etcd://10.0.0.5:2379/",
        "etcd://10.0.0.5/aegis",
        "etcd:///aegis",
        "etcd://10.0.0.5:2379/a b",
        "etcd://" + ",".join(f"10.0.0.{n}:2379" for n in range(1, 18)) + "/aegis",
    ],
)
def test_an_address_of_another_form_is_refused(text):
    with pytest.raises(InvalidAddressError):
        parse_registry(text)


def test_a_client_follows_seed_peers_or_a_registry_and_not_both():
    with pytest.raises(ConnectError, match="one of the two"):
        connect("127.0.0.1:1", registry="etcd://127.0.0.1:2379/aegis", node_id="a")


def test_keys_are_read_as_they_are_made():
    keys = Keys("prod", "my/mesh")
    for key, names in (
        (keys.node("orders-1#2"), ("orders-1#2",)),
        (keys.verdict("a", "b"), ("a", "b")),
        (keys.document("crl:CN=a/b, O=c"), ("crl:CN=a/b, O=c",)),
    ):
        assert keys.start <= key < keys.end
        parsed = keys.parse(key)
        assert parsed is not None
        assert parsed.names == names


@pytest.mark.parametrize(
    "rest",
    [
        b"nodes/",
        b"nodes/a/b",
        b"nodes/a%2fb",
        b"nodes/%61",
        b"nodes/A B",
        b"nodes/\xff",
        b"verdicts/a",
        b"other/a",
        b"nodes/" + b"a" * 2000,
        b"",
    ],
)
def test_a_key_that_no_process_of_a_mesh_writes_has_no_meaning(rest):
    assert Keys("prod", "mesh").parse(b"prod/mesh/" + rest) is None


def test_a_key_of_another_mesh_has_no_meaning():
    assert Keys("prod", "mesh").parse(Keys("prod", "mesh2").node("a")) is None
