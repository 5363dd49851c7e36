"""Runs pytest, then runs failed tests once more, one at a time; reports those that then passed.

Many tests use real processes, which a busy machine can delay. A real fault fails twice. A test
that passes the second time is flaky: it is printed, and added to the file that the environment
variable AEGIS_FLAKY names.

    python scripts/run_tests.py uv run pytest        run a pytest command
    python scripts/run_tests.py --summary            print the flaky tests of all runs
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AGAIN = ("-n", "0", "--last-failed", "--last-failed-no-failures", "none")


def run_tests(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, label: str = ""
) -> bool:
    """Runs a pytest command and then its failures again; returns whether all passed in the end.

    Args:
        command: The command, without a `cache_dir` option.
        env: The environment of the command; None takes that of this process.
        label: Names the run in the report.
    """
    with tempfile.TemporaryDirectory(prefix="aegis-pytest-") as cache:
        command = [*command, "-o", f"cache_dir={cache}"]
        if _run(command, env):
            return True
        failures = Path(cache, "v", "cache", "lastfailed")
        failed = sorted(json.loads(failures.read_text())) if failures.is_file() else []
        # Without a list, such as after an error in a conftest, there is nothing to run again.
        if not failed or not _run([*command, *AGAIN], env):
            return False
    for name in failed:
        print(f"FLAKY {label}{name}: failed once, then passed alone", flush=True)
    if path := os.environ.get("AEGIS_FLAKY"):
        with Path(path).open("a") as log:
            log.writelines(f"{label}{name}\n" for name in failed)
    return True


def summary() -> str:
    """Returns one line with the number of flaky tests of all runs, and a line for each."""
    path = Path(os.environ.get("AEGIS_FLAKY", os.devnull))
    names = path.read_text().splitlines() if path.is_file() else []
    return "\n".join([f"{len(names)} flaky", *(f"  {name}" for name in names)])


def _run(command: Sequence[str], env: Mapping[str, str] | None) -> bool:
    print(f"+ {' '.join(command)}", flush=True)
    return not subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


if __name__ == "__main__":
    if sys.argv[1:] == ["--summary"]:
        print(summary())
    else:
        raise SystemExit(not run_tests(sys.argv[1:]))
