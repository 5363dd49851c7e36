"""A node continues with a new certificate, key and bundle, and callers do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_core import ServiceInfo
from aegis_core.aio import Node
from cryptography import x509

from .conftest import ticks, who

Until = Callable[[Callable[[], object]], Awaitable[None]]


def register(server: grpc.aio.Server) -> None:
    handlers = {
        "Serial": grpc.unary_unary_rpc_method_handler(who),
        "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", handlers),))


@pytest.fixture
def issue(tmp_path: Path) -> Callable[[str], TLSConfig]:
    ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    return lambda node_id: ca.issue(node_id, key_type=KeyType.P256)


@pytest.fixture
async def pair(issue: Callable[[str], TLSConfig]) -> AsyncIterator[tuple[Node, Node]]:
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {"address": "127.0.0.1:0", "grace": 0.2}
        provider = Node(
            "provider",
            tls=issue("provider"),
            services=[ServiceInfo("who", "v1")],
            registrars=[register],
            **options,
        )
        await stack.enter_async_context(provider)
        caller = Node("caller", tls=issue("caller"), seed_peers=[provider.address], **options)
        await stack.enter_async_context(caller)
        yield provider, caller


async def test_no_call_fails_and_no_stream_breaks_while_identities_change_under_load(
    pair: tuple[Node, Node], issue: Callable[[str], TLSConfig], until: Until
) -> None:
    provider, caller = pair
    channel = caller.pool.channel("who", "v1")
    method = channel.unary_unary("/test.Who/Serial")
    seen: set[int] = set()
    calls = 0
    stop = asyncio.Event()

    async def call() -> None:
        nonlocal calls
        while not stop.is_set():
            seen.add(int(await method(b"", timeout=5)))
            calls += 1

    stream = channel.unary_stream("/test.Who/Ticks")(b"")
    assert await stream.read() == b"tick"
    callers = [asyncio.create_task(call()) for _ in range(4)]
    await until(lambda: calls > 20)
    changed = [issue("caller") for _ in range(3)]
    for tls in changed:
        reached = calls
        provider.change_identity(issue("provider"))
        caller.change_identity(tls)
        await until(lambda: tls.certificate.serial_number in seen)  # noqa: B023 - used at once
        await until(lambda: calls > reached + 50)  # noqa: B023 - used at once
        assert await stream.read() == b"tick"
    stop.set()
    await asyncio.gather(*callers)
    assert {tls.certificate.serial_number for tls in changed} <= seen
    stream.cancel()


async def test_a_new_certificate_reaches_the_other_nodes_with_the_record(
    pair: tuple[Node, Node], issue: Callable[[str], TLSConfig], until: Until
) -> None:
    provider, caller = pair
    tls = issue("provider")
    events: list[str] = []
    caller.topology.subscribe(lambda event: events.append(f"{event.kind} {event.node.id}"))
    provider.change_identity(tls)

    def known() -> x509.Certificate | None:
        return caller.get_certificate("provider")

    await until(lambda: known() == tls.certificate)
    assert events == [], "a renewal does not change the topology"


async def test_feeds_are_opened_again_with_the_new_certificate_and_no_node_is_suspected(
    pair: tuple[Node, Node], issue: Callable[[str], TLSConfig], until: Until
) -> None:
    provider, caller = pair
    await until(lambda: caller.server.watchers == {"provider"})
    events: list[str] = []
    for node in pair:
        node.topology.subscribe(lambda event: events.append(f"{event.kind} {event.node.id}"))
    dialled = provider.server.feeds_served
    caller.change_identity(issue("caller"))
    await until(lambda: provider.server.feeds_served > dialled)
    await until(lambda: provider.server.watchers == {"caller"})
    assert events == []
