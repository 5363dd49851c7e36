"""Measures what membership promises: one line for each promise.

    uv run python benchmarks/membership

Real rows run real processes, one per node, on this machine; `--only` picks rows by name. Exits
with 1 if a row missed its target. As in the other benchmarks, CPU time is not judged on a machine
that was busy or slow: such a row says `busy` in place of `MISSED`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

import large
import processes
import regions
import registry
import shares
import simulated
from machine import was_busy
from table import Measured, Row

ROWS = (
    *processes.ROWS,
    *large.ROWS,
    *registry.ROWS,
    *simulated.ROWS,
    *regions.ROWS,
    *shares.ROWS,
)


def numbers(values: tuple[float, ...]) -> str:
    return " / ".join(f"{value:.4g}" for value in values)


def as_json(row: Row, nodes: int, measured: Measured, verdict: str) -> str:
    return json.dumps(
        {
            "name": row.name,
            "what": row.what,
            "nodes": nodes,
            "unit": row.unit,
            "at_most": row.at_most,
            "measured": measured.values,
            "holds": row.holds(measured),
            "verdict": verdict,
            "note": measured.note,
        }
    )


def as_line(row: Row, nodes: int, measured: Measured, verdict: str) -> str:
    limits, values = numbers(row.at_most), numbers(measured.values)
    line = f"{row.name:12} {nodes:6,}  {limits:>11}  {values:>15} {row.unit:9} {verdict:7}"
    return f"{line} {row.what}\n{'':12} {measured.note}"


def main() -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", choices=names, help="may be given more than once"
    )
    parser.add_argument("--nodes", type=int, help="another size of the mesh than the row's own")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    if not arguments.json:
        print("row           nodes      at most         measured")
    missed = False
    for row in ROWS:
        if arguments.only and row.name not in arguments.only:
            continue
        nodes = arguments.nodes or row.nodes
        measured = row.measure(nodes)
        busy, machine = was_busy()
        verdict = row.verdict(measured, busy=busy)
        missed |= verdict == "MISSED"
        if row.cpu_values:
            measured = replace(measured, note=f"{measured.note}. {machine}")
        print((as_json if arguments.json else as_line)(row, nodes, measured, verdict), flush=True)
    sys.exit(missed)


if __name__ == "__main__":
    main()
