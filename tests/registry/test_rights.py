"""etcd with authentication: rights go by the common names of certificates."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from aegis_core.aio import Node
from aegis_discovery import ConnectError
from aegis_discovery.aio import connect

from .etcd import Etcd

READ, READ_AND_WRITE = 0, 2


def text(number: int, value: bytes | str) -> bytes:
    """Returns a field of bytes in the encoding of protobuf; all of these are short."""
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(data)]) + data


async def allow(etcd: Etcd, root: Any, users: dict[str, str]) -> None:
    """Turns authentication on: nodes may write the keys of meshes, and clients read them."""
    async with etcd.member(root) as member:

        async def call(method: str, request: bytes = b"") -> None:
            await member._channel.unary_unary(f"/etcdserverpb.Auth/{method}")(request, timeout=10)

        for role, kind in (("nodes", READ_AND_WRITE), ("clients", READ)):
            await call("RoleAdd", text(1, role))
            permission = bytes([8, kind]) + text(2, "aegis/") + text(3, "aegis0")
            await call("RoleGrantPermission", text(1, role) + text(2, permission))
        for user, role in {"root": "root", **users}.items():
            await call("UserAdd", text(1, user) + text(3, bytes([8, 1])))
            await call("UserGrantRole", text(1, user) + text(2, role))
        await call("AuthEnable")


@pytest.mark.soak
async def test_rights_go_by_common_name(start_etcd, identity, ca, until, caplog):
    etcd, root = start_etcd(), identity("root")
    await etcd.wait_ready(root)
    await allow(etcd, root, {"a": "nodes", "b": "nodes", "client": "clients"})

    def node(node_id: str) -> Node:
        return Node(
            node_id,
            address="127.0.0.1:0",
            tls=identity(node_id),
            registry=etcd.url,
            join_timeout=0.5,
        )

    async with node("a") as a, connect(registry=etcd.url, tls=identity("client")) as client:
        async with node("b"):
            await until(lambda: list(client.topology.nodes) == ["a", "b"])
        await until(lambda: list(client.topology.nodes) == ["a"])
        # A client may read only, and a member without rights not even that.
        async with node("client"):
            await until(lambda: "etcd refuses to write aegis/aegis/nodes/client" in caplog.text)
        async with node("stranger") as stranger:
            assert list(stranger.topology.nodes) == ["stranger"]
        with pytest.raises(ConnectError, match="permission denied"):
            await connect(registry=etcd.url, tls=identity("stranger"), timeout=1)
        # The certificate of a token has no common name.
        async with etcd.member(ca.create_token("c").tls()) as member:
            for what in (member.put(b"aegis/x", b"x", 0), member.delete(b"aegis/x")):
                with pytest.raises(grpc.aio.AioRpcError, match=r"permission denied|user name"):
                    await what
        assert list(a.topology.nodes) == ["a"]
