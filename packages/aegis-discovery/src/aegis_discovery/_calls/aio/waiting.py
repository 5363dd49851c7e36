"""Async calls that wait until their service has a provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from aegis_discovery._calls.aio.no_providers import NoProvidersCall, NoProvidersRpcError
from aegis_discovery._calls.attempt import deadline_of, time_left
from aegis_discovery._calls.router import Router

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"


async def _start(
    router: Router[grpc.aio.Channel],
    deadline: float | None,
    begin: Callable[..., Any],
) -> Any:
    """Waits for a provider; returns the call that `begin` starts, or one that ended."""
    woken, loop = asyncio.Event(), asyncio.get_running_loop()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)

    with router.waiting(wake):
        while True:
            try:
                if router.has_provider(deadline):
                    return begin(timeout=time_left(deadline))
            except NoProvidersRpcError as error:
                return NoProvidersCall(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(time_left(deadline)):
                    await woken.wait()
            woken.clear()


class WaitingCall(
    grpc.aio.UnaryUnaryCall,
    grpc.aio.UnaryStreamCall,
    grpc.aio.StreamUnaryCall,
    grpc.aio.StreamStreamCall,
):
    """A call, of any kind, that starts once its service has a provider.

    From then on it behaves as the call that was started. `begin` starts that, with a timeout. It is
    cancelled when it is dropped before.
    """

    def __init__(
        self,
        router: Router[grpc.aio.Channel],
        timeout: float | None,
        begin: Callable[..., Any],
    ) -> None:
        self._router = router
        self._deadline = deadline_of(timeout)
        # The task must not keep this object alive, or it could never be dropped.
        self._task = asyncio.create_task(
            _start(router, self._deadline, begin), name="aegis-waiting-call"
        )
        self._responses: AsyncIterator[Any] | None = None

    def __del__(self) -> None:
        if not self._task.done():
            self._task.cancel()

    async def _started(self) -> Any:
        """Waits for the start and returns the call; this may be cancelled without the call."""
        await asyncio.wait([self._task])
        if self._task.cancelled():
            cancelled = grpc.StatusCode.CANCELLED
            return NoProvidersCall(self._router.waiting_error(cancelled, "it was cancelled"))
        return self._task.result()

    def __await__(self) -> Generator[Any, None, Any]:
        call = yield from self._task.__await__()
        return (yield from call.__await__())

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def _iterate(self) -> AsyncIterator[Any]:
        async for message in await self._task:
            yield message

    # The methods of gRPC's calls are untyped here.

    async def read(self) -> Any:
        return await (await self._task).read()

    async def write(self, request: Any) -> None:
        await (await self._task).write(request)

    async def done_writing(self) -> None:
        await (await self._started()).done_writing()

    async def wait_for_connection(self) -> None:
        await (await self._started()).wait_for_connection()

    async def initial_metadata(self) -> Any:
        return await (await self._started()).initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await (await self._started()).trailing_metadata()

    async def code(self) -> Any:
        return await (await self._started()).code()

    async def details(self) -> Any:
        return await (await self._started()).details()

    async def debug_error_string(self) -> Any:
        return await (await self._started()).debug_error_string()

    def _ended_early(self) -> bool:
        """Returns whether it was cancelled, or failed, before it could start."""
        return self._task.cancelled() or self._task.exception() is not None

    def done(self) -> Any:
        return self._task.done() and (self._ended_early() or self._task.result().done())

    def cancelled(self) -> Any:
        if not self._task.done():
            return False
        return self._task.cancelled() or self._task.result().cancelled()

    def cancel(self) -> Any:
        return self._task.result().cancel() if self._task.done() else self._task.cancel()

    def time_remaining(self) -> float | None:
        return time_left(self._deadline)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        def started(task: asyncio.Task[Any]) -> None:
            if self._ended_early():
                callback(self)
            else:
                task.result().add_done_callback(lambda _: callback(self))

        self._task.add_done_callback(started)
