"""What can go wrong in discovery.

DiscoveryError
├── NoProvidersError        nobody provides the service (any more)
├── NotOwnerError           somebody else's record was to be changed
├── NodeNotFoundError       the topology has no such node
├── InvalidRecordError      a record that must not be believed; says who sent it
├── InvalidVerdictError     a verdict that must not be believed
├── NodeIdInUseError        another process runs under this node id
├── ConnectError            no seed peer could be reached
│   └── PeerIdentityError   something answered, but not who it should be
├── InvalidAddressError     an address that cannot be one
├── PolicyError             a policy that cannot be one; says where and why
├── ServiceConfigError      a service config that the pool cannot follow
├── EventLoopError          something was used in another event loop than its own
└── ClosedError             the pool or mesh was closed before
    └── ForkedError         it belongs to the process that this one was forked from
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from typing import Any

__all__ = [
    "ClosedError",
    "ConnectError",
    "DiscoveryError",
    "EventLoopError",
    "ForkedError",
    "InvalidAddressError",
    "InvalidRecordError",
    "InvalidVerdictError",
    "NoProvidersError",
    "NodeIdInUseError",
    "NodeNotFoundError",
    "NotOwnerError",
    "PeerIdentityError",
    "PolicyError",
    "ServiceConfigError",
]


class DiscoveryError(Exception):
    """Root of all errors that aegis_discovery raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is, not by its arguments: those of most errors are fields, out of which the
        # sentence is made. Pools of processes and task queues send errors from one to another.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # no stub has it


class NoProvidersError(DiscoveryError):
    """No node of the mesh provides the service."""

    def __init__(self, name: str, version: str, known: int = 0) -> None:
        self.name = name
        self.version = version
        self.known = known
        super().__init__(
            f"no live node provides {name}/{version} ({known} nodes known); "
            f"start a provider or check the service's name and version"
        )


class NotOwnerError(DiscoveryError):
    """A live node tried to change a record that another node owns."""

    def __init__(self, node_id: str, owner: str) -> None:
        self.node_id = node_id
        self.owner = owner
        whose = owner or "a client, which changes nothing"
        super().__init__(f"only {node_id} may change its record; this topology belongs to {whose}")


class NodeNotFoundError(DiscoveryError):
    """The topology has no such node."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        super().__init__(f"the topology has no node {node_id!r}")


class InvalidRecordError(DiscoveryError):
    """A record cannot be believed and was dropped."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        self.reason = reason
        super().__init__(f"record of {node_id or 'an unknown node'} refused: {reason}")


class InvalidVerdictError(DiscoveryError):
    """A verdict cannot be believed and was dropped."""

    def __init__(self, accuser: str, reason: str) -> None:
        self.accuser = accuser
        self.reason = reason
        super().__init__(f"verdict of {accuser or 'an unknown node'} refused: {reason}")


class NodeIdInUseError(DiscoveryError):
    """Another process of the mesh runs under this node id."""

    def __init__(self, node_id: str, address: str) -> None:
        self.node_id = node_id
        self.address = address
        super().__init__(
            f"node id {node_id} is in use by a newer process at {address or 'an unknown address'}; "
            f"stop that one or give this node its own id"
        )


class ConnectError(DiscoveryError):
    """No peer of a list could be reached."""

    def __init__(self, message: str, causes: Mapping[str, str] | None = None) -> None:
        self.causes = dict(causes or {})
        super().__init__(message)


class PeerIdentityError(ConnectError):
    """Something answered at an address, but its certificate is not the one expected."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"{address}: {reason}", {address: reason})


class InvalidAddressError(DiscoveryError):
    """An address cannot be one."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"{address[:80]!r} is no address: {reason}")


class ServiceConfigError(DiscoveryError):
    """A service config is malformed, or asks for what the pool does in another way."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"service config{' at ' * bool(path)}{path}: {reason}")


class EventLoopError(DiscoveryError):
    """Something that belongs to one event loop was used in another, or outside of any."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the {what} belongs to another event loop than the running one; "
            f"make one in each loop, or use the blocking one of aegis_discovery"
        )


class PolicyError(DiscoveryError):
    """A policy, or one of its rules, cannot be one."""

    def __init__(self, reason: str, *, path: object = "", line: int = 0) -> None:
        self.reason = reason
        self.path = str(path)
        self.line = line
        place = f"policy {path}" if self.path else "the policy"
        super().__init__(f"{place}{f', line {line}' if line else ''}: {reason}")


class ClosedError(DiscoveryError):
    """The object was closed and takes no more calls."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the {what} is closed")


class ForkedError(ClosedError):
    """Something was used in a forked child of the process that it was started in."""

    def __init__(self, what: str) -> None:
        self.what = what
        # Not the parent's sentence: it is open still, elsewhere.
        DiscoveryError.__init__(
            self,
            f"the {what} was started before this process was forked, and does not survive that; "
            f"start it after the fork, in each worker",
        )
