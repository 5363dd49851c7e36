"""Identity rotation in an event loop. For code that builds nodes."""

from aegis_discovery.identity._run import run_rotator

__all__ = ["run_rotator"]
