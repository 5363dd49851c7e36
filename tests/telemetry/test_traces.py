"""A call through several services is one trace, whatever kind of node and handler each has."""

from __future__ import annotations

import asyncio
import socket
import threading

import aegis_discovery
import aegis_discovery.aio
import grpc
import grpc.aio
import pytest
from aegis_core import Node, ServiceInfo
from aegis_core.testing import LocalMesh, identity
from aegis_core.testing import aio as testing_aio
from aegis_discovery.policy import CallRule, Policy
from aegis_discovery.telemetry import OpenTelemetry
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from .conftest import Observed, method, options, path_to_root

ANSWER = b"42"
SERVICE = ServiceInfo("back", "v1")
TIMEOUT = 10


def back_handlers():
    def unary(request, context):
        return ANSWER

    def stream(request, context):
        yield from (ANSWER, ANSWER)

    return {"unary_unary": unary, "unary_stream": stream}


def relaying(node_of, name):
    """Handlers of a blocking node that ask another service."""

    def unary(request, context):
        return method(node_of(), name, "unary_unary")(request, timeout=TIMEOUT)

    def stream(request, context):
        yield from method(node_of(), name, "unary_stream")(request, timeout=TIMEOUT)

    return {"unary_unary": unary, "unary_stream": stream}


def relaying_async(node_of, name):
    """The same as coroutines."""

    async def unary(request, context):
        return await method(node_of(), name, "unary_unary")(request, timeout=TIMEOUT)

    async def stream(request, context):
        async for message in method(node_of(), name, "unary_stream")(request, timeout=TIMEOUT):
            yield message

    return {"unary_unary": unary, "unary_stream": stream}


def one_trace(spans, name):
    """Checks that spans are a call through `front`, `middle` and `back`, below a span `request`."""
    assert {span.context.trace_id for span in spans} == {spans[0].context.trace_id}
    path = [
        f"{kind}.test.{service}.{name}"
        for service in ("Front", "Middle", "Back")
        for kind in ("Sent", "Attempt", "Recv")
    ]
    assert [span.name for span in spans] == ["request", *path]
    assert path_to_root(spans[-1], spans) == ["request", *path][::-1]


@pytest.mark.parametrize("middle_relay", [relaying, relaying_async], ids=["threads", "coroutines"])
async def test_a_call_over_blocking_async_and_blocking_nodes_is_one_trace(middle_relay):
    observed = Observed()
    async with testing_aio.LocalMesh() as mesh:
        middle_of = lambda: middle  # noqa: E731 - it is made below
        if middle_relay is relaying:  # its handlers block, so they have a blocking client
            middle_of = lambda: client  # noqa: E731
        middle = await mesh.start(
            "middle-1", **options("middle", middle_relay(middle_of, "back"), observed)
        )
        blocking = {
            name: Node(
                f"{name}-1",
                address="127.0.0.1:0",
                tls=identity(f"{name}-1"),
                seed_peers=[middle.address],
                **options(name, handlers, observed),
            )
            for name, handlers in {
                "front": relaying(lambda: blocking["front"], "middle"),
                "back": back_handlers(),
            }.items()
        }
        try:
            for node in blocking.values():
                await asyncio.to_thread(node.start)
            client = await asyncio.to_thread(
                lambda: aegis_discovery.connect(
                    middle.address, tls=identity("gateway-1"), telemetry=observed.telemetry
                )
            )
            with client:
                tracer = observed.tracer_provider.get_tracer("test")
                ask = method(client, "front", "unary_unary")
                with tracer.start_as_current_span("request"):
                    assert await asyncio.to_thread(ask, b"?", timeout=TIMEOUT) == ANSWER
                one_trace(observed.spans(10), "unary_unary")
                observed.clear()
                stream = method(client, "front", "unary_stream")
                with tracer.start_as_current_span("request"):
                    answers = await asyncio.to_thread(lambda: list(stream(b"?", timeout=TIMEOUT)))
                assert answers == [ANSWER, ANSWER]
                one_trace(observed.spans(10), "unary_stream")
        finally:
            for node in blocking.values():
                await asyncio.to_thread(node.stop, 0)


