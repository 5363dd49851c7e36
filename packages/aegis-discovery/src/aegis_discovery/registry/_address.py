"""Where a registry is: `etcd://host:port,host:port/prefix`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aegis_discovery._runtime.addresses import SeedPeer, parse_seed
from aegis_discovery.errors import InvalidAddressError

SCHEME = "etcd://"

MAX_ENDPOINTS = 16
"""Members of an etcd cluster that can be named."""

_PREFIX = re.compile(r"[A-Za-z0-9._/-]{1,128}")


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """The members of an etcd cluster, and the prefix of the keys there.

    Attributes:
        endpoints: Each with the name that its certificate must have; without one, it is the host.
        prefix: Before the name of the mesh in each key; without slashes at its ends.
    """

    endpoints: tuple[SeedPeer, ...]
    prefix: str

    def __str__(self) -> str:
        return f"{SCHEME}{','.join(map(str, self.endpoints))}/{self.prefix}"


def parse_registry(text: str) -> RegistryAddress:
    """Parses the address of a registry.

    Raises:
        InvalidAddressError: It is no `etcd://[NAME@]HOST:PORT,.../PREFIX`.
    """
    if not text.startswith(SCHEME):
        raise InvalidAddressError(text, "a registry is etcd://host:2379,host:2379/prefix")
    members, _, prefix = text.removeprefix(SCHEME).partition("/")
    prefix = prefix.strip("/")
    if not _PREFIX.fullmatch(prefix):
        reason = "it has no prefix for its keys, as /aegis; letters, digits and ._-/ are allowed"
        raise InvalidAddressError(text, reason)
    endpoints = tuple(dict.fromkeys(parse_seed(member) for member in members.split(",")))
    if len(endpoints) > MAX_ENDPOINTS:
        raise InvalidAddressError(text, f"it names more than {MAX_ENDPOINTS} endpoints")
    return RegistryAddress(endpoints, prefix)
