"""Helpers for tests of programs that use Aegis: the deterministic simulator."""

from aegis_core.simulation import (
    LATENCY,
    Event,
    Simulation,
    Spread,
    Traffic,
    UnmetError,
    spread,
)

__all__ = ["LATENCY", "Event", "Simulation", "Spread", "Traffic", "UnmetError", "spread"]
