"""A deterministic simulation of a mesh in virtual time, to try ideas and expectations on."""

from aegis_core.simulation._broadcast import spread
from aegis_core.simulation._network import LATENCY
from aegis_core.simulation._simulation import Simulation, UnmetError
from aegis_core.simulation._world import Event, Spread, Traffic

__all__ = ["LATENCY", "Event", "Simulation", "Spread", "Traffic", "UnmetError", "spread"]
