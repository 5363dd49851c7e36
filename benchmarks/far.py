"""Transfers over a line with a round trip of 100 ms, through the mesh and on plain gRPC.

    uv run python benchmarks/far.py

A client of the mesh calls a node through `pool.channel`, against plain gRPC with its defaults at
both ends: a large request and a large response, streams of small messages in both directions, and
small calls beside large requests of the same caller. A process between them holds all bytes back
for 50 ms in each direction. A node takes 16 KiB of what its handlers do not read (`UNREAD`), so
what it receives has no target: a longer window would let one caller fill the memory of the node.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import grpc.aio
from aegis_certs import TLSConfig
from harness import GATE, Row, alternate, estimate, judge, parser_of, print_rows, ratios
from workload import (
    CALLER,
    LARGE,
    NAME,
    SERVER,
    SMALL,
    THREADS,
    Child,
    answer,
    children,
    identities,
    node_options,
    path,
    plain_credentials,
    told,
)

ONE_WAY = 0.05
"""Seconds that the line takes in each direction."""

MESSAGE, MESSAGES = b"x" * 10_000, 200
BESIDE, LARGE_AT_ONCE = b"x" * 1_000_000, 16
TIMEOUT = 60
TRANSFERS = {
    "request": "a request of 3 MB",
    "upload": "2 MB in 200 messages, sent",
    "response": "a response of 3 MB",
    "download": "2 MB in 200 messages, received",
}
RECEIVED = ("response", "download")


def take(request: bytes, context: Any) -> bytes:
    return b""


def give(request: bytes, context: Any) -> bytes:
    return LARGE


def stream(request: bytes, context: Any) -> Iterator[bytes]:
    yield from (MESSAGE for _ in range(MESSAGES))


def count(requests: Iterator[bytes], context: Any) -> bytes:
    return b"%d" % sum(map(len, requests))


async def take_async(request: bytes, context: Any) -> bytes:
    return b""


async def give_async(request: bytes, context: Any) -> bytes:
    return LARGE


async def stream_async(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(MESSAGES):
        yield MESSAGE


async def count_async(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"%d" % sum([len(request) async for request in requests])


def register(server: Any, is_aio: bool) -> None:
    unary, download = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Ask": unary(take_async if is_aio else take),
        "Take": unary(take_async if is_aio else take),
        "Give": unary(give_async if is_aio else give),
        "Stream": download(stream_async if is_aio else stream),
        "Count": grpc.stream_unary_rpc_method_handler(count_async if is_aio else count),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


async def hold_back() -> None:
    """Listens, learns where to connect, and passes bytes on when they have been under way."""
    loop = asyncio.get_running_loop()
    target: list[str] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 18):
                loop.call_later(ONE_WAY, writer.write, data)
        loop.call_later(ONE_WAY, writer.close)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*target[0].rsplit(":", 1))
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        answer(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        target.append((await asyncio.to_thread(sys.stdin.readline)).strip(' "\n'))
        answer("ready")
        await asyncio.to_thread(sys.stdin.read)


async def serve_async(tls: TLSConfig, options: dict[str, Any] | None) -> None:
    if options is not None:
        from aegis_core.aio import Node

        async with Node(tls.node_id, **options) as node:
            answer(node.server.address)
            await asyncio.to_thread(sys.stdin.read)
        return
    server = grpc.aio.server()
    register(server, is_aio=True)
    port = server.add_secure_port("127.0.0.1:0", plain_credentials(tls))
    await server.start()
    answer(f"127.0.0.1:{port}")
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


def serve_blocking(tls: TLSConfig, options: dict[str, Any] | None) -> None:
    if options is not None:
        from aegis_core import Node

        with Node(tls.node_id, **options) as node:
            answer(node.server.address)
            sys.stdin.read()
        return
    server = grpc.server(ThreadPoolExecutor(THREADS))
    register(server, is_aio=False)
    port = server.add_secure_port("127.0.0.1:0", plain_credentials(tls))
    server.start()
    answer(f"127.0.0.1:{port}")
    sys.stdin.read()
    server.stop(0).wait()


def serve() -> None:
    tls, (line, is_node, is_aio) = told()
    options = {
        **node_options(tls, is_aio),
        "advertise": line,
        "registrars": [functools.partial(register, is_aio=is_aio)],
    }
    given = options if is_node else None
    if is_aio:
        asyncio.run(serve_async(tls, given))
    else:
        serve_blocking(tls, given)


class Caller:
    """Makes the transfers on one channel."""

    def __init__(self, channel: Any) -> None:
        self._ask, self._take, self._give = map(channel.unary_unary, map(path, _UNARY))
        self._stream = channel.unary_stream(path("Stream"))
        self._count = channel.stream_unary(path("Count"))
        self._ask(SMALL, timeout=TIMEOUT)

    def request(self) -> float:
        return _timed(lambda: self._take(LARGE, timeout=TIMEOUT))

    def response(self) -> float:
        return _timed(lambda: self._give(SMALL, timeout=TIMEOUT))

    def upload(self) -> float:
        messages = (MESSAGE for _ in range(MESSAGES))
        return _timed(lambda: self._count(messages, timeout=TIMEOUT))

    def download(self) -> float:
        return _timed(lambda: sum(map(len, self._stream(SMALL, timeout=TIMEOUT))))

    def beside(self) -> float:
        """Returns the seconds of the slowest of 100 small calls beside large requests."""
        with ThreadPoolExecutor(LARGE_AT_ONCE) as large, ThreadPoolExecutor(10) as small:
            sent = [large.submit(self._take, BESIDE, timeout=TIMEOUT) for _ in range(LARGE_AT_ONCE)]
            asked = [
                small.submit(_timed, functools.partial(self._ask, SMALL, timeout=TIMEOUT))
                for _ in range(100)
            ]
            for call in sent:
                call.result()
            return max(call.result() for call in asked)


_UNARY = ("Ask", "Take", "Give")


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def call() -> None:
    tls, (line, is_mesh) = told()
    with ExitStack() as stack:
        if is_mesh:
            from aegis_discovery import connect

            channel: Any = stack.enter_context(connect(line, tls=tls)).pool.channel(NAME, "v1")
        else:
            credentials = grpc.ssl_channel_credentials(
                tls.trust_bundle, tls.private_key, tls.certificate_chain
            )
            options = [("grpc.ssl_target_name_override", SERVER)]
            channel = stack.enter_context(grpc.secure_channel(line, credentials, options=options))
        caller = Caller(channel)
        answer("ready")
        for line in sys.stdin:
            answer(getattr(caller, line.strip(' "\n'))())


def compare(is_aio: bool, rounds: int) -> list[Row]:
    server_tls, caller_tls = identities(SERVER, CALLER)
    callers: dict[str, Child] = {}
    child = functools.partial(Child, module=__file__)
    kind = "async" if is_aio else "blocking"
    rows = []
    with ExitStack() as stack:

        def start(role: str, settings: object, tls: TLSConfig) -> Child:
            return stack.enter_context(children(lambda: child(role, settings, tls)))[0]

        for side, is_mesh in (("plain", False), ("mesh", True)):
            line = start("line", None, caller_tls)
            server = start("serve", [line.started, is_mesh, is_aio], server_tls)
            line.ask(server.started)
            callers[side] = start("call", [line.started, is_mesh], caller_tls)
        for transfer, what in TRANSFERS.items():
            taken = alternate(
                {side: functools.partial(c.ask, transfer) for side, c in callers.items()},
                rounds=rounds,
                warm_up=1,
            )
            plain, mesh = estimate(taken["plain"]), estimate(taken["mesh"])
            ratio = ratios(taken["mesh"], taken["plain"])
            print(f"{kind:8}  {what:31} {plain:.2f}   {mesh:.2f}   {ratio:.2f}", flush=True)
            name = f"{what}, time of mesh / plain gRPC, {kind}"
            if transfer in RECEIVED:
                rows.append(judge(name, ratio, GATE, ".2f"))
            else:
                rows.append(Row(name, f"{ratio:.2f}", "none", ok=True))
        slowest = estimate([callers["mesh"].ask("beside") for _ in range(rounds)])
        what = f"slowest of 100 small calls beside 16 requests of 1 MB, {kind}"
        rows.append(judge(what, slowest, 1.0, ".2f", "s"))
    return rows


def report(rounds: int) -> list[Row]:
    print("seconds over a round trip of 100 ms; median of rounds [95 % interval]")
    print(" " * 42 + "plain gRPC          mesh                ratio")
    return [row for is_aio in (False, True) for row in compare(is_aio, rounds)]


def main() -> int:
    role = sys.argv[1:]
    if role == ["line"]:
        told()
        asyncio.run(hold_back())
    elif role == ["serve"]:
        serve()
    elif role == ["call"]:
        call()
    else:
        return print_rows(report(parser_of(__doc__, rounds=8, quick=3).parse_args().rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
