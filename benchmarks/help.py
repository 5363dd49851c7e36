"""What `aegis-certs --help` costs, against the help of a bare click group with as many commands.

    uv run python benchmarks/help.py

Both are whole processes, in turn; what counts is their CPU time. The target is a ratio of at most
1.3.
"""

from __future__ import annotations

import json
import sys
from functools import partial

from harness import alternate, estimate, judge, parser_of, print_rows, python_cpu, ratios

BARE = """
import click
@click.group()
@click.version_option("1")
def group(): "A group."
for number in range(13):
    group.command(f"command-{number}", help="Do something.")(lambda: None)
group(prog_name="group")
"""
OURS = "from aegis_certs._main import main; main()"
TARGET = 1.3


def main() -> None:
    parser = parser_of(__doc__, rounds=30, quick=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    samples = alternate(
        {name: partial(python_cpu, name, "--help") for name in (BARE, OURS)},
        rounds=arguments.rounds,
    )
    ratio = ratios(samples[OURS], samples[BARE])
    bare, ours = estimate(samples[BARE]), estimate(samples[OURS])
    row = judge("aegis-certs --help / a bare group's", ratio, TARGET, ".2f")
    if arguments.json:
        print(json.dumps({"ratio": vars(ratio), "bare_ms": vars(bare), "ours_ms": vars(ours)}))
    else:
        print(f"a bare click group   {bare:.1f} ms")
        print(f"aegis-certs          {ours:.1f} ms")
        print_rows([row])
    sys.exit(not row.ok)


if __name__ == "__main__":
    main()
