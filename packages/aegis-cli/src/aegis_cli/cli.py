"""The command `aegis` and its groups. Whatever takes long to import is imported by a command."""

from __future__ import annotations

from aegis_cli._app import aegis

__all__ = ["aegis"]
