"""Async calls that wait until a provider of their service is in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from time import monotonic
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from aegis_discovery._calls.aio.no_providers import NoProvidersCall
from aegis_discovery._calls.attempt import time_left
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.router import Router
from aegis_discovery._calls.waiting import Wait

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"

_Begin: TypeAlias = Callable[[Endpoint[grpc.aio.Channel]], object]


class Pause(
    grpc.aio.UnaryUnaryCall,
    grpc.aio.UnaryStreamCall,
    grpc.aio.StreamUnaryCall,
    grpc.aio.StreamStreamCall,
):
    """Takes the place of an attempt while a call, of any kind, waits for an endpoint.

    When there is one, `begin` starts an attempt in its place, and the pause ends. It ends in any
    case with an error, which is that of the call unless `begin` started an attempt. It ends when it
    is dropped.
    """

    def __init__(
        self,
        router: Router[grpc.aio.Channel],
        deadline: float | None,
        begin: _Begin,
        *,
        once: bool,
    ) -> None:
        self._router = router
        self._wait = Wait(router, monotonic(), deadline, once=once)
        # The task must not keep this object alive, or it could never be dropped.
        self._task = asyncio.create_task(
            _wait_and_begin(router, self._wait, begin), name="aegis-waiting-call"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._router!r}>"

    def __del__(self) -> None:
        if not self._task.done():
            self._task.cancel()

    async def ended(self) -> NoProvidersCall:
        """Waits for the end, without being cancelled by it."""
        await asyncio.wait([self._task])
        if self._task.cancelled():
            cancelled = grpc.StatusCode.CANCELLED
            return NoProvidersCall(self._router.waiting_error(cancelled, "it was cancelled"))
        return NoProvidersCall(self._task.result())

    def __await__(self) -> Generator[Any, None, Any]:
        raise (yield from self._task.__await__())

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> NoReturn:
        raise await self._task

    read = __anext__

    async def write(self, request: Any) -> NoReturn:
        raise await self._task

    async def done_writing(self) -> None:
        await self.ended()

    async def wait_for_connection(self) -> None:
        await (await self.ended()).wait_for_connection()

    # The methods of gRPC's calls are untyped here.

    async def initial_metadata(self) -> Any:
        return await (await self.ended()).initial_metadata()

    trailing_metadata = initial_metadata

    async def code(self) -> Any:
        return await (await self.ended()).code()

    async def details(self) -> Any:
        return await (await self.ended()).details()

    debug_error_string = details

    def done(self) -> bool:
        return self._task.done()

    def cancelled(self) -> bool:
        return self._task.cancelled()

    def cancel(self) -> bool:
        return self._task.cancel()

    def time_remaining(self) -> float | None:
        return time_left(self._wait.deadline)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._task.add_done_callback(lambda _: callback(self))


async def provider_may_have_come(router: Router[grpc.aio.Channel]) -> None:
    """Waits until a service without a provider may have one, or its channel is closed."""
    woken, wake = _alarm()
    with router.waiting(wake):
        if not router.closed and not router.service.may_have_provider():
            await woken.wait()


def _alarm() -> tuple[asyncio.Event, Callable[[], None]]:
    """Returns an event and what sets it from any thread."""
    woken, loop = asyncio.Event(), asyncio.get_running_loop()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)

    return woken, wake


async def _wait_and_begin(
    router: Router[grpc.aio.Channel], wait: Wait[grpc.aio.Channel], begin: _Begin
) -> Any:
    """Waits for an endpoint and begins an attempt there; returns the error of the pause."""
    woken, wake = _alarm()
    try:
        with router.waiting(wake):
            while (endpoint := wait.try_pick(monotonic())) is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait.time_left(monotonic())):
                        await woken.wait()
                woken.clear()
        begin(endpoint)
    except grpc.RpcError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a user's interceptor or serializer
        until = f"it could not start: {error!r}"
        return router.waiting_error(grpc.StatusCode.UNKNOWN, until)
    return router.waiting_error(grpc.StatusCode.UNAVAILABLE, "it could start")
