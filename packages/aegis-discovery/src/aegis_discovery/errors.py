"""What can go wrong in discovery.

DiscoveryError
├── NoProvidersError        no live node provides the service
├── NotOwnerError           only the owner of a record may change it
├── NodeNotFoundError       the topology has no such node
├── InvalidRecordError      a record was refused; names its node
├── InvalidVerdictError     a verdict was refused; names its accuser
├── InvalidDocumentError    a document of the CA was refused; names its kind
├── NodeIdInUseError        another process uses this node id
├── ConnectError            no seed peer could be reached
│   └── PeerIdentityError   the certificate of a peer is not the expected one
├── TokenError              a token cannot be used
├── EnrolmentError          no issuer gave a certificate; has the reason of each
├── InvalidAddressError     an address is malformed, or cannot be dialled
├── PolicyError             a policy is malformed; names the place and the reason
├── ServiceConfigError      the pool does not support a service config
├── EventLoopError          an object was used outside its event loop
└── ClosedError             the pool or mesh is closed
    └── ForkedError         the object belongs to the parent of this forked process
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "ClosedError",
    "ConnectError",
    "DiscoveryError",
    "EnrolmentError",
    "EventLoopError",
    "ForkedError",
    "InvalidAddressError",
    "InvalidDocumentError",
    "InvalidRecordError",
    "InvalidVerdictError",
    "NoProvidersError",
    "NodeIdInUseError",
    "NodeNotFoundError",
    "NotOwnerError",
    "PeerIdentityError",
    "PolicyError",
    "ServiceConfigError",
    "TokenError",
]


class DiscoveryError(Exception):
    """Root of all errors that aegis_discovery raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Pools of processes and task queues pickle errors. The default would call the constructor
        # with the finished message, but most constructors take the fields.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # no stub has it


STAMP_AHEAD = "ahead of this clock"
"""In the reason why a record with such a stamp is refused."""


