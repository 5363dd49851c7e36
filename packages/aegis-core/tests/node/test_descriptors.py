"""A node says in time that it runs short of file descriptors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aegis_core._node.descriptors import name_shortage, shortage, used_descriptors

Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.mark.parametrize(("used", "limit"), [(10, 64), (51, 64), (819, 1024)])
def test_nothing_is_said_while_a_fifth_is_free(used: int, limit: int) -> None:
    assert shortage(used, limit) is None


@pytest.mark.parametrize(("used", "limit"), [(52, 64), (64, 64), (820, 1024)])
def test_a_shortage_is_named_with_both_numbers_and_the_remedy(used: int, limit: int) -> None:
    said = shortage(used, limit)
    assert said is not None
    assert said.startswith(f"{used} of {limit} file descriptors are in use")
    assert "ulimit -n" in said


def test_descriptors_are_counted_where_the_system_shows_them() -> None:
    found = used_descriptors()
    if found is None:
        pytest.skip("this system has no limit, or does not show what is open")
    with open("/dev/null") as _:
        assert used_descriptors() == (found[0] + 1, found[1])


async def test_a_lasting_shortage_is_one_warning(
    until: Until, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._node.descriptors.CHECK_EVERY", 0)
    looks = 0

    def read() -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return 60, 64

    watching = asyncio.create_task(name_shortage("a", read))
    await until(lambda: looks > 20)
    watching.cancel()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith(
        "a is short of file descriptors: 60 of 64 file descriptors are in use"
    )
