"""Traces and metrics of calls through OpenTelemetry, as gRPC defines them.

It needs `opentelemetry-api`, which the extra `otel` installs. `OpenTelemetry` is for everybody; the
rest is for code that builds nodes.
"""

try:
    import opentelemetry.metrics  # noqa: F401 - it tells whether the extra is installed
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "aegis_discovery.telemetry needs opentelemetry-api, which is not installed; add "
        "opentelemetry-api>=1.30 to your dependencies, or the extra `otel` to this one",
        name=error.name,
    ) from error

from aegis_discovery.telemetry._handlers import HandlerTelemetry, HandlerTrace, current_handler
from aegis_discovery.telemetry._opentelemetry import OpenTelemetry

__all__ = ["HandlerTelemetry", "HandlerTrace", "OpenTelemetry", "current_handler"]
