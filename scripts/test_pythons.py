"""Runs the tests on every other installed Python that the packages support.

Each version has its own environment. The whole suite runs if there is enough time left, otherwise
a part of it; the output says which.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from run_tests import run_tests

ROOT = Path(__file__).resolve().parent.parent
UV = shutil.which("uv") or "uv"
CROSS_SECTION = [
    "packages/aegis-certs/tests/ca",
    "packages/aegis-certs/tests/identity",
    "packages/aegis-discovery/tests",
    "packages/aegis-core/tests/membership",
    "packages/aegis-core/tests/node/test_node.py",
    "packages/aegis-core/tests/node/test_node_life.py",
    "packages/aegis-core/tests/node/test_sync_node.py",
    "packages/aegis-cli/tests/commands",
]
"""The tests for a version if there is no time for the whole suite."""

SUPPORTED = ((3, 11), (3, 12), (3, 13), (3, 14))


def installed() -> dict[tuple[int, int], str]:
    """Returns the interpreters of all supported versions except the one that runs this script."""
    listing = subprocess.run(
        [UV, "python", "list", "--only-installed", "--output-format", "json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = {
        (entry["version_parts"]["major"], entry["version_parts"]["minor"]): entry["path"]
        for entry in reversed(json.loads(listing))  # the first one of a version is kept
        if entry["implementation"] == "cpython" and entry["variant"] == "default"
    }
    # uv sees only the active versions of pyenv.
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for major, minor in SUPPORTED:
        for path in versions.glob(f"{major}.{minor}.*/bin/python{major}.{minor}"):
            found.setdefault((major, minor), str(path))
    others = found.keys() & set(SUPPORTED) - {sys.version_info[:2]}
    return {version: found[version] for version in sorted(others)}


def test(version: str, interpreter: str, paths: list[str]) -> bool:
    """Runs pytest on this Python in its own environment; returns whether it passed."""
    with tempfile.TemporaryDirectory(prefix="aegis-python-") as scratch:
        environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"} | {
            "UV_PROJECT_ENVIRONMENT": scratch + "/venv",
            "UV_PYTHON_DOWNLOADS": "never",
        }
        return run_tests(
            [UV, "run", "--python", interpreter, "pytest", "-q", *paths],
            env=environment,
            label=f"Python {version}: ",
        )


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--suite-seconds", type=float, default=0, help="duration of the whole suite"
    )
    parser.add_argument(
        "--seconds-left", type=float, default=3600, help="the time for all versions"
    )
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds_left
    versions = installed()
    if not versions:
        print("no other supported Python is installed; nothing was tested here")
    failed = []
    for done, ((major, minor), interpreter) in enumerate(versions.items()):
        version = f"{major}.{minor}"
        share = (deadline - time.monotonic()) / (len(versions) - done)
        whole = share >= options.suite_seconds
        chosen = "the whole suite" if whole else "a cross-section of the tests"
        print(
            f"Python {version}: {chosen} ({share:.0f} s left for it, "
            f"the whole took {options.suite_seconds:.0f} s before)",
            flush=True,
        )
        if not test(version, interpreter, [] if whole else CROSS_SECTION):
            failed.append(version)
    if failed:
        print(f"failed on Python {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