async def test_an_async_client_continues_the_trace_of_what_it_serves():
    observed = Observed()
    async with testing_aio.LocalMesh() as mesh:
        back = await mesh.start("back-1", **options("back", back_handlers(), observed))
        assert back.id == "back-1"
        client = await mesh.connect("gateway-1", telemetry=observed.telemetry)
        tracer = observed.tracer_provider.get_tracer("test")
        with tracer.start_as_current_span("request"):
            answer, streamed = await asyncio.gather(
                method(client, "back", "unary_unary")(b"?", timeout=TIMEOUT),
                collect(method(client, "back", "unary_stream")(b"?", timeout=TIMEOUT)),
            )
        assert (answer, streamed) == (ANSWER, [ANSWER, ANSWER])
        spans = observed.spans(7)
        assert {span.context.trace_id for span in spans} == {spans[0].context.trace_id}
        received = [span for span in spans if span.name.startswith("Recv.")]
        assert {span.attributes["aegis.caller"] for span in received} == {"gateway-1"}


async def collect(messages):
    return [message async for message in messages]


def test_coroutines_on_a_blocking_node_continue_the_trace():
    observed = Observed()
    with LocalMesh() as mesh:

        async def unary(request, context):
            with observed.tracer_provider.get_tracer("test").start_as_current_span("inside"):
                return ANSWER

        mesh.start("back-1", **options("back", {"unary_unary": unary}, observed))
        client = mesh.connect("gateway-1", telemetry=observed.telemetry)
        method(client, "back", "unary_unary")(b"?", timeout=TIMEOUT)
        spans = observed.spans(4)
        assert path_to_root(spans[-1], spans) == [
            "inside",
            "Recv.test.Back.unary_unary",
            "Attempt.test.Back.unary_unary",
            "Sent.test.Back.unary_unary",
        ]


def test_spans_tell_of_providers_callers_and_messages():
    observed = Observed()

    def chat(requests, context):
        for request in requests:
            yield request * 2

    with LocalMesh() as mesh:
        mesh.start("back-1", region="eu", **options("back", {"stream_stream": chat}, observed))
        client = mesh.connect("gateway-1", telemetry=observed.telemetry)
        requests = iter([b"1", b"22"])
        answers = list(method(client, "back", "stream_stream")(requests, timeout=TIMEOUT))
        assert answers == [b"11", b"2222"]
        sent, attempt, received = observed.spans(3)
    assert (sent.kind, attempt.kind, received.kind) == (
        SpanKind.INTERNAL,
        SpanKind.CLIENT,
        SpanKind.SERVER,
    )
    assert {span.status.status_code for span in (sent, attempt, received)} == {StatusCode.OK}
    assert dict(attempt.attributes) == {
        "previous-rpc-attempts": 0,
        "transparent-retry": False,
        "aegis.provider": "back-1",
        "grpc.lb.backend_service": "back/v1",
    }
    assert dict(received.attributes) == {"aegis.caller": "gateway-1"}
    assert dict(sent.attributes) == {}
    assert messages(attempt, "Outbound message") == [(0, 1), (1, 2)]
    assert messages(attempt, "Inbound message") == [(0, 2), (1, 4)]
    assert messages(received, "Inbound message") == [(0, 1), (1, 2)]
    assert messages(received, "Outbound message") == [(0, 2), (1, 4)]


async def test_async_calls_count_their_single_answer_before_the_caller_has_it():
    observed = Observed()

    async def one(request, context):
        return request * 2

    async def last(requests, context):
        return [request async for request in requests][-1]

    async def requests():
        for request in (b"1", b"22"):
            yield request

    handlers = {"unary_unary": one, "stream_unary": last}
    async with testing_aio.LocalMesh() as mesh:
        await mesh.start("back-1", **options("back", handlers, observed))
        client = await mesh.connect("gateway-1", telemetry=observed.telemetry)
        for kind, sent in (("unary_unary", b"1"), ("stream_unary", requests())):
            assert await method(client, "back", kind)(sent, timeout=TIMEOUT) in (b"11", b"22")
            (attempt,) = observed.spans_named(f"Attempt.test.Back.{kind}")
            assert messages(attempt, "Inbound message") == [(0, 2)]
    received = observed.metrics()["grpc.client.attempt.rcvd_total_compressed_message_size"]
    assert sum(point.sum for point in received.data.data_points) == 4


def messages(span, name):
    return [
        (event.attributes["sequence-number"], event.attributes["message-size"])
        for event in span.events
        if event.name == name
    ]


