"""Sends the spans of this process to a collector, if the environment names one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from aegis_discovery.telemetry import OpenTelemetry
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


@contextmanager
def tracing() -> Iterator[OpenTelemetry | None]:
    """What a node or client reports to; at the end of the block, the last spans are sent.

    The SDK reads `OTEL_EXPORTER_OTLP_ENDPOINT`, the collector, and `OTEL_SERVICE_NAME`. Without a
    collector it is None.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield None
        return
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield OpenTelemetry()
    finally:
        provider.shutdown()
