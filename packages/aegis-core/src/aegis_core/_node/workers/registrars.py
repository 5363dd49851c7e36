"""Loads the functions that add services to a server, by names like `orders:register`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from aegis_core.errors import RegistrarError

Registrar = Callable[[Any], object]

_ADDING = ("add_generic_rpc_handlers", "add_registered_method_handlers")


def load_registrars(names: Iterable[str]) -> list[Registrar]:
    """Imports the registrars that are named `MODULE:NAME`; each is a function, or a list of them.

    Raises:
        RegistrarError: One cannot be loaded. A registrar raises it too, if it adds no service.
    """
    return [_checked(name, registrar) for name in names for registrar in _load(name)]


def _load(name: str) -> list[Registrar]:
    module, _, path = name.partition(":")
    if not module or not path:
        raise RegistrarError(name, "it is not MODULE:NAME")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise RegistrarError(name, f"the import fails with {_described(error)}") from error
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            raise RegistrarError(name, f"{module} has no {path}") from error
    registrars = list(found) if isinstance(found, list | tuple) else [found]
    if not registrars or not all(map(callable, registrars)):
        raise RegistrarError(name, "it is neither a function nor a list of functions")
    return registrars


def _checked(name: str, registrar: Registrar) -> Registrar:
    def register(server: Any) -> None:
        watched = _WatchedServer(server)
        try:
            registrar(watched)
        except Exception as error:
            raise RegistrarError(name, f"it fails with {_described(error)}") from error
        if not watched.has_services:
            raise RegistrarError(name, "it adds no service to the server that it is given")

    return register


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _WatchedServer:
    """A server that notes whether a service is added to it."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.has_services = False

    def __getattr__(self, name: str) -> Any:
        self.has_services |= name in _ADDING
        return getattr(self._server, name)
