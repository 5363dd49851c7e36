from __future__ import annotations

from pathlib import Path

import pytest
from aegis_cli.demo._process import ProcessGroup, shared_directory
from aegis_cli.errors import DemoError

BOUND = 20.0


async def test_the_directory_exists_while_a_process_holds_the_descriptor(certs: Path) -> None:
    async with shared_directory() as (directory, held_fd):
        assert directory.stat().st_mode & 0o777 == 0o700
        async with ProcessGroup(directory, held_fd) as processes:
            node = await processes.start("n", "node", "seed", str(certs))
            await node.expect("ready", BOUND)
            assert (directory / "n.log").exists()
        assert not node.is_running
    assert not directory.exists()


async def test_the_error_of_a_process_is_reported(tmp_path: Path) -> None:
    async with shared_directory() as shared, ProcessGroup(*shared) as processes:
        node = await processes.start("n", "node", "seed", str(tmp_path))
        with pytest.raises(DemoError, match=r"^n failed: there is no file .*seed-cert\.pem"):
            await node.expect("ready", BOUND)


async def test_the_unexpected_end_of_a_process_is_reported(certs: Path) -> None:
    async with shared_directory() as shared, ProcessGroup(*shared) as processes:
        node = await processes.start("n", "node", "seed", str(certs))
        await node.expect("ready", BOUND)
        node.kill()
        node.may_end = False
        with pytest.raises(DemoError, match=r"^n ended unexpectedly \(exit code -9\)"):
            await processes.wait_until(lambda: False, BOUND, "nothing happened")


async def test_a_wait_that_times_out_says_what_did_not_happen(certs: Path) -> None:
    async with shared_directory() as shared, ProcessGroup(*shared) as processes:
        node = await processes.start("n", "node", "seed", str(certs))
        with pytest.raises(DemoError, match=r"n was not called within 0\.1 s"):
            await node.expect("called", 0.1)
        with pytest.raises(DemoError, match=r"they did not agree within 0\.1 s"):
            await processes.wait_until(lambda: False, 0.1, "they did not agree")
        with pytest.raises(DemoError, match="n reported 'ready', which was not expected"):
            await node.expect("called", BOUND)


async def test_processes_stop_on_command(certs: Path) -> None:
    async with shared_directory() as shared, ProcessGroup(*shared) as processes:
        node = await processes.start("n", "node", "seed", str(certs))
        await node.expect("ready", BOUND)
        await processes.stop()
        assert not node.is_running
