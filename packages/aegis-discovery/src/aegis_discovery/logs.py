"""Limits of what is logged, for code that builds nodes."""

from aegis_discovery._runtime.log_limiter import LogLimiter

__all__ = ["LogLimiter"]
