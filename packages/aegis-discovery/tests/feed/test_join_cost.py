"""What a process does for each record when it joins: calls are counted, not seconds."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from aegis_discovery.feed import split_message

from .conftest import MakeSide, Side

NODES = 40

MAX_CALLS = 290
"""Calls of functions for one record, those in C and Rust included."""


def calls_of(work: Callable[[], object]) -> Counter[str]:
    """Counts the calls of functions by name, those written in C and Rust included."""
    counted: Counter[str] = Counter()

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            counted[frame.f_code.co_name] += 1
        elif event == "c_call":
            counted[argument.__name__] += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counted


def joined(server: Side, make: MakeSide) -> Counter[str]:
    client = make("client", is_node=False)
    messages = list(client.open(server).messages())

    def join() -> None:
        for message in messages:
            for part in split_message(message):
                client.reader.receive(part, source="server")

    counted = calls_of(join)
    assert client.topology.digest == server.topology.digest
    return counted


def test_each_record_of_a_join_is_verified_and_nothing_is_done_twice(
    server: Side, side: MakeSide
) -> None:
    for number in range(NODES - 1):
        node = side(f"orders-{number:02}", "orders", "invoices")
        server.pull(server.open(node))
    joined(server, side)  # what records have in common is known from now on
    counted = joined(server, side)
    assert counted["load_der_x509_certificate"] == NODES, "no certificate is parsed again"
    # The path of each certificate and the signature of each record.
    assert counted["_signature_problem"] == NODES
    assert counted["begin_verify"] == counted["_identity"] == NODES
    # None of these grows with the records.
    assert counted["build_client_verifier"] <= 3, "one for a second"
    assert counted["trust_domain_of_ca"] == counted["_decode_traits"] == counted["_service"] == 0
    assert counted["set_statuses"] <= 4, "one for a message"
    assert counted["dispatch"] <= 12, "two for a part"
    assert counted.total() / NODES <= MAX_CALLS
