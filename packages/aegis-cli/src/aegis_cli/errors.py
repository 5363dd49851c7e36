"""The errors of the command itself.

CliError
├── NoIdentityError   there is no identity to connect with; the message has both ways to get one
├── NoAuthorityError  the key of the CA is not in the directory
├── NotForgottenError the mesh cannot forget a node: it is alive
├── NotDrainedError   the mesh cannot drain a node
├── UnknownNodeError  the mesh knows no such node
├── CallFailedError   a call to a node failed
├── NotProvidedError  no node, or not the named one, provides a service
├── NotDescribedError a node does not describe a service, a method or a message
├── InvalidMessageError a request does not fit its method
├── CannotListenError the page of `aegis ui` cannot have a port
└── DemoError         the demo did not show what it promises
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc

__all__ = [
    "CallFailedError",
    "CannotListenError",
    "CliError",
    "DemoError",
    "InvalidMessageError",
    "NoAuthorityError",
    "NoIdentityError",
    "NotDescribedError",
    "NotDrainedError",
    "NotForgottenError",
    "NotProvidedError",
    "UnknownNodeError",
]


class CliError(Exception):
    """Root of all errors that aegis_cli raises itself."""


class NoIdentityError(CliError):
    """There is no identity to connect to a mesh with.

    Attributes:
        cert_dir: The directory of certificates.
        present: At most three identities that it has.
    """

    def __init__(self, cert_dir: str, problem: str, present: Sequence[str] = ()) -> None:
        self.cert_dir = cert_dir
        self.present = tuple(present[:3])
        some = f" (it has {', '.join(self.present)})" if present else ""
        super().__init__(
            f"{problem}; name an identity of {cert_dir}{some} with --identity NAME, or a directory "
            f"whose CA key can make one for this command with --cert-dir DIR"
        )


class NoAuthorityError(CliError):
    """The key of the CA is not in a directory."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        super().__init__(
            f"there is no CA key in {directory}; run this command where the CA's key is, or name "
            f"its directory with --cert-dir DIR"
        )


class NotForgottenError(CliError):
    """The mesh cannot forget a node."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        super().__init__(f"{node_id} is not forgotten: {reason}")


class NotDrainedError(CliError):
    """The mesh cannot drain a node."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        super().__init__(f"{node_id} is not drained: {reason}")


class UnknownNodeError(CliError):
    """The mesh knows no such node.

    Attributes:
        node_id: The id that was given.
        similar: At most three ids of nodes that may be meant.
    """

    def __init__(self, node_id: str, known: Sequence[str] = ()) -> None:
        from difflib import get_close_matches  # loads slowly

        self.node_id = node_id
        workers = [one for one in known if one.startswith(f"{node_id}#")]
        self.similar = tuple(sorted((workers or get_close_matches(node_id, known))[:3]))
        advice = f"did you mean {' or '.join(self.similar)}? " if self.similar else ""
        super().__init__(f"the mesh knows no node {node_id}; {advice}`aegis mesh status` lists all")


class CallFailedError(CliError):
    """A call to a node failed.

    Attributes:
        number: The number of its gRPC status code; 2, UNKNOWN, where it has none.
    """

    def __init__(self, error: grpc.RpcError) -> None:
        self.number: int = error.code().value[0] if hasattr(error, "code") else 2
        code = error.code().name if hasattr(error, "code") else "an unknown code"
        details = error.details() if hasattr(error, "details") else str(error)
        super().__init__(f"a call failed with {code}: {details or 'no details were given'}")


class NotProvidedError(CliError):
    """No node, or not the named one, provides a service."""

    def __init__(self, service: str, node_id: str | None, providers: Sequence[str]) -> None:
        self.service = service
        self.node_id = node_id
        self.providers = tuple(providers)
        known = ", ".join(providers)
        if not known:
            problem = f"no node provides {service}; `aegis mesh services` lists what there is"
        else:
            problem = f"{node_id} does not provide {service}; its providers: {known}"
        super().__init__(problem)


class NotDescribedError(CliError):
    """A node does not describe a service, a method or a message."""

    def __init__(self, node_id: str, problem: str) -> None:
        self.node_id = node_id
        super().__init__(f"{node_id}: {problem}")


class InvalidMessageError(CliError):
    """A request does not fit its method.

    Attributes:
        number: Its place among the requests, from 1.
    """

    def __init__(self, number: int, problem: str) -> None:
        self.number = number
        super().__init__(f"request {number} is {problem}")


class CannotListenError(CliError):
    """The page of `aegis ui` cannot have a port."""

    def __init__(self, port: int, reason: str) -> None:
        self.port = port
        super().__init__(
            f"cannot listen at port {port} of loopback: {reason}; name another one with --port "
            f"PORT, or leave it out for a free one"
        )


class DemoError(CliError):
    """The demo did not show what it promises."""