def failing_once(served):
    """A handler that is unavailable at the node that is called first."""

    def unary(request, context):
        served.append(context)
        if len(served) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "try elsewhere")
        return ANSWER

    return {"unary_unary": unary}


@pytest.mark.parametrize("how", ["blocking", "future", "async"])
def test_a_retry_is_an_attempt_of_its_own(how):
    observed, served = Observed(), []
    with LocalMesh() as mesh:
        for number in (1, 2):
            mesh.start(f"back-{number}", **options("back", failing_once(served), observed))
        addresses = [node.address for node in mesh.nodes]
        if how == "async":
            assert asyncio.run(ask_async(addresses, observed)) == ANSWER
        else:
            client = mesh.connect("gateway-1", telemetry=observed.telemetry)
            ask = method(client, "back", "unary_unary")
            call = ask(b"?", timeout=TIMEOUT) if how == "blocking" else ask.future(b"?").result()
            assert call == ANSWER
        spans = observed.spans(5)
    sent = spans[0]
    first, second = (span for span in spans if span.name.startswith("Attempt."))
    assert sent.status.status_code is StatusCode.OK
    assert (first.status.status_code, first.status.description) == (
        StatusCode.ERROR,
        "UNAVAILABLE, try elsewhere",
    )
    assert second.status.status_code is StatusCode.OK
    assert [span.attributes["previous-rpc-attempts"] for span in (first, second)] == [0, 1]
    assert not second.attributes["transparent-retry"]
    assert {span.attributes["aegis.provider"] for span in (first, second)} == {"back-1", "back-2"}
    assert {span.parent.span_id for span in (first, second)} == {sent.context.span_id}
    ((attributes, point),) = observed.settled("grpc.client.call.retries", 1)
    assert point.sum == 1
    assert attributes == {"grpc.method": "test.Back/unary_unary", "grpc.target": "aegis:///back/v1"}
    ((_, delay),) = observed.points("grpc.client.call.retry_delay")
    assert 0 < delay.sum < TIMEOUT
    assert observed.points("grpc.client.call.transparent_retries") == []


async def ask_async(addresses, observed):
    async with await aegis_discovery.aio.connect(
        *addresses, tls=identity("gateway-1"), telemetry=observed.telemetry
    ) as client:
        return await method(client, "back", "unary_unary")(b"?", timeout=TIMEOUT)


