"""Registries: where a mesh runs on an engine that is there already. For code that builds nodes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_discovery.registry._address import RegistryAddress, parse_registry
    from aegis_discovery.registry._codec import (
        encode_document,
        encode_record_entry,
        encode_verdict_entry,
    )
    from aegis_discovery.registry._contents import Contents
    from aegis_discovery.registry._etcd_registry import EtcdRegistry
    from aegis_discovery.registry._keys import Keys
    from aegis_discovery.registry._observers import RendezvousObservers
    from aegis_discovery.registry._publication import Publication
    from aegis_discovery.registry._registry import Registry
    from aegis_discovery.registry._statuses import RegistryStatuses

__all__ = [
    "Contents",
    "EtcdRegistry",
    "Keys",
    "Publication",
    "Registry",
    "RegistryAddress",
    "RegistryStatuses",
    "RendezvousObservers",
    "encode_document",
    "encode_record_entry",
    "encode_verdict_entry",
    "parse_registry",
]

_HOMES = {
    "Contents": "_contents",
    "EtcdRegistry": "_etcd_registry",
    "Keys": "_keys",
    "Publication": "_publication",
    "Registry": "_registry",
    "RegistryAddress": "_address",
    "RegistryStatuses": "_statuses",
    "RendezvousObservers": "_observers",
    "encode_document": "_codec",
    "encode_record_entry": "_codec",
    "encode_verdict_entry": "_codec",
    "parse_registry": "_address",
}


def __getattr__(name: str) -> Any:
    # Most meshes have no registry but the feed.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
