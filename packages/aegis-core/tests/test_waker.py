from __future__ import annotations

import asyncio

from aegis_core._waker import Waker


async def test_it_tells_a_wake_up_from_the_end_of_the_time() -> None:
    waker = Waker()
    assert not await waker.wait(0.001)
    asyncio.get_running_loop().call_soon(waker.set)
    assert await waker.wait(60)
    assert await waker.wait(60)  # until it is cleared
    waker.clear()
    assert not await waker.wait(-1)


async def test_a_cancelled_wait_leaves_it_usable() -> None:
    waker = Waker()
    task = asyncio.create_task(waker.wait(60))
    await asyncio.sleep(0)
    waker.set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    waker.set()
    assert await waker.wait(60)
