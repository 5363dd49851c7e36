"""Metrics for Prometheus: what they say, what they escape, and that a stranger costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import re
import shutil
import socket
import struct
import subprocess
import time
import tracemalloc
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_core import ConfigError, ServiceInfo
from aegis_core._server import metrics
from aegis_core._server.prometheus import escape
from aegis_core.aio import Node
from aegis_discovery import ServiceClientPool

from tests.mesh.test_edges import Shop, drive

DEPLOY = Path(__file__).parents[2] / "deploy"


def promtool(*check: str, text: str = "") -> None:
    done = subprocess.run(
        ["promtool", "check", *check], input=text.encode(), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def get(port: int, path: str = "/metrics") -> str:
    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


async def started(start: Any, identity: Any, port: int) -> Node:
    """A node with metrics, that is called and that has a pool."""
    shop: Node = await start(
        "shop-1",
        services=[ServiceInfo("shop", "v1")],
        registrars=[Shop(is_async=True)],
        metrics=str(port),
    )
    with ServiceClientPool(shop, identity("sync-caller")) as pool:
        await asyncio.to_thread(drive, pool)
    await shop.pool.channel("shop", "v1").unary_unary("/shop.Shop/Get")(b"", timeout=10)
    return shop


async def test_prometheus_reads_calls_nodes_and_certificates(start: Any, identity: Any) -> None:
    port = free_port()
    shop = await started(start, identity, port)
    text = await get(port)
    labels = 'grpc_method="shop.Shop/Get",grpc_lb_backend_service="shop/v1"'
    assert f'grpc_server_call_started_total{{{labels},aegis_caller="sync-caller"}} 6' in text
    assert f'grpc_client_attempt_started_total{{{labels},aegis_provider="shop-1"}} 1' in text
    assert f'grpc_server_call_duration_seconds_bucket{{{labels},le="+Inf"}} 7' in text
    assert 'aegis_nodes{status="alive"} 1' in text
    expires = shop.stats().certificate_not_after.timestamp()
    assert f"aegis_certificate_not_after_seconds {expires}" in text
    # The rules and the dashboard name no metric that does not exist.
    exist = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    rules = (DEPLOY / "prometheus/aegis-alerts.yml").read_text()
    board = (DEPLOY / "grafana/aegis.json").read_text()
    assert json.loads(board)["panels"]
    named = set(re.findall(r"\b(?:grpc_(?:server|client)_|aegis_)\w+", rules + board))
    labels_used = {"aegis_caller", "aegis_provider"}
    assert {re.sub("_bucket$", "", name) for name in named} - labels_used <= exist


async def test_strangers_cannot_hold_the_metrics(
    start: Any, identity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "TIMEOUT", 0.5)
    port = free_port()
    await start("shop-1", metrics=f"127.0.0.1:{port}")
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    for reader, _ in silent:  # those above the limit are closed at once, the others soon
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
    for sent, status in (
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"G" * 100_000, b""),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.split(b" ", 2)[1:2] == ([status] if status else [])
        writer.close()
    assert "aegis_start_time_seconds" in await get(port)


SIZE = 8 * 1024 * 1024  # more than the kernel takes for a connection


@contextlib.asynccontextmanager
async def slow_readers(count: int) -> AsyncIterator[metrics.MetricsServer]:
    """A server whose answer is large, and readers that ask and do not read."""
    server = metrics.MetricsServer("127.0.0.1", 0, lambda: "x" * SIZE)
    await server.start()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.settimeout(5)
            await asyncio.to_thread(reader.connect, ("127.0.0.1", server._port))
            reader.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        try:
            yield server
        finally:
            server.close()


async def test_readers_that_do_not_read_keep_nobody_away(until: Any) -> None:
    async with slow_readers(3 * metrics.MAX_UNREAD) as server:
        await until(lambda: len(server._unread) == metrics.MAX_UNREAD)
        for _ in range(2):
            assert len(await get(server._port)) == SIZE
        await until(lambda: len(server._unread) < metrics.MAX_UNREAD)


async def test_connections_without_a_request_close_no_honest_one() -> None:
    server = metrics.MetricsServer("127.0.0.1", 0, lambda: "text")
    await server.start()
    try:
        with contextlib.ExitStack() as stack:
            address = "127.0.0.1", server._port
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(32):
                _, silent = await asyncio.open_connection(*address)
                stack.callback(silent.close)
            assert await get(server._port) == "text"  # so it has accepted them
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.endswith(b"\r\n\r\ntext")
            writer.close()
    finally:
        server.close()


async def test_who_asks_all_the_time_gets_the_same_text_and_holds_up_no_event_loop() -> None:
    written: list[float] = []

    def expensive() -> str:
        time.sleep(0.02)  # what the edges of some hundred callers take
        written.append(time.monotonic())
        return "text"

    server = metrics.MetricsServer("127.0.0.1", 0, expensive)
    await server.start()
    try:
        for _ in range(50):
            assert await get(server._port) == "text"
    finally:
        server.close()
    least = 0.02 / metrics.MAX_SHARE
    assert all(later - sooner >= least for sooner, later in pairwise(written))


async def test_connections_that_are_reset_hold_no_answer(until: Any) -> None:
    """asyncio keeps what it could not write until the garbage is collected."""
    server = metrics.MetricsServer("127.0.0.1", 0, lambda: "x" * SIZE)
    await server.start()
    await get(server._port)
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(30):
            _, rude = await asyncio.open_connection("127.0.0.1", server._port)
            linger = struct.pack("ii", 1, 0)
            rude.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            rude.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            rude.transport.abort()
        assert len(await get(server._port)) == SIZE
        await until(lambda: not server._waiting and not server._unread)
        assert tracemalloc.get_traced_memory()[0] < 8 * SIZE
    finally:
        tracemalloc.stop()
        gc.enable()
        server.close()


async def test_a_reader_that_does_not_read_is_dropped_in_time(
    until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "TIMEOUT", 0.3)
    async with slow_readers(1) as server:
        await until(lambda: server._unread)
        await until(lambda: not server._unread)


async def test_an_open_connection_does_not_disturb_the_end(
    identity: Any, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    node = Node("shop-1", address="127.0.0.1:0", tls=identity("shop-1"), metrics=str(port))
    await node.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await get(port)  # so it has accepted the connection before
    await node.stop(grace=0)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert [one.message for one in caplog.records if one.name == "asyncio"] == []


def test_a_label_cannot_end_its_own_text_and_an_address_is_checked() -> None:
    assert escape('a"} 1\n\\evil') == 'a\\"} 1\\n\\\\evil'
    with pytest.raises(ConfigError, match="metrics"):
        Node("a", address="127.0.0.1:0", metrics="nowhere")


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus")
async def test_a_real_prometheus_reads_it_and_accepts_the_rules(
    start: Any, identity: Any, tmp_path: Path, until: Any
) -> None:
    rules = DEPLOY / "prometheus/aegis-alerts.yml"
    promtool("rules", str(rules))
    port, own = free_port(), free_port()
    shop = await started(start, identity, port)
    with contextlib.suppress(grpc.RpcError):
        await shop.pool.channel("shop", "v1").unary_unary("/shop.Shop/Nothing")(b"", timeout=10)
    await asyncio.to_thread(promtool, "metrics", text=await get(port))
    config = tmp_path / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: 1s}}\nrule_files: [{rules}]\nscrape_configs:\n"
        f"- {{job_name: aegis, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n"
    )
    process = subprocess.Popen(  # noqa: ASYNC220 - it only starts
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{own}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    query = "/api/v1/query?query=sum(grpc_server_call_started_total)"
    try:
        while True:  # bounded by the timeout of the test
            with contextlib.suppress(OSError):
                found = json.loads(await get(own, query))["data"]["result"]
                if found:
                    break
            await asyncio.sleep(0.1)
        assert float(found[0]["value"][1]) >= 6
        # A dashboard asks for no series that Prometheus has not.
        board = json.loads((DEPLOY / "grafana/aegis.json").read_text())
        for target in itertools.chain.from_iterable(one["targets"] for one in board["panels"]):
            asked = target["expr"].replace("$__rate_interval", "1m").replace("$service", ".*")
            query = f"/api/v1/query?{urllib.parse.urlencode({'query': asked})}"
            while True:  # bounded as above
                if json.loads(await get(own, query))["data"]["result"]:
                    break
                await asyncio.sleep(0.1)
    finally:
        process.terminate()
        process.wait(timeout=30)
