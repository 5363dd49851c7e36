from __future__ import annotations

import pytest


@pytest.fixture
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls files and revalidates open streams every 50 ms."""
    monkeypatch.setattr("aegis_discovery.identity._run.POLL_INTERVAL", 0.05)
    monkeypatch.setattr("aegis_core._server.interceptor.REVALIDATION_INTERVAL", 0.05)
