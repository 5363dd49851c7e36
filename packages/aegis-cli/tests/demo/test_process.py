from __future__ import annotations

from pathlib import Path

import pytest
from aegis_cli.demo._process import ProcessGroup, kept_directory
from aegis_cli.errors import DemoError

BOUND = 20.0


async def test_the_directory_stays_for_as_long_as_somebody_holds_on_to_it(certs: Path) -> None:
    async with kept_directory() as (directory, holder):
        assert directory.stat().st_mode & 0o777 == 0o700
        async with ProcessGroup(directory, holder) as crew:
            node = await crew.start("n", "node", "seed", str(certs))
            await node.expect("ready", BOUND)
            assert (directory / "n.log").exists()
        assert not node.is_running
    assert not directory.exists()


async def test_what_a_process_fails_with_is_told(tmp_path: Path) -> None:
    async with kept_directory() as kept, ProcessGroup(*kept) as crew:
        node = await crew.start("n", "node", "seed", str(tmp_path))
        with pytest.raises(DemoError, match=r"^n failed: there is no file .*seed-cert\.pem"):
            await node.expect("ready", BOUND)


async def test_a_process_that_ends_unexpectedly_is_told(certs: Path) -> None:
    async with kept_directory() as kept, ProcessGroup(*kept) as crew:
        node = await crew.start("n", "node", "seed", str(certs))
        await node.expect("ready", BOUND)
        node.kill()
        node.may_end = False
        with pytest.raises(DemoError, match=r"^n ended unexpectedly \(exit code -9\)"):
            await crew.until(lambda: False, BOUND, "nothing came")


async def test_a_wait_ends_and_says_what_did_not_come(certs: Path) -> None:
    async with kept_directory() as kept, ProcessGroup(*kept) as crew:
        node = await crew.start("n", "node", "seed", str(certs))
        with pytest.raises(DemoError, match=r"n was not called within 0\.1 s"):
            await node.expect("called", 0.1)
        with pytest.raises(DemoError, match=r"they did not agree within 0\.1 s"):
            await crew.until(lambda: False, 0.1, "they did not agree")
        with pytest.raises(DemoError, match="n told 'ready', which nobody expected"):
            await node.expect("called", BOUND)


async def test_a_process_stops_when_it_is_told_to(certs: Path) -> None:
    async with kept_directory() as kept, ProcessGroup(*kept) as crew:
        node = await crew.start("n", "node", "seed", str(certs))
        await node.expect("ready", BOUND)
        await crew.stop()
        assert not node.is_running
