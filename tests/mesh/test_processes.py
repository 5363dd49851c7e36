"""Three processes are one mesh, and notice what becomes of each other."""

from __future__ import annotations

import signal
import time
from typing import Any

from aegis_core import Node

from .process import PATIENCE

NOTICE = 2.0
"""Seconds within which a killed process is failed everywhere."""


def test_a_killed_process_is_failed_everywhere_within_two_seconds(trio: Any, spawn: Any) -> None:
    a, b, c = trio
    noticed = []
    for _ in range(3):  # the best of three: a machine may be too busy for any promise
        marks = {node: node.mark() for node in (a, c)}
        killed_at = b.signal(signal.SIGKILL)
        told = [node.wait_event("failed b", since=mark) for node, mark in marks.items()]
        noticed.append(max(fact["at"] for fact in told) - killed_at)
        marks = {node: node.mark() for node in (a, c)}
        b = spawn("b", a, address=b.address)
        for node, mark in marks.items():
            back = node.wait_event("updated b", since=mark, status="alive")
            assert back["address"] == b.address
        if noticed[-1] < NOTICE:
            break
    print("seconds until a killed process was failed everywhere:", noticed)
    assert min(noticed) < NOTICE


def test_a_killed_process_that_comes_back_elsewhere_replaces_its_entry(
    trio: Any, spawn: Any
) -> None:
    a, b, c = trio
    b.signal(signal.SIGKILL)
    b.wait_exit()
    marks = {node: node.mark() for node in (a, c)}
    again = spawn("b", c)
    for node, mark in marks.items():
        told = node.wait(
            lambda fact: (fact.get("address"), fact.get("status")) == (again.address, "alive"),
            since=mark,
        )
        assert told["event"] == "updated b"
    for node in (a, c, again):
        assert node.ask("topology")["topology"] == {"a": "alive", "b": "alive", "c": "alive"}


def test_a_process_that_is_told_to_end_leaves_and_nobody_suspects_it(trio: Any) -> None:
    a, b, c = trio
    for node in (a, c):
        # Its answer comes after the events before it, so that none of them is read as news later.
        assert node.ask("topology")["topology"]["b"] == "alive"
    marks = {node: len(node.events) for node in (a, c)}
    b.signal(signal.SIGTERM)
    assert b.wait_exit() == 0
    for node, mark in marks.items():
        node.wait_event("left b")
        assert node.events[mark:] == ["left b"]
        assert node.ask("topology")["topology"] == {"a": "alive", "c": "alive"}


def test_a_process_that_stood_still_is_failed_and_then_alive_again(trio: Any) -> None:
    a, b, c = trio
    before = len(b.events)
    b.signal(signal.SIGSTOP)
    marks = {}
    for node in (a, c):
        node.wait_event("failed b")
        marks[node] = node.mark()
    b.signal(signal.SIGCONT)
    for node, mark in marks.items():
        node.wait_event("updated b", since=mark, status="alive")
    # It was its own clock that stood still: it accuses nobody.
    assert b.ask("topology")["topology"] == {"a": "alive", "b": "alive", "c": "alive"}
    assert [event for event in b.events[before:] if event.startswith("failed")] == []


def test_the_lag_of_feeds_grows_while_a_process_stands_still(identity: Any, spawn: Any) -> None:
    b = spawn("b")
    with Node("a", address="127.0.0.1:0", tls=identity("a"), seed_peers=[b.address]) as a:
        assert a.stats().feeds.watched == 1
        b.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while (lag := a.stats().feeds.lag) < 2.0:
            assert time.monotonic() < deadline, lag
            time.sleep(0.02)
        b.signal(signal.SIGCONT)
        # Feeds that fall silent are ended, and begun anew once the other end answers.
        while not (a.stats().feeds.watched and a.stats().feeds.lag < 1.0):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_client_goes_on_when_the_node_that_it_follows_is_killed(trio: Any, spawn: Any) -> None:
    a, _, c = trio
    client = spawn("client", seeds=[a.address])
    ready = client.wait(lambda fact: "ready" in fact)
    assert ready["ready"] == ["a", "b", "c"]
    assert ready["core"] is False, "a client needs no node's code"
    client.wait(lambda fact: fact.get("calls"))
    a.signal(signal.SIGKILL)
    client.wait_event("failed a")
    mark = client.mark()
    client.wait(lambda fact: fact.get("caller") == "client", since=mark)
    c.wait_event("failed a")
    assert c.ask("topology")["topology"] == {"a": "failed", "b": "alive", "c": "alive"}
    client.close_input()
    outcome = client.wait(lambda fact: "answered" in fact)
    assert outcome["failures"] == []
    assert set(outcome["answered"]) == {"a", "b", "c"}
    assert client.wait_exit() == 0
