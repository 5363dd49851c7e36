"""Every row of the original requirements (S1 to S24) has a test that is named after it."""

from __future__ import annotations

import re
from pathlib import Path

ROWS = set(range(1, 25))


def test_every_row_has_a_test() -> None:
    named = re.compile(r"^(?:async )?def test_s(\d\d)_", re.MULTILINE)
    files = Path(__file__).parent.glob("test_*.py")
    found = {int(row) for file in files for row in named.findall(file.read_text("utf-8"))}
    assert found == ROWS
