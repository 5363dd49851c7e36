"""Keeping an identity fresh beside an event loop. For those who build nodes."""

from aegis_discovery.aio._identity import keep

__all__ = ["keep"]
