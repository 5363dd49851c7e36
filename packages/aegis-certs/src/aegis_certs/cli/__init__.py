"""The commands of `aegis-certs`, and the output and options that `aegis` shares with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis_certs.cli._command_group import (
    Command,
    CommandGroup,
    LazyCommands,
    certs_exit_codes,
    fail,
)
from aegis_certs.cli._options import certificate_directory, examples, json_flag, option
from aegis_certs.cli._output import (
    UNLIMITED,
    present,
    printable,
    show_json,
    warn_at_once,
    width_of,
)
from aegis_certs.cli._output import run as run_slowly

if TYPE_CHECKING:
    from aegis_certs.cli._commands import certs
    from aegis_certs.cli._inspect_commands import examine

__all__ = [
    "UNLIMITED",
    "Command",
    "CommandGroup",
    "LazyCommands",
    "certificate_directory",
    "certs",
    "certs_exit_codes",
    "examine",
    "examples",
    "fail",
    "json_flag",
    "option",
    "present",
    "printable",
    "run_slowly",
    "show_json",
    "warn_at_once",
    "width_of",
]


def __getattr__(name: str) -> Any:
    # Other tools use the options and the output without these commands.
    if name == "certs":
        from aegis_certs.cli._commands import certs

        return certs
    if name == "examine":
        from aegis_certs.cli._inspect_commands import examine

        return examine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
