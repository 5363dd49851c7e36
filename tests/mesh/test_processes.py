"""Three processes form one mesh and detect failures and departures."""

from __future__ import annotations

import signal
import time
from typing import Any

from aegis_core import Node

from .process import PATIENCE

NOTICE = 2.0
"""Seconds within which every node must see a killed process as failed."""


def test_every_node_sees_a_killed_process_as_failed_within_two_seconds(
    trio: Any, spawn: Any
) -> None:
    a, b, c = trio
    noticed = []
    for _ in range(3):  # the best of three counts, since the machine may be busy
        positions = {node: node.position() for node in (a, c)}
        killed_at = b.signal(signal.SIGKILL)
        failed = [
            node.wait_event("failed b", since=position) for node, position in positions.items()
        ]
        noticed.append(max(message["at"] for message in failed) - killed_at)
        positions = {node: node.position() for node in (a, c)}
        b = spawn("b", a, address=b.address)
        for node, position in positions.items():
            back = node.wait_event("updated b", since=position, status="alive")
            assert back["address"] == b.address
        if noticed[-1] < NOTICE:
            break
    print("seconds until a killed process was failed everywhere:", noticed)
    assert min(noticed) < NOTICE


def test_a_killed_process_that_restarts_at_a_new_address_replaces_its_record(
    trio: Any, spawn: Any
) -> None:
    a, b, c = trio
    b.signal(signal.SIGKILL)
    b.wait_exit()
    positions = {node: node.position() for node in (a, c)}
    again = spawn("b", c)
    for node, position in positions.items():
        message = node.wait(
            lambda message: (
                (message.get("address"), message.get("status")) == (again.address, "alive")
            ),
            since=position,
        )
        assert message["event"] == "updated b"
    for node in (a, c, again):
        assert node.ask("topology")["topology"] == {"a": "alive", "b": "alive", "c": "alive"}


def test_a_process_that_gets_sigterm_leaves_and_is_never_suspected(trio: Any) -> None:
    a, b, c = trio
    for node in (a, c):
        # The answer arrives after all earlier events, so none of them is taken for a later one.
        assert node.ask("topology")["topology"]["b"] == "alive"
    positions = {node: len(node.events) for node in (a, c)}
    b.signal(signal.SIGTERM)
    assert b.wait_exit() == 0
    for node, position in positions.items():
        node.wait_event("left b")
        assert node.events[position:] == ["left b"]
        assert node.ask("topology")["topology"] == {"a": "alive", "c": "alive"}


def test_a_stopped_process_fails_and_is_alive_again_after_it_continues(trio: Any) -> None:
    a, b, c = trio
    before = len(b.events)
    b.signal(signal.SIGSTOP)
    positions = {}
    for node in (a, c):
        node.wait_event("failed b")
        positions[node] = node.position()
    b.signal(signal.SIGCONT)
    for node, position in positions.items():
        node.wait_event("updated b", since=position, status="alive")
    # It knows that it was itself stopped, so it accuses no other node.
    assert b.ask("topology")["topology"] == {"a": "alive", "b": "alive", "c": "alive"}
    assert [event for event in b.events[before:] if event.startswith("failed")] == []


def test_the_lag_of_feeds_grows_while_a_process_is_stopped(identity: Any, spawn: Any) -> None:
    b = spawn("b")
    with Node("a", address="127.0.0.1:0", tls=identity("a"), seed_peers=[b.address]) as a:
        assert a.stats().feeds.watched == 1
        b.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while (lag := a.stats().feeds.lag) < 2.0:
            assert time.monotonic() < deadline, lag
            time.sleep(0.02)
        b.signal(signal.SIGCONT)
        # A silent feed is closed, and opened again when the other node answers.
        while not (a.stats().feeds.watched and a.stats().feeds.lag < 1.0):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_client_continues_when_the_node_that_it_follows_is_killed(trio: Any, spawn: Any) -> None:
    a, _, c = trio
    client = spawn("client", seeds=[a.address])
    ready = client.wait(lambda message: "ready" in message)
    assert ready["ready"] == ["a", "b", "c"]
    assert not ready["loaded"], "a client imports neither aegis_core nor what it does not use"
    client.wait(lambda message: message.get("calls"))
    a.signal(signal.SIGKILL)
    client.wait_event("failed a")
    position = client.position()
    client.wait(lambda message: message.get("caller") == "client", since=position)
    c.wait_event("failed a")
    assert c.ask("topology")["topology"] == {"a": "failed", "b": "alive", "c": "alive"}
    client.close_input()
    outcome = client.wait(lambda message: "answered" in message)
    assert outcome["failures"] == []
    assert set(outcome["answered"]) == {"a", "b", "c"}
    assert client.wait_exit() == 0
