"""The errors of the command itself.

CliError
├── NoIdentityError   there is no identity to connect with; the message has both ways to get one
├── NoAuthorityError  the key of the CA is not in the directory
├── NotForgottenError the mesh cannot forget a node: it is alive, or unknown
├── UnknownNodeError  the mesh knows no such node
├── CallFailedError   a call to a node failed
└── DemoError         the demo did not show what it promises
"""

from __future__ import annotations

import grpc

__all__ = [
    "CallFailedError",
    "CliError",
    "DemoError",
    "NoAuthorityError",
    "NoIdentityError",
    "NotForgottenError",
    "UnknownNodeError",
]


class CliError(Exception):
    """Root of all errors that aegis_cli raises itself."""


class NoIdentityError(CliError):
    """There is no identity to connect to a mesh with."""

    def __init__(self, cert_dir: str, problem: str) -> None:
        self.cert_dir = cert_dir
        super().__init__(
            f"{problem}; name an identity of {cert_dir} with --identity NAME, or a directory whose "
            f"CA key can make one for this command with --cert-dir DIR"
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


class UnknownNodeError(CliError):
    """The mesh knows no such node."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        super().__init__(f"the mesh knows no node {node_id}; `aegis mesh status` lists all")


class CallFailedError(CliError):
    """A call to a node failed."""

    def __init__(self, error: grpc.RpcError) -> None:
        code = error.code().name if hasattr(error, "code") else "an unknown code"
        details = error.details() if hasattr(error, "details") else str(error)
        super().__init__(f"a call failed with {code}: {details or 'no details were given'}")


class DemoError(CliError):
    """The demo did not show what it promises."""
