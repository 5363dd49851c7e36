"""What is done where the CA's key is reaches machines that have directories of their own."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_cli.cli import aegis
from aegis_core.aio import Node
from aegis_discovery import NodeStatus, NoProvidersError
from aegis_discovery import connect as blocking_connect
from aegis_discovery.aio import connect
from aegis_discovery.aio.transport import open_channel
from click.testing import CliRunner, Result

each_server = pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)

ALL = '[[provide]]\nservices = ["*"]\nids = ["*"]\n'
OPEN = ALL + '[[call]]\nservices = ["*"]\nids = ["*"]\n'
FRIENDS = ALL + '[[call]]\nservices = ["test.Echo"]\nids = ["friend*"]\n'


class Machines:
    """Machines with directories of their own; the first one has the CA."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "ca"
        self.ca = CertificateAuthority.create(self.directory, key_type=KeyType.P256)
        self.nodes: list[Node] = []

    async def start(self, node_id: str, *, issuer: bool = False, **options: Any) -> Node:
        directory = self.directory
        self.ca.issue(node_id, key_type=KeyType.P256)
        if not issuer:
            directory = self.root / node_id
            directory.mkdir(mode=0o700, exist_ok=True)
            for name in ("ca-cert.pem", f"{node_id}-cert.pem", f"{node_id}-key.pem"):
                shutil.copy(self.directory / name, directory / name)
            options["seed_peers"] = [self.nodes[0].address]
        node = Node(node_id, address="127.0.0.1:0", cert_dir=directory, issuer=issuer, **options)
        await node.start()
        self.nodes.append(node)
        return node

    async def run(self, *words: str) -> Result:
        """Runs `aegis` where the CA's key is."""
        command = [*words, "--cert-dir", str(self.directory)]
        return await asyncio.to_thread(CliRunner().invoke, aegis, command)

    def write(self, policy: str) -> str:
        path = self.root / "policy.toml"
        path.write_text(policy)
        return str(path)


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Machines]:
    machines = Machines(tmp_path)
    yield machines
    await asyncio.gather(*(node.stop(grace=0) for node in machines.nodes))


async def code_of(machines: Machines, caller: str, node: Node) -> grpc.StatusCode:
    tls = machines.ca.issue_in_memory(caller)
    async with open_channel(tls, node.id, node.address) as channel:
        code: grpc.StatusCode = await channel.unary_unary("/test.Echo/Say")(b"x", timeout=10).code()
        return code