def test_a_failed_call_has_its_status_in_every_span():
    observed = Observed()

    def unary(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such order")

    with LocalMesh() as mesh:
        mesh.start("back-1", **options("back", {"unary_unary": unary}, observed))
        client = mesh.connect("gateway-1", telemetry=observed.telemetry)
        with pytest.raises(grpc.RpcError):
            method(client, "back", "unary_unary")(b"?", timeout=TIMEOUT)
        spans = observed.spans(3)
    assert {(span.status.status_code, span.status.description) for span in spans} == {
        (StatusCode.ERROR, "NOT_FOUND, no such order")
    }


def test_a_handler_that_raises_ends_its_span_as_unknown():
    observed = Observed()

    def unary(request, context):
        raise RuntimeError("secret of the handler")

    with LocalMesh() as mesh:
        mesh.start("back-1", **options("back", {"unary_unary": unary}, observed))
        client = mesh.connect("gateway-1", telemetry=observed.telemetry)
        with pytest.raises(grpc.RpcError):
            method(client, "back", "unary_unary")(b"?", timeout=TIMEOUT)
        received = observed.spans(3)[-1]
    assert received.status.description == "UNKNOWN"
    assert received.events[0].name == "Inbound message"
    assert len(received.events) == 1  # no exception, whose text may tell what a message holds


def waiting_handlers(started, release):
    def stream(request, context):
        yield ANSWER
        context.add_callback(release.set)  # the node knows that the call was given up
        started.set()
        release.wait(TIMEOUT)

    def unary(request, context):
        context.add_callback(release.set)  # the node knows that the call was given up
        started.set()
        release.wait(TIMEOUT)
        return ANSWER

    return {"unary_stream": stream, "unary_unary": unary}


@pytest.mark.parametrize("how", ["blocking", "future", "stream", "waiting"])
def test_requests_are_made_in_the_context_of_their_caller(how):
    """gRPC reads a stream of requests in a thread of its own."""
    observed = Observed()
    tracer = observed.tracer_provider.get_tracer("test")

    def back(requests, context):
        return b"".join(requests)

    def back_stream(requests, context):
        yield from requests

    def requests():
        with tracer.start_as_current_span("made"):
            yield ANSWER

    handlers = {"stream_unary": back, "stream_stream": back_stream}
    with LocalMesh() as mesh:
        mesh.start("seed")
        if how != "waiting":
            mesh.start("back-1", **options("back", handlers, observed))
        client = mesh.connect("gateway-1", telemetry=observed.telemetry)
        made = method(client, "back", "stream_stream" if how == "stream" else "stream_unary")
        with tracer.start_as_current_span("request") as request:
            if how == "blocking":
                assert made(requests(), timeout=TIMEOUT) == ANSWER
            elif how == "stream":
                assert list(made(requests(), timeout=TIMEOUT)) == [ANSWER]
            else:
                call = made.future(requests(), timeout=TIMEOUT, wait_for_ready=how == "waiting")
        if how == "waiting":
            mesh.start("back-1", **options("back", handlers, observed))
        if how in ("future", "waiting"):
            assert call.result(TIMEOUT) == ANSWER
        (found,) = observed.spans_named("made")
    assert found.parent.span_id == request.get_span_context().span_id


@pytest.mark.parametrize("how", ["cancelled", "dropped"])
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_a_call_that_is_given_up_ends_as_cancelled(how, kind):
    observed, started, release = Observed(), threading.Event(), threading.Event()
    with LocalMesh() as mesh:
        mesh.start("back-1", **options("back", waiting_handlers(started, release), observed))
        client = mesh.connect("gateway-1", telemetry=observed.telemetry)
        made = method(client, "back", kind)
        call = made.future(b"?") if kind == "unary_unary" else made(b"?")
        assert started.wait(TIMEOUT)
        if how == "cancelled":
            call.cancel()
        del call
        sent = observed.spans_named("Sent.")[0]
        attempt = observed.spans_named("Attempt.")[0]
        received = observed.spans_named("Recv.")[0]
    for span in (sent, attempt, received):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description.startswith("CANCELLED")


@pytest.mark.parametrize("how", ["cancelled", "dropped", "task"])
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_an_async_call_that_is_given_up_ends_as_cancelled(how, kind):
    observed = Observed()
    started = asyncio.Event()

    async def unary(request, context):
        started.set()
        await asyncio.Event().wait()

    async def stream(request, context):
        yield ANSWER
        started.set()
        await asyncio.Event().wait()

    async with testing_aio.LocalMesh() as mesh:
        handlers = {"unary_unary": unary, "unary_stream": stream}
        await mesh.start("back-1", **options("back", handlers, observed))
        client = await mesh.connect("gateway-1", telemetry=observed.telemetry)
        call = method(client, "back", kind)(b"?")
        if how == "task":
            waiting = collect(call) if kind == "unary_stream" else awaited(call)
            task = asyncio.create_task(waiting)
            await started.wait()
            task.cancel()
            del waiting
            await asyncio.wait([task])
            del task
        else:
            await started.wait()
            if how == "cancelled":
                call.cancel()
        del call
        # The end of a dropped call is noticed by the next one.
        probe = method(client, "back", "unary_unary")(b"?")
        names = ["Sent.", "Attempt.", "Recv."]
        if (how, kind) == ("dropped", "unary_unary"):
            names.pop()  # gRPC goes on with such a call
        for name in names:
            (span,) = await asyncio.to_thread(observed.spans_named, name)
            assert span.status.status_code is StatusCode.ERROR
            assert span.status.description.startswith("CANCELLED")
        probe.cancel()


async def awaited(call):
    return await call


def test_a_call_without_a_provider_has_no_attempt():
    observed = Observed()
    with LocalMesh() as mesh:
        node = mesh.start("lonely-1", telemetry=observed.telemetry)
        for ask in (
            method(node, "back", "unary_unary"),
            lambda request: list(method(node, "back", "unary_stream")(request)),
            lambda request: method(node, "back", "unary_unary").future(request).result(),
        ):
            with pytest.raises(aegis_discovery.NoProvidersError):
                ask(b"?")
        spans = observed.spans(3)
    for span in spans:
        assert span.name.startswith("Sent.")
        assert span.status.description.startswith("UNAVAILABLE, ")


def test_attempts_that_were_not_sent_are_transparent_retries():
    observed = Observed()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    topology = aegis_discovery.Topology()
    topology.add_node(
        aegis_discovery.NodeInfo("back-1", "back-1", "api", address, services=(SERVICE,))
    )
    with aegis_discovery.ServiceClientPool(
        topology, identity("gateway-1"), telemetry=observed.telemetry
    ) as pool:
        ask = pool.channel("back", "v1").unary_unary("/test.Back/unary_unary")
        call = ask.future(b"?", timeout=TIMEOUT, wait_for_ready=True)
        observed.spans_named("Attempt.")  # nobody listens there
        with LocalMesh() as mesh:
            mesh.start("back-1", address=address, **options("back", back_handlers(), observed))
            assert call.result() == ANSWER
            observed.spans_named("Recv.")
        first, *_, last = observed.spans_named("Attempt.")
    assert first.status.description.startswith("UNAVAILABLE, failed to connect")
    assert last.status.status_code is StatusCode.OK
    for span, is_transparent in ((first, False), (last, True)):
        assert span.attributes["transparent-retry"] is is_transparent
        assert span.attributes["previous-rpc-attempts"] == 0
    ((_, point),) = observed.settled("grpc.client.call.transparent_retries", 1)
    assert point.sum >= 1
    assert observed.points("grpc.client.call.retries") == []


def test_a_borrowed_channel_traces_as_well():
    observed = Observed()
    with LocalMesh() as mesh:
        node = mesh.start("back-1", **options("back", back_handlers(), observed))
        channel = node.pool.get_conn("back", "v1")
        assert channel.unary_unary("/test.Back/unary_unary")(b"?", timeout=TIMEOUT) == ANSWER
        assert len(list(channel.unary_stream("/test.Back/unary_stream")(b"?"))) == 2
        spans = observed.spans(6)
    assert len({span.context.trace_id for span in spans}) == 2


def test_the_meshs_own_calls_are_not_reported():
    observed = Observed()
    with LocalMesh() as mesh:
        for number in (1, 2):
            mesh.start(f"back-{number}", **options("back", back_handlers(), observed))
        # They exchange feeds and pings all the time, and pools send probes.
        channel = mesh.connect("operator-1").pool.get_conn("back", "v1")
        for path in ("/grpc.health.v1.Health/Check", "/aegis.mesh.v1.Introspection/GetStats"):
            channel.unary_unary(path)(b"", timeout=TIMEOUT)
        reflect = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        list(channel.stream_stream(reflect)(iter([b""]), timeout=TIMEOUT))
        assert observed.spans(0) == []
        assert observed.metrics() == {}


def test_calls_that_are_rejected_are_counted_and_have_no_span_at_the_server():
    observed = Observed()
    with LocalMesh() as mesh:
        policy = Policy(call=[CallRule(ids=["gateway-1"], services=["*"])])
        mesh.start("back-1", policy=policy, **options("back", back_handlers(), observed))
        client = mesh.connect("stranger-1", telemetry=observed.telemetry)
        with pytest.raises(grpc.RpcError) as caught:
            method(client, "back", "unary_unary")(b"?", timeout=TIMEOUT)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        spans = observed.spans(2)
        assert [span.name.partition(".")[0] for span in spans] == ["Sent", "Attempt"]
        ((attributes, point),) = observed.points("grpc.server.call.duration")
        assert (attributes["grpc.status"], point.count) == ("PERMISSION_DENIED", 1)


def test_what_observes_a_call_never_breaks_it(caplog):
    class Broken(trace.TracerProvider):
        def get_tracer(self, *_, **__):
            class Tracer(trace.NoOpTracer):
                def start_span(self, *_, **__):
                    raise RuntimeError("no span today")

            return Tracer()

    observed = Observed()
    observed.telemetry = OpenTelemetry(tracer_provider=Broken())
    with LocalMesh() as mesh:
        node = mesh.start("back-1", **options("back", back_handlers(), observed))
        for _ in range(3):
            assert method(node, "back", "unary_unary")(b"?", timeout=TIMEOUT) == ANSWER
        assert len(list(method(node, "back", "unary_stream")(b"?", timeout=TIMEOUT))) == 2
    lines = [r.getMessage() for r in caplog.records if r.name == "aegis.telemetry"]
    # One for the caller and one for the server, not one for each call.
    assert len(lines) == 2
    assert "no span today" in lines[0]
