"""The exit codes of errors."""

from __future__ import annotations

from collections.abc import Mapping


def exit_codes() -> Mapping[type[BaseException], int]:
    """The exit code of each error; an error has that of its nearest class."""
    from aegis_certs import CertsError, InvalidNodeIdError, InvalidRequestError
    from aegis_core import ConfigError, MeshError
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
    }
