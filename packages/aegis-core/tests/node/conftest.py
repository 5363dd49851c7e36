from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from aegis_core import caller_from_context


@pytest.fixture
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls files and revalidates open streams every 50 ms."""
    monkeypatch.setattr("aegis_discovery.identity._run.POLL_INTERVAL", 0.05)
    monkeypatch.setattr("aegis_core._server.call_checks.REVALIDATION_INTERVAL", 0.05)


async def who(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Returns the serial number of the caller's certificate."""
    return str(caller_from_context(context).certificate.serial_number).encode()


async def ticks(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    """Sends a message every 20 ms until the call ends."""
    while True:
        yield b"tick"
        await asyncio.sleep(0.02)
