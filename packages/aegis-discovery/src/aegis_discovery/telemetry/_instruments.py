"""The instruments of gRFC A66 and A96: their names, units and buckets."""

from __future__ import annotations

from opentelemetry.metrics import Counter, Histogram, Meter

from aegis_discovery.signals import LATENCY_BOUNDS

SIZE_BOUNDS = (0, *(1024 * n for n in (1, 2, 4, 16, 64, 256)), *(4**n << 20 for n in range(7)))
"""Bytes: the buckets of A66 for sizes."""

RETRY_BOUNDS = (1, 2, 3, 4, 5)
TRANSPARENT_RETRY_BOUNDS = (*RETRY_BOUNDS, 10)

SIZE_NOTE = "counted before compression"


class Instruments:
    """What is recorded of calls.

    Args:
        meter: Makes the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, unit: str, text: str, bounds: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(
                name, unit, text, explicit_bucket_boundaries_advisory=bounds
            )

        def seconds(name: str, text: str) -> Histogram:
            return histogram(name, "s", text, LATENCY_BOUNDS)

        def size(name: str, text: str) -> Histogram:
            return histogram(name, "By", f"{text}, {SIZE_NOTE}.", SIZE_BOUNDS)

        self.attempt_started: Counter = meter.create_counter(
            "grpc.client.attempt.started", "{attempt}", "RPC attempts that began."
        )
        self.attempt_duration = seconds(
            "grpc.client.attempt.duration", "How long an RPC attempt took."
        )
        self.attempt_sent = size(
            "grpc.client.attempt.sent_total_compressed_message_size",
            "Bytes of all request messages of an RPC attempt",
        )
        self.attempt_received = size(
            "grpc.client.attempt.rcvd_total_compressed_message_size",
            "Bytes of all response messages of an RPC attempt",
        )
        self.call_duration = seconds(
            "grpc.client.call.duration", "How long an RPC took, with all its attempts."
        )
        self.call_retries = histogram(
            "grpc.client.call.retries",
            "{retry}",
            "Retries of an RPC that had any.",
            RETRY_BOUNDS,
        )
        self.call_transparent_retries = histogram(
            "grpc.client.call.transparent_retries",
            "{transparent_retry}",
            "Retries of an RPC whose attempts before were not sent.",
            TRANSPARENT_RETRY_BOUNDS,
        )
        self.call_retry_delay = seconds(
            "grpc.client.call.retry_delay", "How long an RPC had no attempt under way."
        )
        self.server_started: Counter = meter.create_counter(
            "grpc.server.call.started", "{call}", "RPCs that began."
        )
        self.server_duration = seconds("grpc.server.call.duration", "How long an RPC took.")
        self.server_sent = size(
            "grpc.server.call.sent_total_compressed_message_size",
            "Bytes of all response messages of an RPC",
        )
        self.server_received = size(
            "grpc.server.call.rcvd_total_compressed_message_size",
            "Bytes of all request messages of an RPC",
        )
