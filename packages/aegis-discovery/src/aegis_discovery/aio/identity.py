"""Keeping an identity fresh beside an event loop. For those who build nodes."""

from aegis_discovery.identity._run import run_rotator

__all__ = ["run_rotator"]
