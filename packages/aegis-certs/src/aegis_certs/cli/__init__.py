"""The commands of `aegis-certs`, which `aegis certs` mounts; and the edge that they share."""

from __future__ import annotations

from aegis_certs.cli._command_group import CommandGroup, certs_exit_codes, fail
from aegis_certs.cli._commands import certs

__all__ = ["CommandGroup", "certs", "certs_exit_codes", "fail"]
