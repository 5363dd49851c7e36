"""What nodes tell operators, asked over the wire, of both kinds of nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import TLSConfig
from aegis_core import Node as BlockingNode
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import stats_pb2, stats_pb2_grpc


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
async def test_a_node_tells_what_happened_and_why(
    kind: str, start: Any, identity: Callable[[str], TLSConfig], tmp_path: Path
) -> None:
    rules = '[[call]]\nservices = ["*"]\nids = ["*"]\n'
    (tmp_path / "policy.toml").write_text(rules)
    policy_file = tmp_path / "policy.toml"
    async with AsyncExitStack() as stack:
        if kind == "asyncio":
            seed = await start("seed", policy=policy_file)
        else:
            tls, address = identity("seed"), "127.0.0.1:0"
            seed = BlockingNode("seed", address=address, tls=tls, policy=policy_file)
            await asyncio.to_thread(seed.start)
            stack.push_async_callback(asyncio.to_thread, seed.stop, 0)
        await check(seed, await start("other", seed), identity("ops"))


async def check(seed: Any, other: Any, ops: TLSConfig) -> None:
    await other.stop(grace=0)
    async with open_channel(ops, "seed", seed.address) as channel:
        stub = stats_pb2_grpc.IntrospectionStub(channel)

        async def stats(*parts: str) -> dict[str, Any]:
            return json.loads((await stub.GetStats(stats_pb2.GetStatsRequest(parts=parts))).json)

        everything = await stats()
        assert {"calls", "events", "standings", "policies"} <= everything.keys()
        assert (await stats("events", "of a newer version")).keys() == {"events"}
        kinds = [one["kind"] for one in everything["events"] if one["node_id"] == "other"]
        assert (kinds[0], kinds[-1]) == ("joined", "left")
        (policy,) = everything["policies"]
        assert (policy["source"], policy["call_rules"]) == ("file", 1)
        answer = await stub.Explain(stats_pb2.ExplainRequest(node_id="other"))
        why = json.loads(answer.json)
        assert (why["asked"], why["has_left"]) == ("seed", True)
        assert why["signed"]["issuer"].startswith("CN=")
        assert [one["kind"] for one in why["events"]] == kinds
