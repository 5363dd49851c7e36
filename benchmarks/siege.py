"""Honest calls to a blocking server whose other callers hold what they can, beside plain gRPC.

    uv run python benchmarks/siege.py

The server has 32 threads. 16 handlers block, 32 members send the headers of a call and no request
(each again when it is refused), and 40 watchers of the mesh read nothing. Meanwhile 8 honest
callers call with a deadline of 5 s, and a watcher notes how late the heartbeats of its feed arrive.
"""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any

import grpc
from aegis_certs import TLSConfig
from failures import callers
from frames import RST_STREAM, Connection, client_context
from harness import Row, parser_of, print_rows, within
from workload import (
    CALLER,
    SERVER,
    SMALL,
    Child,
    answer,
    children,
    from_text,
    identities,
    path,
    to_text,
    told,
)

SILENT, FROZEN, BLOCKED = 32, 40, 16
HONEST, DEADLINE = 8, 5.0
SECONDS = 12.0
MAX_LATE = 0.5
WATCH = "/aegis.mesh.v1.Mesh/Watch"


def watch_request() -> bytes:
    from aegis_discovery import DEFAULT_MESH
    from aegis_discovery.proto import mesh_pb2

    return mesh_pb2.WatchRequest(mesh=DEFAULT_MESH).SerializeToString()


def hold(address: str, members: list[TLSConfig]) -> None:
    """Opens all that is to be held, and holds it until standard input ends."""
    contexts = [client_context(tls) for tls in members]
    request = watch_request()
    frozen = [Connection(address, SERVER, context, window=0) for context in contexts]
    for connection in frozen:
        connection.call(WATCH, request)
    blocked = Connection(address, SERVER, contexts[0])
    for _ in range(BLOCKED):
        blocked.call(path("Sleep"), b"3600")
    silent = {}
    for context in contexts[:SILENT]:
        connection = Connection(address, SERVER, context)
        connection.open(path("Echo"))
        silent[connection.socket] = connection
    answer("held")
    threading.Thread(target=keep_open, args=[silent], daemon=True).start()
    sys.stdin.read()


def keep_open(silent: dict[Any, Connection]) -> None:
    """Opens a stream again whenever one ends."""
    while silent:
        readable, _, _ = select.select([*silent], [], [])
        for socket in readable:
            connection = silent[socket]
            try:
                ended = sum(
                    got.kind == RST_STREAM or got.ends_stream for got in connection.receive()
                )
                for _ in range(ended):
                    connection.open(path("Echo"))
            except OSError:
                del silent[socket]
        time.sleep(0.05)


@contextmanager
def heartbeats(channel: grpc.Channel) -> Iterator[list[float]]:
    """Reads a feed; yields the times at which messages arrived."""
    feed: Any = channel.unary_stream(WATCH)(watch_request())
    arrived: list[float] = []

    def read() -> None:
        with suppress(grpc.RpcError):
            arrived.extend(time.monotonic() for _ in feed)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield arrived
    finally:
        feed.cancel()
        reader.join()


def besiege(is_node: bool, seconds: float) -> tuple[int, int, float]:
    """Returns the failed and all honest calls, and how late the latest heartbeat was."""
    from aegis_discovery.feed._pacing import HEARTBEAT  # what the server promises

    names = [f"{CALLER}-{number}" for number in range(FROZEN)]
    server_tls, honest, *members = identities(SERVER, CALLER, *names)
    credentials = grpc.ssl_channel_credentials(
        honest.trust_bundle, honest.private_key, honest.certificate_chain
    )
    with ExitStack() as stack:
        start = partial(Child, "serve", [is_node, False], server_tls)
        (server,) = stack.enter_context(children(start))
        options = [("grpc.ssl_target_name_override", SERVER)]
        channel: Any = grpc.secure_channel(server.started, credentials, options=options)
        stack.enter_context(channel)
        stub = channel.unary_unary(path("Echo"))
        stub(SMALL, timeout=10)
        arrived = stack.enter_context(heartbeats(channel))
        settings = [server.started, [to_text(tls) for tls in members]]
        stack.enter_context(
            children(partial(Child, "hold", settings, honest, module=__file__)),
        )
        began = time.monotonic()
        with callers([lambda: stub(SMALL, timeout=DEADLINE)] * HONEST, 0.01) as calls:
            time.sleep(seconds)
        ended = time.monotonic()
        times = [began, *(at for at in arrived if began < at < ended), ended]
        gap = max(later - sooner for sooner, later in pairwise(times))
    failed = sum(call.failed for call in calls)
    slowest = max(call.took for call in calls)
    late = max(0.0, gap - HEARTBEAT)
    who = "blocking node" if is_node else "grpc.server"
    shown = f"{late:.2f}" if is_node else "-"
    print(f"{who:14} {len(calls):6}   {failed:6}   {slowest:10.2f}   {shown:>8}", flush=True)
    return failed, len(calls), late


def report(rounds: int = 3) -> list[Row]:
    print(f"{HONEST} honest callers; {SILENT} send headers only, {FROZEN} watchers read nothing,")
    print(f"{BLOCKED} handlers of 32 threads block")
    print("                calls   failed   slowest, s   late, s")
    besiege(is_node=False, seconds=SECONDS)
    taken = [besiege(is_node=True, seconds=SECONDS) for _ in range(rounds)]
    failed, calls = (sum(run[place] for run in taken) for place in (0, 1))
    late = max(run[2] for run in taken)
    what = "a blocking node under siege"
    return [
        Row(f"{what}: honest calls failed", f"{failed} of {calls:,}", "0", failed == 0 < calls),
        Row(
            f"{what}: heartbeats late by",
            f"{late:.2f} s",
            f"{MAX_LATE} s",
            within(late, MAX_LATE),
            True,
        ),
    ]


def main() -> int:
    if sys.argv[1:] == ["hold"]:
        _, (address, members) = told()
        hold(address, [from_text(member) for member in members])
        return 0
    return print_rows(report(parser_of(__doc__, rounds=2, quick=1).parse_args().rounds))


if __name__ == "__main__":
    sys.exit(main())
