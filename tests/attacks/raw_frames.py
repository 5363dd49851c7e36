"""HTTP/2 frames on raw connections: those of the benchmarks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def _load() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "frames.py"
    spec = importlib.util.spec_from_file_location("attack_frames", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


frames = _load()
