"""The files of a program, a change of which replaces its workers."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from types import ModuleType


def own_files() -> set[str]:
    """Returns the files of all loaded modules that are not installed."""
    installed = tuple(
        os.path.join(sysconfig.get_path(name), "")
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    )
    files = {_file_of(module) for module in list(sys.modules.values())}
    return {file for file in files if file and not file.startswith(installed)}


def modified(files: Iterable[str]) -> dict[str, int]:
    """Returns when each file was modified, in nanoseconds; 0 for one that is not there."""
    found: dict[str, int] = {}
    for file in files:
        try:
            found[file] = os.stat(file).st_mtime_ns
        except OSError:  # it is being replaced
            found[file] = 0
    return found


def _file_of(module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    return os.path.realpath(file) if file else None
