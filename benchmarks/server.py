"""What a node costs on the server, compared with the gRPC server that a service would have instead.

    uv run python benchmarks/server.py

A blocking node is compared with `grpc.server(ThreadPoolExecutor(32))`, an async one with
`grpc.aio.server()`. All have the same handlers, mutual TLS and channel arguments, one process each;
a node also identifies the caller, checks its certificate, applies a policy and counts. The CPU time
is the server's. The caller is another process. Its unary calls are made with plain HTTP/2 frames
(`frames.py`), so that the server and not the caller limits the calls per second; streams, uploads
and large messages are made with a gRPC channel.

What a call costs differs more between two starts of the same server than within one, so both are
started several times, and a row is the median of the medians of all starts.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from harness import (
    Estimate,
    Row,
    alternate,
    estimate,
    judge,
    judge_at_least,
    parser_of,
    print_rows,
)
from workload import CALLER, CHUNK, SERVER, Child, children, identities

MAX_ADDED = 25
"""CPU us a unary call, at one caller."""

MIN_THROUGHPUT = 0.87
UNARY_ROUNDS = 3

STARTS = 5
"""How often each server is started, where there are twice as many rounds."""


class Shape(NamedTuple):
    """One way to call.

    Attributes:
        what: For the table.
        job: The caller's method, and its arguments.
        count: The units (calls, messages, megabytes) in it.
        unit: One of them.
        at_most: The largest ratio of a node's CPU time, blocking and async.
    """

    what: str
    job: tuple[str, *tuple[int, ...]]
    count: float
    unit: str
    at_most: tuple[float, float]


UNARY, MEGABYTES = (1.15, 1.08), 100
CHUNKS = MEGABYTES * 10**6 // len(CHUNK)
FIRST = Shape("unary, 1 caller", ("calls", 100, 1), 100, "call", UNARY)
SHAPES = (
    FIRST,
    Shape("unary, 16 callers", ("calls", 400, 16), 400, "call", UNARY),
    Shape("unary, 64 callers", ("calls", 400, 64), 400, "call", UNARY),
    Shape("stream of 10 000", ("download", 10_000), 10_000, "message", (1.20, 1.05)),
    Shape("upload of 100 MB", ("upload", CHUNKS), MEGABYTES, "MB", (1.10, 1.05)),
    Shape("unary of 3 MB", ("large", 10), 10, "call", (1.10, 1.10)),
)


class Sample(NamedTuple):
    cpu: float
    """CPU us of the server for one unit."""
    rate: float
    """Units a second."""


def measure(caller: Child, server: Child, name: str, shape: Shape) -> Sample:
    job, *arguments = shape.job
    began = server.cpu()
    took = caller.ask([job, name, *arguments])
    return Sample((server.cpu() - began) / shape.count * 1e6, shape.count / took)


class Start(NamedTuple):
    """The samples of one start of both servers, in pairs."""

    plain: list[Sample]
    node: list[Sample]

    def middle(self, figure: Callable[[Sample, Sample], float]) -> float:
        """Returns the median of a figure of a node's sample and the plain server's."""
        return statistics.median(map(figure, self.node, self.plain))


def compare(is_aio: bool, rounds: int) -> list[Row]:
    kind, plain = ("async", "grpc.aio") if is_aio else ("blocking", "grpc.server")
    starts = max(1, min(STARTS, rounds // 2))
    taken: dict[Shape, list[Start]] = {shape: [] for shape in SHAPES}
    for number in range(starts):
        for shape, start in one_start(is_aio, rounds // starts, backwards=number % 2).items():
            taken[shape].append(start)
    print(f"{kind + ' node':22} {plain + ', CPU us':24} {'node / ' + plain:22} throughput")
    return [row for shape in SHAPES for row in judged(shape, kind, plain, taken[shape], is_aio)]


def one_start(is_aio: bool, rounds: int, *, backwards: int) -> dict[Shape, Start]:
    """Starts both servers, in this order or backwards, and calls them in turn."""
    server_tls, caller_tls = identities(SERVER, CALLER)
    names = ("node", "plain") if backwards else ("plain", "node")
    serve = [partial(Child, "serve", [name == "node", is_aio], server_tls) for name in names]
    samples = {}
    with children(*serve) as servers:
        named = dict(zip(names, servers, strict=True))
        targets = {name: child.started for name, child in named.items()}
        with children(lambda: Child("call", targets, caller_tls)) as (caller,):
            for shape in SHAPES:
                runs = {
                    name: partial(measure, caller, child, name, shape)
                    for name, child in named.items()
                }
                # Unary calls vary more and take less time than the other shapes.
                often = UNARY_ROUNDS if shape.at_most is UNARY else 1
                samples[shape] = Start(**alternate(runs, rounds=rounds * often))
    return samples


def judged(shape: Shape, kind: str, base: str, starts: Sequence[Start], is_aio: bool) -> list[Row]:
    def over_starts(figure: Callable[[Sample, Sample], float]) -> Estimate:
        return estimate([start.middle(figure) for start in starts])

    cost = over_starts(lambda _, plain: plain.cpu)
    cpu = over_starts(lambda node, plain: node.cpu / plain.cpu)
    rate = over_starts(lambda node, plain: node.rate / plain.rate)
    print(f"{shape.what:22} {f'{cost:.1f}':24} {f'{cpu:.3f}':22} {rate:.3f}", flush=True)
    what = f"{kind} node / {base}, {shape.what}"
    rows = [
        judge(f"{what}: CPU a {shape.unit}", cpu, shape.at_most[is_aio], ".3f"),
        judge_at_least(f"{what}: {shape.unit}s per second", rate, MIN_THROUGHPUT, ".3f"),
    ]
    if shape is FIRST:
        added = over_starts(lambda node, plain: node.cpu - plain.cpu)
        rows.insert(
            0, judge(f"added by a {kind} node, {shape.what}", added, MAX_ADDED, ".1f", "us")
        )
    return rows


def report(rounds: int = 20, only: str = "") -> list[Row]:
    kinds = [only == "async"] if only else [False, True]
    return [row for is_aio in kinds for row in compare(is_aio, rounds)]


def main() -> int:
    parser = parser_of(__doc__, rounds=20, quick=4)
    parser.add_argument("--only", choices=("blocking", "async"), default="")
    arguments = parser.parse_args()
    return print_rows(report(arguments.rounds, arguments.only))


if __name__ == "__main__":
    sys.exit(main())
