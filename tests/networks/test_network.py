"""The test network itself: it drops packets as requested and is removed completely."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .cluster import let_pass
from .network import Host, Network

HOLD = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from network import Network
network = Network(2)
print(*(host.name for host in network.hosts), flush=True)
sys.stdin.read()
"""


def answers(source: Host, target: Host) -> bool:
    """Tells whether a TCP SYN gets an answer; no process listens, so that is a refusal."""
    script = f"""
import socket
s = socket.socket()
s.settimeout(0.3)
try:
    s.connect(({target.ip!r}, 9))
except ConnectionRefusedError:
    print("answers")
except OSError:
    pass
"""
    done = subprocess.run(
        [*source.prefix, sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout == "answers\n"


def test_packets_pass_or_are_dropped_as_requested(make_network: Callable[[int], Network]) -> None:
    with make_network(3) as network:
        a, b, c = network.hosts
        assert answers(a, b)
        network.drop([a], [b])
        assert not answers(a, b)
        assert not answers(b, a), "the answers are dropped"
        assert answers(a, c)
        network.heal()
        network.unplug(c)
        assert not answers(a, c)
        assert answers(a, b)
        network.plug(c)
        assert answers(a, c)
        network.cut([a, b], [c])
        assert not answers(c, b)
        network.heal()
        assert answers(c, b)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_no_namespace_remains_when_the_process_ends(
    make_network: Callable[[int], Network], how: signal.Signals
) -> None:
    make_network(1).close()  # skips the test if networks are not permitted
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        names = holder.stdout.readline().split()
        assert namespaces().issuperset(names)
        stuck = subprocess.Popen(
            ["ip", "netns", "exec", names[0], "sh", "-c", "echo here; read line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert stuck.stdout is not None
            assert stuck.stdout.readline() == b"here\n"
            stuck.send_signal(signal.SIGSTOP)
            holder.send_signal(how)
            assert stuck.wait(10) == -signal.SIGKILL
        finally:
            holder.kill()
            stuck.kill()
            stuck.communicate()
    deadline = time.monotonic() + 10
    while namespaces() & set(names):
        assert time.monotonic() < deadline, "the namespaces are still there"
        let_pass(0.05)


def namespaces() -> set[str]:
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listing.stdout.splitlines()}
