from __future__ import annotations

import pytest

from ..conftest import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