async def eventually(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def becomes(machines: Machines, caller: str, node: Node, code: grpc.StatusCode) -> None:
    async def is_so() -> bool:
        return await code_of(machines, caller, node) is code

    await eventually(is_so)


@each_server
@pytest.mark.usefixtures("server")
async def test_a_published_policy_is_in_force_everywhere_and_after_a_restart(
    machines: Machines, provider: Any, until: Any
) -> None:
    await machines.start("ca-1", issuer=True)
    a = await machines.start("a", **provider("a"))
    assert await code_of(machines, "stranger", a) is grpc.StatusCode.OK
    result = await machines.run("policy", "publish", machines.write(FRIENDS))
    assert result.exit_code == 0, result.output
    await becomes(machines, "stranger", a, grpc.StatusCode.PERMISSION_DENIED)
    assert await code_of(machines, "friend-1", a) is grpc.StatusCode.OK
    kept = machines.root / "a" / "documents"
    await until(lambda: list(kept.glob("policy-*")))
    await a.stop()
    machines.nodes.remove(a)
    # Nobody is there to tell it, and its directory has what it needs.
    alone = Node(
        "a",
        address="127.0.0.1:0",
        cert_dir=machines.root / "a",
        seed_peers=["127.0.0.1:9"],
        join_timeout=0.1,
        **provider("a"),
    )
    await alone.start()
    machines.nodes.append(alone)
    await becomes(machines, "friend-1", alone, grpc.StatusCode.OK)
    assert await code_of(machines, "stranger", alone) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_nodes_own_policy_can_only_be_stricter(
    machines: Machines, provider: Any, tmp_path: Path
) -> None:
    await machines.start("ca-1", issuer=True)
    own = tmp_path / "own.toml"
    own.write_text(FRIENDS.replace("friend*", "friend-1"))
    a = await machines.start("a", policy=own, **provider("a"))
    await machines.run("policy", "publish", machines.write(FRIENDS.replace("friend*", "*")))
    node = f"a@{a.address}"
    check = ("policy", "check", str(own), "call", "friend-2", "test.Echo/Say", "--node", node)

    async def is_published() -> bool:
        return "published policy: none" not in (await machines.run(*check)).output

    await eventually(is_published)
    result = await machines.run(*check)
    assert result.exit_code == 1
    assert "denied: the node's own policy: call rule 1" in result.output
    assert "the node has it" in result.output
    assert "the given file" in result.output
    assert await code_of(machines, "friend-2", a) is grpc.StatusCode.PERMISSION_DENIED
    assert await code_of(machines, "friend-1", a) is grpc.StatusCode.OK

    await machines.run("policy", "publish", machines.write(FRIENDS.replace("friend*", "nobody")))
    await becomes(machines, "friend-1", a, grpc.StatusCode.PERMISSION_DENIED)
    ask = ("policy", "check", "call", "friend-1", "test.Echo/Say", "--node", node, "--json")
    result = await machines.run(*ask)
    facts = json.loads(result.output)
    assert not facts["allowed"]
    issuer = f"ca-1@{machines.nodes[0].address}"
    ignored = await machines.run(*check[:-1], issuer)
    assert "the given file is not in force there" in ignored.output
    assert "denied: call rule 1 (line 4) is for other ids" in ignored.output
    assert facts["node"]["own"]
    assert facts["node"]["published_sequence"] == facts["node"]["node_sequence"]


async def test_a_blocking_client_follows_what_is_published(
    machines: Machines, provider: Any, until: Any
) -> None:
    await machines.start("ca-1", issuer=True)
    a = await machines.start("a", **provider("a"))
    tls = machines.ca.issue_in_memory("friend-1")
    client = await asyncio.to_thread(blocking_connect, a.address, tls=tls)
    try:
        echo = client.pool.channel("echo", "v1").unary_unary("/test.Echo/Say")
        await asyncio.to_thread(echo, b"x", timeout=10)
        nobody = FRIENDS.replace('ids = ["*"]', 'ids = ["nobody"]')
        await machines.run("policy", "publish", machines.write(nobody))
        await until(lambda: client.documents.policy is not None)

        def is_denied() -> bool:
            try:
                echo(b"x", timeout=10)
            except NoProvidersError:
                return True
            return False

        async def denied() -> bool:
            return await asyncio.to_thread(is_denied)

        await eventually(denied)
        machines.ca.revoke("a")
        await until(lambda: "a" not in client.topology.nodes)
    finally:
        await asyncio.to_thread(client.close)


async def test_a_failed_node_is_forgotten_and_one_that_is_alive_is_not(
    machines: Machines, until: Any
) -> None:
    issuer = await machines.start("ca-1", issuer=True)
    a, b = await machines.start("a"), await machines.start("b")
    views = [issuer.topology, a.topology]
    await until(lambda: all("b" in view.nodes for view in views))
    ask = ("mesh", "forget", "b", "--node", a.address)
    result = await machines.run(*ask)
    assert result.exit_code != 0
    assert "it is alive; stop it first" in result.output
    await b._parts.stop(0, leave=False)
    await until(lambda: all(view.nodes["b"].status is NodeStatus.FAILED for view in views))
    async with connect(a.address, tls=machines.ca.issue_in_memory("cl")) as client:
        result = await machines.run(*ask)
        assert result.exit_code == 0, result.output
        assert "b is forgotten." in result.output
        await until(lambda: all("b" not in view.nodes for view in [*views, client.topology]))
        machines.nodes.remove(b)
        again = await machines.start("b")
        views += [again.topology, client.topology]
        await until(lambda: all("b" in view.nodes for view in views))
    assert (
        "knows no node x" in (await machines.run("mesh", "forget", "x", "--node", a.address)).output
    )


async def test_commands_that_need_the_key_of_the_ca_say_so(
    machines: Machines, tmp_path: Path
) -> None:
    elsewhere = str(tmp_path)
    for words in (
        ("policy", "publish", machines.write(OPEN)),
        ("mesh", "forget", "a", "--node", "127.0.0.1:1"),
    ):
        result = await asyncio.to_thread(
            CliRunner().invoke, aegis, [*words, "--cert-dir", elsewhere]
        )
        assert result.exit_code != 0
        assert "run this command where the CA's key is" in result.output
    result = await machines.run("policy", "publish", machines.write("[[call"))
    assert result.exit_code == 2
    assert not (machines.directory / "documents").exists()


@pytest.mark.soak
async def test_a_revocation_is_enforced_on_twenty_nodes_within_five_seconds(
    machines: Machines, until: Any, provider: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    await machines.start("ca-1", issuer=True)
    for number in range(20):
        node_id = f"node-{number:02}"
        await machines.start(node_id, **provider(node_id))
    nodes = machines.nodes[1:]
    tls = machines.ca.issue("thief", key_type=KeyType.P256)
    await until(lambda: all(len(node.topology.nodes) == 21 for node in machines.nodes))
    channels = [open_channel(tls, node.id, node.address) for node in nodes]
    calls = [channel.unary_unary("/test.Echo/Say") for channel in channels]
    assert {await call(b"x", timeout=10).code() for call in calls} == {grpc.StatusCode.OK}

    began = time.monotonic()
    machines.ca.revoke("thief")
    refused: set[int] = set()
    while len(refused) < len(nodes):
        for number, call in enumerate(calls):
            if number not in refused:
                code = await call(b"x", timeout=10).code()
                if code is grpc.StatusCode.UNAUTHENTICATED:
                    refused.add(number)
        assert time.monotonic() - began < 60
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\n20 nodes refuse a revoked caller after {seconds:.2f} s")
    for channel in channels:
        await channel.close()
    lists = [machines.root / node.id / "crl.pem" for node in nodes]
    await until(lambda: all(path.exists() for path in lists))
