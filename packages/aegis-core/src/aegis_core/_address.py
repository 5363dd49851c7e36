"""The addresses of a node: where it listens, and what it publishes."""

from __future__ import annotations

from aegis_discovery import InvalidAddressError
from aegis_discovery.transport import is_wildcard, join_address, split_address, split_host_port

from aegis_core.errors import ConfigError


def bound_address(address: str) -> tuple[str, int]:
    """Splits an address to listen on, or raises `ConfigError`. Port 0 means any free port."""
    try:
        return split_host_port(address)
    except InvalidAddressError as error:
        raise ConfigError("address", str(error)) from error


def check_dialable(option: str, address: str) -> None:
    """Raises `ConfigError` unless the address can be dialled."""
    try:
        split_address(address)
    except InvalidAddressError as error:
        raise ConfigError(option, str(error)) from error


def published_address(bind: str, advertise: str | None, port: int) -> str:
    """Returns the address to publish for a server that listens on `bind`, at `port`.

    Raises:
        ConfigError: If others cannot dial it.
    """
    if advertise is None:
        host, _ = bound_address(bind)
        if is_wildcard(host):
            raise ConfigError(
                "advertise",
                f"{bind} listens everywhere; give the host:port at which others reach this node",
            )
        return join_address(host, port)
    try:
        host, advertised = split_host_port(advertise)
    except InvalidAddressError as error:
        raise ConfigError("advertise", str(error)) from error
    if is_wildcard(host):
        raise ConfigError("advertise", f"{advertise} is not an address that others can dial")
    return join_address(host, advertised or port)
