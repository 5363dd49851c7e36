"""What can go wrong in a node.

MeshError
├── ConfigError             an option that cannot work; names the option and the remedy
│   └── NoTLSConfigError    a node without an identity
├── AddressInUseError       another process listens there
├── JoinError               no seed peer answered, and the node must join
├── RegistrarError          a function that adds services to a server cannot be used
├── WorkerStartError        no worker could start; names the exit code of the last one
├── NodeStateError          started twice, or used before the start or after the stop
├── PeerNotFoundError       no peer and no node has this id
└── CallerError             the caller is unknown, refused or denied
    ├── NoPeerInfoError     the context has no peer
    ├── NoTLSInfoError      the connection is not TLS
    ├── NoCertificateError  the caller showed no certificate
    └── CallerRefusedError  its certificate is not valid here, or its TLS too old
        └── CallDeniedError the policy does not allow the call
"""

from __future__ import annotations

import copyreg
from typing import Any

__all__ = [
    "AddressInUseError",
    "CallDeniedError",
    "CallerError",
    "CallerRefusedError",
    "ConfigError",
    "JoinError",
    "MeshError",
    "NoCertificateError",
    "NoPeerInfoError",
    "NoTLSConfigError",
    "NoTLSInfoError",
    "NodeStateError",
    "PeerNotFoundError",
    "RegistrarError",
    "WorkerStartError",
]


class MeshError(Exception):
    """Root of all errors that aegis_core raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Restores args and fields without a call of __init__, which takes the fields of most
        # errors and builds the sentence. Process pools and task queues pickle errors.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # no stub has it


class ConfigError(MeshError):
    """An option of a node cannot work."""

    def __init__(self, option: str, reason: str) -> None:
        self.option = option
        self.reason = reason
        super().__init__(f"{option}: {reason}")


class NoTLSConfigError(ConfigError):
    """A node was created without an identity."""

    def __init__(self) -> None:
        super().__init__("tls", "a node needs an identity; give cert_dir, tls_options or tls")


class AddressInUseError(MeshError):
    """The address to listen on cannot be bound."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(
            f"cannot listen on {address}: {reason}; choose an address of this machine and a free "
            f"port (0 picks one)"
        )


class JoinError(MeshError):
    """No seed peer, and no registry, answered a node that was made with `require_join`."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        self.reason = reason
        super().__init__(
            f"{node_id} has joined no mesh: {reason}; check the addresses of its seed peers and "
            f"registry, or start without require_join to keep trying"
        )


class RegistrarError(MeshError):
    """A function that adds services to a server cannot be used."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(
            f"{name} cannot be used: {problem}; name a function that adds services to a server, or "
            f"a list of them, such as orders:register for `register` in orders.py"
        )


class WorkerStartError(MeshError):
    """The workers of an identity cannot start.

    Attributes:
        exit_code: The exit code of the last worker that did not start; negative for a signal.
    """

    def __init__(self, identity: str, exit_code: int) -> None:
        self.identity = identity
        self.exit_code = exit_code
        super().__init__(
            f"no worker of {identity} could start (the last one ended with exit code {exit_code}); "
            f"its error is above"
        )


class NodeStateError(MeshError):
    """A node cannot do this in the state it is in."""


class PeerNotFoundError(MeshError):
    """Neither a peer nor a node of the topology has this id."""

    def __init__(self, peer_id: str) -> None:
        self.peer_id = peer_id
        super().__init__(f"no peer {peer_id!r} is known; add it with add_peer or join its mesh")


class CallerError(MeshError):
    """The caller is unknown, refused or denied."""


class NoPeerInfoError(CallerError):
    """The context has no peer, so it is not the context of a gRPC handler."""

    def __init__(self) -> None:
        super().__init__("the context carries no peer; pass the context of a gRPC handler")


class NoTLSInfoError(CallerError):
    """The connection is not TLS."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        super().__init__(f"the connection from {peer} is not TLS; serve through a mesh node")


class NoCertificateError(CallerError):
    """The caller showed no certificate, or one that names no node."""

    def __init__(self, peer: str, reason: str = "it showed no certificate") -> None:
        self.peer = peer
        self.reason = reason
        super().__init__(f"the caller at {peer} has no identity: {reason}")


class CallerRefusedError(CallerError):
    """The caller is known, but refused for its certificate or TLS version."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        super().__init__(reason)


class CallDeniedError(CallerRefusedError):
    """No rule of the policy allows this call. The error does not reveal the rules."""

    def __init__(self, node_id: str, method: str) -> None:
        self.method = method
        super().__init__(node_id, f"{node_id} may not call {method}")
