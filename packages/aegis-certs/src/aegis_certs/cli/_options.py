"""The options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from aegis_certs._x509.names import KeyType
from aegis_certs.cli._command_group import Command

F = TypeVar("F", bound=Callable[..., Any])

EXPIRING = 3  # the exit code for a certificate that is valid, but expires soon


def option(name: str, envvar: str, text: str, **attributes: Any) -> Callable[[F], F]:
    """An option that an environment variable can set, which its help text names."""
    return click.option(
        name, envvar=envvar, show_envvar=True, show_default=True, help=text, **attributes
    )


def examples(*lines: str, notes: str = "") -> str:
    """An epilog of examples, which click does not wrap, and of notes, which it does."""
    shown = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
    return f"{shown}\n\n{notes}" if notes else shown


def command(*lines: str, **attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """A command with these examples."""
    return click.command(cls=Command, epilog=examples(*lines), **attributes)


def certificate_directory(name: str, text: str) -> Callable[[F], F]:
    """The option for the certificate directory."""
    return option(name, "AEGIS_CERT_DIR", text, default="./certs", metavar="DIR")


directory = certificate_directory("--dir", "The certificate directory.")
json_flag = option("--json", "AEGIS_JSON", "Print JSON for machines.", is_flag=True)
KEY_TYPES = click.Choice([str(key_type) for key_type in KeyType])
passphrase_file = option(
    "--passphrase-file",
    "AEGIS_CA_PASSPHRASE_FILE",
    "A file whose first line is the passphrase of the CA's key. Without it, the passphrase is "
    "read from $AEGIS_CA_PASSPHRASE or asked for.",
    metavar="FILE",
)
hosts = option(
    "--host",
    "AEGIS_CERT_HOSTS",
    "A further DNS name or IP address; may be given more than once.",
    multiple=True,
    metavar="HOST",
)
leaf_days = option(
    "--days",
    "AEGIS_CERT_DAYS",
    "How long the certificate is valid.",
    type=float,
    default=90,
    metavar="DAYS",
)
leaf_key_type = option(
    "--key-type",
    "AEGIS_CERT_KEY_TYPE",
    "The type of its key.",
    type=KEY_TYPES,
    default=KeyType.RSA_2048.value,
)
client_only = option(
    "--client-only", "AEGIS_CERT_CLIENT_ONLY", "It can call, but not serve.", is_flag=True
)
server_only = option(
    "--server-only", "AEGIS_CERT_SERVER_ONLY", "It can serve, but not call.", is_flag=True
)
force = click.option(  # no variable: what may be replaced once may not be replaced always
    "--force", is_flag=True, help="Replace an existing file."
)
