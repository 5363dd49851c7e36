"""What a heartbeat costs both ends of a feed, of which a process at rest does little else."""

from __future__ import annotations

from .conftest import MakeSide, Side
from .test_join_cost import calls_of

MAX_CALLS = {"server": 8, "watcher": 36}
"""Calls of functions, those in C included: 6 of a look for changes, 31 of a heartbeat received."""


def test_a_heartbeat_costs_few_calls_at_both_ends(server: Side, side: MakeSide) -> None:
    watcher = side("watcher")
    feed = watcher.open(server)
    watcher.pull(feed)
    watcher.pull(feed)
    heartbeat = feed.heartbeat()

    def receive() -> None:
        assert watcher.reader.receive(heartbeat, source="server").news == 0

    receive()
    counted = {
        "server": calls_of(lambda: [*feed.messages()]),
        "watcher": calls_of(receive),
    }
    assert {end: count.total() <= MAX_CALLS[end] for end, count in counted.items()} == {
        "server": True,
        "watcher": True,
    }, counted
