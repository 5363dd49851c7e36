"""The command `aegis` and its groups; each command imports what loads slowly when it runs."""

from __future__ import annotations

from aegis_cli._app import aegis

__all__ = ["aegis"]
