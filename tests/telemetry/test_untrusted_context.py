"""What a caller sends as the context of a trace is bounded, and never breaks a call."""

from __future__ import annotations

import logging
import random

import pytest
from aegis_core.testing import LocalMesh
from aegis_discovery.telemetry._propagation import MAX_METADATA, context_from, with_context
from opentelemetry import baggage, trace

from .conftest import Observed, method, options

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def entries(count):
    return ",".join(f"k{n}=v{n}" for n in range(count))


IGNORED = {
    "garbage": [("traceparent", "not a trace")],
    "empty": [("traceparent", "")],
    "long": [("traceparent", "0" * 10_000)],
    "long but well formed at first": [
        ("traceparent", f"01-{TRACE_ID}-{SPAN_ID}-01-" + "x" * 10_000)
    ],
    "zero": [("traceparent", f"00-{'0' * 32}-{SPAN_ID}-01")],
    "not ascii": [("traceparent", "\u00e9" * 55)],
    "spaces": [("traceparent", PARENT + " " * 10_000 + "x")],
    "bytes": [("traceparent-bin", b"\x00" * 55)],
}


@pytest.mark.parametrize("metadata", IGNORED.values(), ids=IGNORED)
def test_a_context_that_cannot_be_read_is_as_none(metadata, caplog):
    span = trace.get_current_span(context_from(metadata))
    assert not span.get_span_context().is_valid
    assert caplog.records == []


STATES = {
    "a thousand entries": entries(1000),
    "too many entries": entries(33),
    "long": "k=" + "v" * 600,
    "malformed": "K=V",
    "control": "k=\x00",
    "duplicate": "k=1,k=2",
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_state_that_is_not_sound_is_dropped_and_the_trace_goes_on(state, caplog):
    context = context_from([("traceparent", PARENT), ("tracestate", state)])
    found = trace.get_current_span(context).get_span_context()
    assert f"{found.trace_id:032x}" == TRACE_ID
    assert len(found.trace_state) == 0
    assert caplog.records == []


def test_a_sound_state_is_passed_on():
    state = "rojo=00f067aa0ba902b7,tenant@vendor=t61rcWkgMzE"
    context = context_from([("traceparent", PARENT), ("tracestate", state)])
    assert ("tracestate", state) in with_context((), context)


@pytest.mark.parametrize(
    "value", ["k=" + "v" * 5000, entries(65), "no pair", 'k="quoted"', "k=v,,", "=v", "k = v"]
)
def test_baggage_that_is_not_sound_is_dropped(value, caplog):
    assert baggage.get_all(context_from([("baggage", value)])) == {}
    assert caplog.records == []


def test_sound_baggage_is_passed_on():
    context = context_from([("baggage", "user=7, tier=gold;ttl=1")])
    assert dict(baggage.get_all(context)) == {"user": "7", "tier": "gold;ttl=1"}
    assert dict(with_context((), context))["baggage"].startswith("user=7,")


def test_whatever_is_let_through_is_read_without_a_warning(caplog):
    chance = random.Random(1)
    read = 0
    for _ in range(5000):
        value = "".join(chance.choices("abk=;,= \t\"%21/-_.~!*'()@", k=chance.randint(1, 12)))
        state = context_from([("traceparent", PARENT), ("tracestate", value)])
        read += len(trace.get_current_span(state).get_span_context().trace_state)
        carried = context_from([("baggage", value)])
        read += len(baggage.get_all(carried))
        with_context((), carried)
    assert read > 50
    assert caplog.records == []


def test_the_context_takes_the_place_of_one_that_the_caller_gave():
    context = context_from([("traceparent", PARENT)])
    given = [("traceparent", "00-1-1-00"), ("x-id", "7"), ("x-bin", b"\x00")]
    assert with_context(given, context) == (
        ("x-id", "7"),
        ("x-bin", b"\x00"),
        ("traceparent", PARENT),
    )


def test_metadata_that_is_large_already_gets_the_trace_alone():
    sent = [("traceparent", PARENT), ("tracestate", "a=1"), ("baggage", "k=" + "v" * 4000)]
    token = ("authorization", "x" * 5000)
    made = with_context([token], context_from(sent))
    assert made == (token, ("traceparent", PARENT))
    small = with_context([], context_from(sent))
    assert {key for key, _ in small} == {"traceparent", "tracestate", "baggage"}
    assert sum(len(key) + len(value) for key, value in small) < MAX_METADATA


def test_hostile_contexts_break_no_call_and_fill_no_log(caplog):
    observed = Observed()

    def unary(request, context):
        return b"%032x" % trace.get_current_span().get_span_context().trace_id

    with LocalMesh() as mesh:
        mesh.start("back-1", **options("back", {"unary_unary": unary}, observed))
        ask = method(mesh.connect("attacker-1"), "back", "unary_unary")
        # gRPC itself refuses other characters, and more than 8 KiB.
        hostile = [
            *(one for name, one in IGNORED.items() if name != "not ascii"),
            *([("tracestate", state)] for name, state in STATES.items() if name != "control"),
            [("baggage", "k=" + "v" * 7000)],
        ]
        hostile = [[(key, value[:7000]) for key, value in one] for one in hostile]
        with caplog.at_level(logging.WARNING):
            for metadata in hostile:
                answer = ask(b"?", metadata=metadata, timeout=10)
                assert answer != b"0" * 32
                assert answer != TRACE_ID.encode()
            assert ask(b"?", metadata=[("traceparent", PARENT)], timeout=10) == TRACE_ID.encode()
        assert [r for r in caplog.records if r.name.startswith(("opentelemetry", "aegis"))] == []
        received = observed.spans(len(hostile) + 1)
    assert {span.attributes["aegis.caller"] for span in received} == {"attacker-1"}
    assert [span.parent is not None for span in received].count(True) == 1
