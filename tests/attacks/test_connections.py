"""Callers, and strangers without a certificate, hold as many connections as they can."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_core import TLSConfig

from ..mesh.process import NodeProcess
from .raw_frames import frames

MIB = 1 << 20
FEW = 24
"""File descriptors of the node; it needs some 15 itself."""


@pytest.fixture
def small_node(identity: Any, cert_dir: Path, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node that may open few file descriptors."""
    identity("a")
    limited = ("sh", "-c", f'ulimit -n {FEW}; exec "$@"', "sh")
    node = NodeProcess("a", tmp_path / "a.log", cert_dir=str(cert_dir), prefix=limited)
    assert node.address
    yield node
    node.kill()


def call(node: NodeProcess, tls: TLSConfig, timeout: float) -> bytes:
    """Makes a call on a new connection."""
    credentials = grpc.ssl_channel_credentials(
        tls.trust_bundle, tls.private_key, tls.certificate_chain
    )
    options = [("grpc.ssl_target_name_override", "a")]
    with grpc.secure_channel(node.address, credentials, options=options) as channel:
        stub = channel.unary_unary("/test.Echo/Say")
        return bytes(stub(b"", timeout=timeout, wait_for_ready=True))


@pytest.mark.soak
def test_idle_connections_do_not_keep_callers_out_of_a_node_with_few_descriptors(
    small_node: NodeProcess, identity: Any
) -> None:
    caller = identity("caller")
    assert call(small_node, caller, 20)
    host, _, port = small_node.address.partition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(2 * FEW):
            stack.enter_context(socket.create_connection((host, int(port)), 5))
        with pytest.raises(grpc.RpcError):
            call(small_node, caller, 1)
        assert len(os.listdir(f"/proc/{small_node.pid}/fd")) >= FEW - 2
        # They stay open at their end; gRPC alone would wait for two minutes.
        assert call(small_node, caller, 40)
    assert call(small_node, caller, 20)
    log = small_node.log.read_text()
    assert f"of {FEW} file descriptors are in use" in log
    assert log.count("file descriptors are in use") == 1, "one line a minute"
    assert "Traceback" not in log


def resident(process: NodeProcess) -> int:
    """Returns the memory of a process, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line)


@pytest.mark.soak
def test_many_connections_take_little_memory_and_give_it_back_within_a_minute(
    victim: NodeProcess, identity: Any, cert_dir: Path
) -> None:
    identity("mallory")
    context = ssl.create_default_context(cafile=cert_dir / "ca-cert.pem")
    context.load_cert_chain(cert_dir / "mallory-cert.pem", cert_dir / "mallory-key.pem")
    context.set_alpn_protocols(["h2"])
    host, _, port = victim.address.partition(":")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    before = resident(victim)
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(900):
                raw = stack.enter_context(socket.create_connection((host, int(port)), 5))
                with contextlib.suppress(OSError):  # the node closes those that are too many
                    tls = stack.enter_context(context.wrap_socket(raw, server_hostname="a"))
                    # The preface of HTTP/2 and empty SETTINGS end the handshake.
                    tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            assert resident(victim) < before + 50 * MIB
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    deadline = time.monotonic() + 60
    while resident(victim) > before + 25 * MIB:
        assert time.monotonic() < deadline, "the memory is not given back"
        time.sleep(1)


def test_what_strangers_and_members_send_does_not_fill_the_log(
    victim: NodeProcess, identity: Any
) -> None:
    host, _, port = victim.address.partition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), 5) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(OSError):
                while stranger.recv(1000):
                    pass
    connection = frames.Connection(
        victim.address, "a", frames.client_context(identity("mallory")), timeout=10.0
    )
    with contextlib.closing(connection):
        connection.send(
            goaway(b"text of mallory", 2) * 100 + frames.frame(frames.PING, 0, bytes(8))
        )
        while not any(
            got.kind == frames.PING and got.flags & frames.ACK for got in connection.receive()
        ):
            pass  # what came before it was read
    log = victim.log.read_text()
    assert "mallory" not in log
    assert "andshake" not in log


def goaway(text: bytes, code: int = 0) -> bytes:
    return frames.frame(frames.GOAWAY, 0, struct.pack(">II", 0, code) + text)


@pytest.mark.soak
def test_frames_that_mean_nothing_take_little_memory_and_give_it_back_at_once(
    victim: NodeProcess, identity: Any
) -> None:
    assert victim.wait(lambda message: "ready" in message)
    before = peak = resident(victim)
    context, until = frames.client_context(identity("mallory")), time.monotonic() + 3
    while time.monotonic() < until:
        # The node closes them, and refuses new ones for a while.
        with (
            contextlib.suppress(OSError),
            contextlib.closing(
                frames.Connection(victim.address, "a", context, timeout=10.0)
            ) as connection,
        ):
            while time.monotonic() < until:
                connection.send(goaway(b"x" * 500) * 50)
                peak = max(peak, resident(victim))
        peak = max(peak, resident(victim))
    assert peak < before + 100 * MIB
    deadline = time.monotonic() + 10
    while resident(victim) > before + 40 * MIB:
        assert time.monotonic() < deadline, "the memory is not given back"
        time.sleep(0.2)
