"""A server that drains waits for callers to fall silent, but not for ever. In virtual time."""

from __future__ import annotations

import asyncio

import pytest
from aegis_core._server import drain as draining
from aegis_core._server.admission import AdmissionControl
from aegis_core._server.drain import MAX_SILENCE_WAIT, drain

SILENCE = 0.2
WORK = 0.05
"""Seconds that a call takes."""


class Call:
    def done(self) -> bool:
        return False


class Server:
    """A server whose time passes as it sleeps; meanwhile calls arrive."""

    def __init__(self) -> None:
        self.admission = AdmissionControl[Call]()
        self.now = 0.0
        self.calls_from, self.calls_until = 0.0, 0.0
        self.running: dict[Call, float] = {}

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.calls_from < self.now <= self.calls_until and self.admission.arrive() is None:
            self.serve(WORK)
        for call, end in [*self.running.items()]:
            if end <= self.now:
                del self.running[call]
                self.admission.end(call)

    def serve(self, seconds: float) -> None:
        call = Call()
        self.running[call] = self.now + seconds
        self.admission.begin(call)

    async def drain(self) -> float:
        """Returns the seconds that it took."""

        async def end_calls(_seconds: float) -> None:
            pytest.fail("the grace is longer than any call")

        await drain(self.admission, end_calls, 100.0, silence=SILENCE)
        return self.now


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: server.now)
    monkeypatch.setattr(draining.asyncio, "sleep", server.sleep)
    return server


async def test_a_server_without_calls_waits_for_silence_once(server: Server) -> None:
    assert await server.drain() == pytest.approx(SILENCE)


async def test_callers_that_never_fall_silent_are_waited_for_once(server: Server) -> None:
    server.calls_until = 1000.0
    assert await server.drain() <= MAX_SILENCE_WAIT + SILENCE + 2 * WORK
    assert server.admission.arrived_after_close


async def test_calls_that_arrive_while_a_long_call_ends_are_told_before_the_close(
    server: Server,
) -> None:
    server.serve(30.0)
    server.calls_from, server.calls_until = 29.0, 30.3
    took = await server.drain()
    assert 30.3 < took <= 30.3 + 2 * SILENCE
    assert server.admission.arrived_after_close
