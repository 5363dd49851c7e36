"""The questions of the guide *Operate a mesh*, asked of one mesh as the guide says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType, PublishedFiles
from aegis_cli.cli import aegis
from aegis_core import FunctionHealthChecker
from aegis_core.aio import Node
from aegis_discovery import NodeStatus, ServiceInfo
from aegis_discovery.documents import publish_policy
from click.testing import CliRunner

GUIDE = Path(__file__).parents[4] / "docs" / "guides" / "operate.md"
POLICY = b'[[provide]]\nservices = ["*"]\nids = ["*"]\n[[call]]\nservices = ["*"]\nids = ["*"]\n'
ORDERS = ServiceInfo("orders", "v1")


def commands() -> dict[str, str]:
    rows = re.findall(r"^\| (.+\?) \| `(aegis [^`]+)` \|$", GUIDE.read_text(), re.MULTILINE)
    return dict(rows)


def register(server: Any) -> None:
    async def get(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if request == b"bad":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
        return request

    handlers = {"Get": grpc.unary_unary_rpc_method_handler(get)}
    service = grpc.method_handlers_generic_handler("orders.v1.Orders", handlers)
    server.add_generic_rpc_handlers((service,))


class Shop:
    """A mesh with an issuer, a caller, two providers, one that failed, and some traffic."""

    def __init__(self, root: Path) -> None:
        self.ca = CertificateAuthority.create(root / "ca", key_type=KeyType.P256)
        self.nodes: dict[str, Node] = {}

    async def start(self, node_id: str, **options: Any) -> Node:
        tls = self.ca.issue(node_id, key_type=KeyType.P256)
        if options.get("issuer"):
            options["cert_dir"] = self.ca.directory
        else:
            options |= {"tls": tls, "seed_peers": [self.nodes["ca-1"].address]}
        node = Node(node_id, address="127.0.0.1:0", **options)
        await node.start()
        self.nodes[node_id] = node
        return node

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AEGIS_NODE": self.nodes["ca-1"].address,
            "AEGIS_CERT_DIR": str(self.ca.directory),
        }

    async def ask(self, command: str, *more: str) -> Any:
        words = [*shlex.split(command)[1:], *more]
        runner = CliRunner(env=self.environment)
        done = await asyncio.to_thread(runner.invoke, aegis, words)
        assert done.exit_code in (0, 8), done.output
        return json.loads(done.output) if "--json" in more else done.output


@pytest.fixture
async def shop(tmp_path: Path, until: Any) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path)
    publish_policy(PublishedFiles(shop.ca.directory), POLICY)
    async with AsyncExitStack() as stack:
        issuer = await shop.start("ca-1", issuer=True)
        front = await shop.start("front", region="eu", zone="b")
        providing = {"services": [ORDERS], "registrars": [register], "region": "eu", "zone": "a"}
        await shop.start("orders-1", **providing)
        ill = FunctionHealthChecker("disk", lambda: False)
        await shop.start("orders-2", **providing, health_checkers=[ill])
        gone = await shop.start("orders-3", **providing)
        for name in ("ca-1", "front", "orders-1", "orders-2"):
            stack.push_async_callback(shop.nodes[name].stop, 0)
        await until(lambda: len(front.topology.nodes) == len(issuer.topology.nodes) == 5)
        await gone._parts.stop(0, leave=False)
        views = [shop.nodes[name].topology for name in ("ca-1", "front", "orders-1")]
        await until(
            lambda: all(view.nodes["orders-3"].status is NodeStatus.FAILED for view in views)
        )
        call = front.pool.channel("orders", "v1").unary_unary("/orders.v1.Orders/Get")
        await asyncio.gather(*(call(b"x", timeout=20) for _ in range(20)))
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"bad", timeout=20)
        yield shop


async def test_each_question_of_the_guide_has_one_command(shop: Shop) -> None:
    asked = commands()
    assert len(asked) == 14
    json_of = {
        question: await shop.ask(command, "--json")
        for question, command in asked.items()
        if not re.search(r"aegis call|forget|drain|--watch|events", command)
    }

    def of(word: str) -> Any:
        return next(value for question, value in json_of.items() if word in question)

    (top,) = of("How many calls")["lines"]
    assert (top["service"], top["calls"], top["failed"]) == ("orders/v1", 21, {"NOT_FOUND": 1})
    assert top["success"] == pytest.approx(20 / 21, abs=1e-4)
    assert 0 < top["p50_ms"] <= top["p99_ms"]
    assert {(e["caller"], e["provider"]) for e in of("Who calls whom")["lines"]} == {
        ("front", "orders-1")
    }
    why = of("Why has a node failed")
    assert (why["status"], why["from_here"]["round_trip_ms"]) == ("failed", None)
    assert {one["opinion"] for one in why["verdicts"] if one["counts"]} >= {"failed"}
    assert of("Do two nodes see")["differences"] == []
    assert of("Which certificate")["certificates"] == []
    assert [one["id"] for one in of("service, zone or status")["nodes"]] == ["orders-2", "orders-1"]
    picture = of("look like")
    assert [(e["caller"], e["provider"]) for e in picture["edges"]] == [("front", "orders-1")]
    (service,) = of("callers avoid")["services"]
    assert service["avoided"] == [{"caller": "front", "provider": "orders-2", "state": "unwell"}]
    loaded = of("policy is loaded")
    assert all(
        [one["source"] for one in node["policies"]] == ["published"] for node in loaded["nodes"]
    )

    for line in (await shop.ask(asked["What changed?"] + " --json")).splitlines():
        event = json.loads(line)
        if (event["kind"], event["node_id"]) == ("failed", "orders-3"):
            assert {"front", "orders-1"} & set(event["by"])
            break
    else:
        pytest.fail("the failure of orders-3 is no event")


@pytest.mark.soak  # an issuer publishes within seconds
async def test_live_answers_and_changes_are_as_the_guide_says(shop: Shop, until: Any) -> None:
    asked = commands()
    await watch(shop, asked["What happens now?"])
    assert "is forgotten" in await shop.ask(asked["How does a failed node go away?"])
    assert "has left" in await shop.ask(asked["How does a live node go away?"])
    await asyncio.wait_for(shop.nodes["orders-2"].wait_for_termination(), 30)
    await until(lambda: len(shop.nodes["ca-1"].topology.nodes) == 3)


async def watch(shop: Shop, command: str) -> None:
    """Reads two answers of a live command from a pipe, and ends it by SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "aegis_cli", *shlex.split(command)[1:], "--json"),
        env={**os.environ, **shop.environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        answers = [json.loads(await process.stdout.readline()) for _ in range(2)]
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, errors) == (0, b"")
    assert [answer["seconds"] is None for answer in answers] == [True, False]
    # Nothing was called between the two.
    assert (len(answers[0]["lines"]), answers[1]["lines"]) == (1, [])
