"""What a user passes to turn on traces and metrics."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from aegis_discovery.telemetry._instruments import Instruments

SCOPE = "aegis"
"""The name of the instrumentation scope of all spans and metrics."""


class OpenTelemetry:
    """Traces and measures calls, as gRPC does: gRFCs A66, A72, A89 and A96.

    Pass it as `telemetry` to `Node`, `connect` or `ServiceClientPool`. Each call through a pool has
    a span `Sent`, with a span `Attempt` for each provider that was tried. Each call of a service of
    the user's has a span `Recv` while its handler runs. The global propagator of OpenTelemetry
    carries the context from one to the next, by default as W3C `traceparent`. The mesh's own calls
    have neither spans nor metrics.

    Args:
        tracer_provider: Makes the spans; the global provider by default. A provider that is set
            later is used from then on.
        meter_provider: Records the metrics; the global one by default. Give
            `opentelemetry.metrics.NoOpMeterProvider()` for traces alone.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        version = importlib.metadata.version("aegis-discovery")
        self._providers = (tracer_provider, meter_provider)
        self.tracer = trace.get_tracer(SCOPE, version, tracer_provider)
        self.instruments = Instruments(metrics.get_meter(SCOPE, version, meter_provider))

    @property
    def has_provider(self) -> bool:
        """Whether a provider was given, or is set for the process by now; else nothing is kept."""
        found = (trace.get_tracer_provider(), metrics.get_meter_provider())
        own = ("opentelemetry.trace", "opentelemetry.metrics")  # of the API, which record nothing
        return any(self._providers) or not all(
            type(one).__module__.startswith(own) for one in found
        )

    def __repr__(self) -> str:
        given = zip(("tracer_provider", "meter_provider"), self._providers, strict=True)
        return f"OpenTelemetry({', '.join(f'{name}={one!r}' for name, one in given if one)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, self._providers  # for workers, which are processes of their own


def _made(
    tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> OpenTelemetry:
    return OpenTelemetry(tracer_provider=tracer_provider, meter_provider=meter_provider)