class NoProvidersError(DiscoveryError):
    """No live node of the mesh provides the service, or a call that waited could reach none.

    Attributes:
        name: The service's name.
        version: Its version.
        known: How many nodes this process knows.
        versions: The versions of the service that nodes do provide.
        unreached: The ids of the providers that a waiting call could not reach, 100 at most.
        regions: The regions whose nodes provide the service to callers there only.
    """

    def __init__(
        self,
        name: str,
        version: str,
        known: int = 0,
        versions: Sequence[str] = (),
        until: str = "",
        unreached: Sequence[str] = (),
        regions: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.version = version
        self.known = known
        self.versions = tuple(versions)
        self.unreached = tuple(unreached)
        self.regions = tuple(regions)
        what = f"no live node provides {name}/{version}"
        if until:
            what = f"the call waited for a provider of {name}/{version} until {until}"
        others = [f"{name}/{other}" for other in self.versions if other != version]
        if self.unreached:
            listed = ", ".join(self.unreached[:5]) + ", ..." * (len(self.unreached) > 5)
            super().__init__(
                f"{what} and could not reach {listed}; check that it runs and that this process "
                f"can connect to its address"
            )
        elif self.regions:
            listed = ", ".join(map(repr, self.regions[:5])) + ", ..." * (len(self.regions) > 5)
            super().__init__(
                f"{what} to callers outside of its region, which is {listed}; call it from there, "
                f"start a provider in this region, or check that this process gives its own"
            )
        elif others:
            listed = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
            exist = "exists; call it" if len(others) == 1 else "exist; call one of them"
            super().__init__(f"{what}, but {listed} {exist}, or start a provider")
        elif known:
            super().__init__(
                f"{what} ({known} nodes known); "
                f"start a provider or check the service's name and version"
            )
        else:
            super().__init__(
                f"{what} (0 nodes known); start a provider, or let calls wait until this process "
                f"knows one (wait_for_ready=True)"
            )


class NotOwnerError(DiscoveryError):
    """A record was to be changed in the topology of a process that does not own it."""

    def __init__(self, node_id: str, owner: str) -> None:
        self.node_id = node_id
        self.owner = owner
        whose = owner or "a client, which may change none"
        super().__init__(
            f"only {node_id} may change its record, but this topology belongs to {whose}; "
            f"make the change in the process of {node_id}"
        )


class NodeNotFoundError(DiscoveryError):
    """The topology has no such node."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        super().__init__(f"the topology has no node {node_id!r}; check the node id")


class InvalidRecordError(DiscoveryError):
    """A record was refused: it is malformed, outdated or not signed by its node."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        self.reason = reason
        super().__init__(f"record of {node_id or 'an unknown node'} refused: {reason}")

    @property
    def is_ahead(self) -> bool:
        """Whether its stamp is ahead of the clock of this process."""
        return STAMP_AHEAD in self.reason


class InvalidVerdictError(DiscoveryError):
    """A verdict was refused: it is malformed, outdated or not signed by its accuser."""

    def __init__(self, accuser: str, reason: str) -> None:
        self.accuser = accuser
        self.reason = reason
        super().__init__(f"verdict of {accuser or 'an unknown node'} refused: {reason}")


class InvalidDocumentError(DiscoveryError):
    """A document was refused: it is malformed, too large, or not signed by the mesh's authority.

    Attributes:
        kind: The kind of the document; empty if it is not known.
        reason: Why it was refused.
        is_temporary: Whether the same document may be good later: the clocks disagree.
    """

    def __init__(self, kind: str, reason: str, *, is_temporary: bool = False) -> None:
        self.kind = kind
        self.reason = reason
        self.is_temporary = is_temporary
        super().__init__(f"document {kind or 'of an unknown kind'} refused: {reason}")


class NodeIdInUseError(DiscoveryError):
    """Another process of the mesh uses this node id."""

    def __init__(self, node_id: str, address: str) -> None:
        self.node_id = node_id
        self.address = address
        super().__init__(
            f"node id {node_id} is in use by another process at {address or 'an unknown address'}; "
            f"stop that process or give this node another id"
        )


class ConnectError(DiscoveryError):
    """None of the peers could be reached; `causes` has the reason of each by address."""

    def __init__(self, message: str, causes: Mapping[str, str] | None = None) -> None:
        self.causes = dict(causes or {})
        super().__init__(message)


class PeerIdentityError(ConnectError):
    """A server answered at an address, but its certificate is not the expected one."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"{address}: {reason}", {address: reason})


class TokenError(DiscoveryError):
    """A token cannot be used here and now.

    Attributes:
        reason: Why.
        node_id: The node id that it is for; empty if that is not known.
    """

    def __init__(self, reason: str, node_id: str = "") -> None:
        self.reason = reason
        self.node_id = node_id
        super().__init__(
            f"the token{f' for {node_id}' if node_id else ''} cannot be used: {reason}"
        )


class EnrolmentError(DiscoveryError):
    """No issuer of the mesh gave a certificate.

    Attributes:
        causes: The reason of each issuer, by `id@host:port`.
        is_refused: Whether all that were asked have refused, so that asking again is no use.
    """

    def __init__(self, causes: Mapping[str, str], *, is_refused: bool = False) -> None:
        self.causes = dict(causes)
        self.is_refused = is_refused
        reasons = "; ".join(f"{issuer}: {cause}" for issuer, cause in self.causes.items())
        advice = (
            "read the reason in the issuer's log, and make another token there"
            if is_refused
            else "check that an issuer runs and that this machine reaches its address"
        )
        super().__init__(f"no issuer gave a certificate ({reasons or 'none is known'}); {advice}")


class InvalidAddressError(DiscoveryError):
    """An address is malformed, or cannot be dialled."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"{address[:80]!r} is not a valid address: {reason}")


class ServiceConfigError(DiscoveryError):
    """A service config is malformed, or the pool does not support a part of it."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"service config{' at ' * bool(path)}{path}: {reason}")


class EventLoopError(DiscoveryError):
    """An object of one event loop was used in another loop, or outside of any."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the {what} belongs to another event loop; "
            f"create one in each loop, or use the blocking API of aegis_discovery"
        )


class PolicyError(DiscoveryError):
    """A policy, or one of its rules, is malformed or cannot be read."""

    def __init__(self, reason: str, *, path: object = "", line: int = 0) -> None:
        self.reason = reason
        self.path = str(path)
        self.line = line
        place = f"policy {path}" if self.path else "the policy"
        super().__init__(f"{place}{f', line {line}' if line else ''}: {reason}")


class ClosedError(DiscoveryError):
    """The object is closed and accepts no more calls."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the {what} is closed; create a new one")


class ForkedError(ClosedError):
    """An object was used in a forked child of the process that started it."""

    def __init__(self, what: str) -> None:
        self.what = what
        # Not the message of ClosedError: the object is still open in the parent process.
        DiscoveryError.__init__(
            self,
            f"the {what} was started before this process was forked, and does not survive that; "
            f"start it after the fork, in each worker",
        )
