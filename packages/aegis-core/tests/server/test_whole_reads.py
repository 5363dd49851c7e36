"""A coroutine goes on when the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core._server.aio.whole_reads import to_its_end
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
WAIT = 15.0

Waiting = tuple[asyncio.Task[Any], list[asyncio.Future[Any]], list[Any]]


def python_task(coroutine: Any) -> Any:
    return asyncio.tasks._PyTask(coroutine)  # type: ignore[attr-defined]


@pytest.fixture(params=[asyncio.create_task, python_task], ids=["C", "Python"])
async def waiting(request: pytest.FixtureRequest) -> Waiting:
    """A task that waits for a coroutine, the futures which that waits for, and what it found."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future(), loop.create_future()]
    found: list[Any] = []

    async def work() -> str:
        for future in futures:
            try:
                found.append(await future)
            except ValueError as error:
                found.append(error)
        return "done"

    async def wait() -> Any:
        return await to_its_end(work())

    task = request.param(wait())
    await asyncio.sleep(0)
    return task, futures, found


async def test_it_returns_what_the_coroutine_returns(waiting: Waiting) -> None:
    task, futures, found = waiting
    futures[0].set_result(1)
    await asyncio.sleep(0)
    futures[1].set_result(2)
    assert await task == "done"
    assert found == [1, 2]


async def test_the_coroutine_finds_the_error_of_a_future(waiting: Waiting) -> None:
    task, futures, found = waiting
    error = ValueError("x")
    futures[0].set_exception(error)
    futures[1].set_exception(error)
    assert await task == "done"
    assert found == [error, error]


async def test_the_error_of_a_coroutine_is_raised() -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        await to_its_end(asyncio.wait_for(future, None))


async def test_a_coroutine_that_does_not_wait_is_done() -> None:
    async def work() -> int:
        return 1

    assert await to_its_end(work()) == 1


async def test_the_coroutine_goes_on_when_its_task_is_cancelled(waiting: Waiting) -> None:
    task, futures, found = waiting
    assert task.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task
    assert not futures[0].cancelled()
    for future in futures:
        future.set_result(1)
        await asyncio.sleep(0)
    assert found == [1, 1]


async def test_a_task_that_is_cancelled_as_it_is_woken_is_cancelled(waiting: Waiting) -> None:
    task, futures, found = waiting
    futures[0].set_result(1)
    task.cancel()
    futures[1].set_result(2)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert found == [1, 2]


async def test_a_task_that_is_cancelled_before_it_waits_is_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    found = []

    async def work() -> None:
        found.append(await future)

    async def wait() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await to_its_end(work())

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())
    future.set_result(1)
    await asyncio.sleep(0)
    assert found == [1]


async def test_an_error_that_nobody_waits_for_is_not_logged(waiting: Waiting) -> None:
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    task, futures, found = waiting
    task.cancel()
    futures[0].set_exception(KeyError("nobody"))
    await asyncio.wait([task])
    await asyncio.sleep(0)
    del task, futures, waiting
    gc.collect()
    assert (errors, found) == ([], [])


class Service:
    """Waits for messages, and for none that does not come."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.ended = 0

    async def impatient(self, requests: Any, context: Any) -> bytes:
        try:
            async with asyncio.timeout(0.01):
                await context.read()
        except TimeoutError:
            return b"none came to " + context.peer().encode()
        return b""

    async def patient(self, requests: Any, context: Any) -> bytes:
        self.waits.set()
        try:
            return b"".join([request async for request in requests])
        finally:
            self.ended += 1

    async def half(self, requests: Any, context: Any) -> bytes:
        return await anext(requests)  # type: ignore[no-any-return]

    def register(self, server: Any) -> None:
        names = ("impatient", "patient", "half")
        handlers = {n: grpc.stream_unary_rpc_method_handler(getattr(self, n)) for n in names}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


@pytest.mark.parametrize("how", ["deadline", "cancel", "stop"])
async def test_a_read_that_waits_ends_with_its_call(
    identity: MakeIdentity, until: Until, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    service = Service()
    options: Any = {"tls": identity("a"), "registrars": [service.register], "grace": 0}
    async with (
        Node("a", address="127.0.0.1:0", **options) as node,
        open_channel(identity("caller"), "a", node.address) as channel,
    ):
        timeout = 0.2 if how == "deadline" else WAIT
        call: Any = channel.stream_unary("/t/patient")(timeout=timeout)
        await call.write(b"x")
        await service.waits.wait()
        if how == "stop":
            await node.stop()
        elif how == "cancel":
            call.cancel()
        await until(lambda: service.ended)
        assert await call.code() is not grpc.StatusCode.OK
    gc.collect()
    assert errors == []
    assert [record for record in caplog.records if record.exc_info] == []


async def test_handlers_read_as_they_do_with_grpc(identity: MakeIdentity) -> None:
    service = Service()
    options: Any = {"tls": identity("a"), "registrars": [service.register]}
    async with (
        Node("a", address="127.0.0.1:0", **options) as node,
        open_channel(identity("caller"), "a", node.address) as channel,
    ):
        impatient: Any = channel.stream_unary("/t/impatient")(timeout=WAIT)
        assert (await impatient).startswith(b"none came to ipv4:127.0.0.1:")
        for name, answer in (("patient", b"abc"), ("half", b"a")):
            call: Any = channel.stream_unary(f"/t/{name}")
            assert await call(iter([b"a", b"b", b"c"]), timeout=WAIT) == answer
