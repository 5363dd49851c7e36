"""The addresses of a node: where it listens, and what it publishes."""

from __future__ import annotations

import errno
import socket

from aegis_discovery import InvalidAddressError
from aegis_discovery.transport import is_wildcard, join_address, split_address, split_host_port

from aegis_core.errors import AddressInUseError, ConfigError


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


def metrics_address(address: str) -> tuple[str, int]:
    """Splits `HOST:PORT`, or a port of the loopback interface; raises `ConfigError`."""
    try:
        return split_host_port(f"127.0.0.1:{address}" if address.isdigit() else address)
    except InvalidAddressError as error:
        raise ConfigError("metrics", str(error)) from error


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


def bind_error(host: str, port: int) -> OSError | None:
    """Returns why the system cannot bind an address, because gRPC's error does not contain it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


def check_is_free(address: str) -> None:
    """Raises `AddressInUseError` if another process listens on this address."""
    error = bind_error(*bound_address(address))
    # The server reports all other problems, after it has tried each address of a host name.
    if error is not None and error.errno == errno.EADDRINUSE:
        raise AddressInUseError(address, describe_os_error(error))


def describe_os_error(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
