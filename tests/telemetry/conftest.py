"""Nodes and clients whose spans and metrics a test can read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from aegis_core import ServiceInfo
from aegis_discovery.telemetry import OpenTelemetry
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

PATIENCE = 10.0
"""Seconds within which the spans of a call that ended are there."""


class Observed:
    """OpenTelemetry with the exporters of its SDK for tests.

    Attributes:
        telemetry: To be given to nodes and clients.
    """

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(**options)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader])
        self.telemetry = OpenTelemetry(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider
        )

    def spans(self, count: int) -> list[ReadableSpan]:
        """Returns so many spans in the order in which they began; waits for them."""
        deadline = time.monotonic() + PATIENCE
        while len(found := self._exporter.get_finished_spans()) < count:
            assert time.monotonic() < deadline, [span.name for span in found]
            time.sleep(0.002)
        assert len(found) == count, [span.name for span in found]
        return sorted(found, key=lambda span: span.start_time)

    def spans_named(self, start: str) -> list[ReadableSpan]:
        """Returns the spans whose names begin so; waits for one."""
        deadline = time.monotonic() + PATIENCE
        while not (
            found := [s for s in self._exporter.get_finished_spans() if s.name.startswith(start)]
        ):
            assert time.monotonic() < deadline, start
            time.sleep(0.002)
        return found

    def clear(self) -> None:
        """Forgets the spans."""
        self._exporter.clear()

    def metrics(self) -> dict[str, Any]:
        """Returns the metrics by their names."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Returns the attributes and the points of a metric."""
        metric = self.metrics().get(name)
        points = [] if metric is None else metric.data.data_points
        return [(dict(point.attributes), point) for point in points]

    def settled(self, name: str, count: int) -> list[tuple[dict[str, Any], Any]]:
        """Returns the points of a histogram once it has so many values."""
        deadline = time.monotonic() + PATIENCE
        while sum(point.count for _, point in self.points(name)) < count:
            assert time.monotonic() < deadline, self.points(name)
            time.sleep(0.002)
        return self.points(name)


@pytest.fixture
def observed() -> Callable[..., Observed]:
    return Observed


def tree(spans: list[ReadableSpan]) -> dict[str, str | None]:
    """Returns the name of the parent of each span, by its own name."""
    names = {span.context.span_id: span.name for span in spans}
    return {
        span.name: names[span.parent.span_id] if span.parent is not None else None for span in spans
    }


def path_to_root(span: ReadableSpan, spans: list[ReadableSpan]) -> list[str]:
    """Returns the names of a span and of those above it."""
    by_id = {one.context.span_id: one for one in spans}
    found = [span.name]
    while span.parent is not None:
        span = by_id[span.parent.span_id]
        found.append(span.name)
    return found


Handlers = dict[str, Any]


def service(name: str, handlers: Handlers) -> Callable[[Any], None]:
    """Returns a registrar; handlers have names such as `unary_stream`, which are their kinds."""
    made = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(handler)
        for kind, handler in handlers.items()
    }

    def register(server: Any) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, made),))

    return register


def options(name: str, handlers: Handlers, observed: Observed) -> dict[str, Any]:
    """Returns the options of a node that provides `name/v1`, whose gRPC service is `test.Name`."""
    return {
        "services": [ServiceInfo(name, "v1")],
        "registrars": [service(f"test.{name.capitalize()}", handlers)],
        "telemetry": observed.telemetry,
    }


def method(source: Any, name: str, kind: str, **of_channel: Any) -> Any:
    """Returns the multi-callable of a method of a service that `options` made."""
    channel = source.pool.channel(name, "v1", **of_channel)
    return getattr(channel, kind)(f"/test.{name.capitalize()}/{kind}")
