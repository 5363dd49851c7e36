"""The CA of an issuer replaces itself while its node runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, KeyType, RotationPhase
from aegis_core import ConfigError
from aegis_core._node.rotation import CARotation, view_of
from aegis_core.aio import Node

from .conftest import Nodes

P256 = KeyType.P256
MINUTES = 1 / 1440  # days


def aged_ca(directory: Path, seconds: float, minutes: float = 2) -> CertificateAuthority:
    """A CA of some minutes, so many seconds old."""
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return CertificateAuthority.create(directory, key_type=P256, days=minutes * MINUTES, at=at)


@pytest.fixture
def starts_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis_core._node.rotation._SHORTEST", 0.1)


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not reached():  # noqa: ASYNC110 - files and logs set no event
            await asyncio.sleep(0.05)


@pytest.mark.soak  # it takes 20 s
@pytest.mark.usefixtures("starts_soon")
async def test_an_issuer_prepares_the_next_ca_in_time(
    tmp_path: Path, both: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aegis.issuer")
    ca = aged_ca(tmp_path, 21 * 60, minutes=30)
    await both("ca-1", cert_dir=tmp_path, issuer=True)
    await until(lambda: ca.rotation().phase is RotationPhase.PREPARED)
    await until(lambda: "the next CA is prepared" in caplog.text)


async def test_an_issuer_leaves_its_ca_alone_if_it_is_told_to(tmp_path: Path, nodes: Nodes) -> None:
    aged_ca(tmp_path, 21 * 60, minutes=30)
    await nodes("ca-1", cert_dir=tmp_path, issuer=True, rotate="manual")
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert "aegis-maintenance" in names
    assert "aegis-rotation" not in names
    with pytest.raises(ConfigError, match=r"rotate.*auto or manual"):
        Node("ca-2", address="127.0.0.1:0", issuer=True, rotate="never")


def seen(node_id: str, bundle: str = "", **facts: Any) -> SimpleNamespace:
    defaults = {"status": "alive", "vouched_by": ""}
    return SimpleNamespace(id=node_id, trust_bundle=bundle, **(defaults | facts))


async def test_steps_and_obstacles_are_logged_with_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's dates are a table in another test; here time does not pass."""
    caplog.set_level(logging.INFO, "aegis.issuer")
    nodes = {"a": seen("a"), "gone": seen("gone", status="failed")}
    state: Any = SimpleNamespace(
        topology=SimpleNamespace(nodes=nodes, get_record=lambda _: None),
        verifier=SimpleNamespace(certificate_of=lambda _: None),
    )
    assert view_of(state).bundles == {"a": ""}

    async def run(seconds: float, expected: str, **more: Any) -> None:
        directory = tmp_path / str(seconds)
        ca = aged_ca(directory, seconds, minutes=60)
        if more.pop("prepared", False):
            ca.prepare_rotation(at=datetime.now(UTC) - timedelta(seconds=seconds - 2400))
        nodes["b"] = seen("b", **more)
        caplog.clear()
        rotating = asyncio.create_task(CARotation(ca, state).run())
        try:
            await until(lambda: expected in caplog.text)
        finally:
            rotating.cancel()

    monkeypatch.setattr("aegis_core._node.rotation._SHORTEST", 0.0)
    monkeypatch.setattr("aegis_core._node.rotation._LONGEST", 0.0)
    await run(
        2450,
        "peers that get no documents have to be given the new one by hand (b)",
        vouched_by="ca-1",
    )
    await run(2800, "the next CA waits for nodes that do not trust it yet: a, b", prepared=True)
    await run(3350, "although these nodes do not trust it: a, b", prepared=True)
