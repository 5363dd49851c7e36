"""The command groups of `aegis`, and the exit codes of their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
from aegis_certs.cli import CommandGroup, LazyCommands, examples


def group(
    *lines: str, notes: str = "", **homes: str
) -> Callable[[Callable[..., Any]], CommandGroup]:
    """A group with these examples and notes, and with commands of other modules by name."""
    return click.group(
        cls=CommandGroup,
        commands=LazyCommands(homes),
        exit_codes=_exit_codes,
        epilog=examples(*lines, notes=notes),
    )


def _exit_codes() -> Mapping[type[BaseException], int]:
    """The exit code of each error; an error has that of its nearest class."""
    from aegis_certs import CertsError, InvalidNodeIdError, InvalidRequestError
    from aegis_core import ConfigError, MeshError
    from aegis_core.errors import RegistrarError
    from aegis_discovery.errors import DiscoveryError, InvalidAddressError, PolicyError

    from aegis_cli.errors import CliError

    return {
        CertsError: 1,
        InvalidNodeIdError: 2,
        InvalidRequestError: 2,
        DiscoveryError: 1,
        InvalidAddressError: 2,
        PolicyError: 2,
        MeshError: 1,
        ConfigError: 2,
        CliError: 1,
        RegistrarError: 2,
    }
