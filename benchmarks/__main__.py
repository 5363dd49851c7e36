"""Runs all benchmarks one after the other, or those that are named.

    uv run poe bench --quick
    uv run python benchmarks server picks

Each is a script of its own; `benchmarks/README.md` says what each compares. Exits with 1 if one of
them missed a target.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NAMES = (
    *("server", "latency", "siege", "far", "calls", "picks", "changes"),
    *(
        "failures",
        "restarts",
        "kills",
        "workers",
        "start",
        "rest",
        "help",
        "issue",
        "enroll",
        "abuse",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help="for each, instead of its own number")
    parser.add_argument("--quick", action="store_true", help="few rounds: a first impression")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    options = ["--quick"] if arguments.quick else []
    if arguments.rounds:
        options = ["--rounds", str(arguments.rounds)]
    missed = []
    for name in arguments.names or NAMES:
        print(f"\n=== {name}", flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *options], check=False)
        print(f"=== {name}: {time.monotonic() - began:.0f} s", flush=True)
        if done.returncode:
            missed.append(name)
    print(f"\nmissed a target: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
