"""The core of gRPC writes nothing to standard error once a package of ours is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

REFUSED_CALL = """
import sys
from importlib import import_module

for name in sys.argv[1:]:
    import_module(name)
from concurrent.futures import ThreadPoolExecutor

import grpc

option = ("grpc.compression_enabled_algorithms_bitset", 1)
server = grpc.server(ThreadPoolExecutor(1), options=[option])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}", compression=grpc.Compression.Gzip) as channel:
    try:
        channel.unary_unary("/t/Echo")(bytes(1000), timeout=20)
    except grpc.RpcError as error:
        print(error.details())
server.stop(0).wait()
"""


@pytest.mark.parametrize(
    ("imports", "writes"),
    [(["grpc"], True), (["aegis_core", "grpc"], False), (["aegis_discovery", "grpc"], False)],
)
def test_refused_calls_write_nothing(imports: list[str], *, writes: bool) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_CALL, *imports],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "is disabled" in done.stdout
    assert bool(done.stderr) == writes, done.stderr
