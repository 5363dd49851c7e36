"""The commands of `aegis-certs`, which `aegis certs` mounts; and the edge that they share."""

from __future__ import annotations

from ._command_group import CommandGroup, certs_exit_codes, fail
from ._commands import certs
from ._main import main

__all__ = ["CommandGroup", "certs", "certs_exit_codes", "fail", "main"]
