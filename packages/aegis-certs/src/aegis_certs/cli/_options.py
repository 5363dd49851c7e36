"""The options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from aegis_certs._x509.names import KeyType
from aegis_certs.cli._command_group import Command

F = TypeVar("F", bound=Callable[..., Any])

EXPIRING = 3  # the exit code for a certificate that is valid, but expires soon


def option(
    name: str, envvar: str, text: str, *, parameter: str | None = None, **attributes: Any
) -> Callable[[F], F]:
    """An option that an environment variable can set, which its help text names.

    Its value is passed as `parameter`, or else under the name of the option.
    """
    names = (name,) if parameter is None else (name, parameter)
    return click.option(
        *names, envvar=envvar, show_envvar=True, show_default=True, help=text, **attributes
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


def key_type(envvar: str, text: str, default: KeyType | None = None) -> Callable[[F], F]:
    """The option for the type of a key, which is passed as a `KeyType`."""
    return option(
        "--key-type",
        envvar,
        text,
        type=click.Choice([str(key_type) for key_type in KeyType]),
        default=default and default.value,
        callback=lambda _ctx, _parameter, value: value and KeyType(value),
    )


passphrase_file = option(
    "--passphrase-file",
    "AEGIS_CA_PASSPHRASE_FILE",
    "A file whose first line is the passphrase of the CA's key. Without it, the passphrase is that "
    "of $AEGIS_CA_PASSPHRASE or of the systemd credential aegis-ca-passphrase, or asked for.",
    metavar="FILE",
)
hosts = option(
    "--host",
    "AEGIS_CERT_HOSTS",
    "A further DNS name or IP address; may be given more than once.",
    parameter="hosts",
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
leaf_key_type = key_type("AEGIS_CERT_KEY_TYPE", "The type of its key.", KeyType.RSA_2048)
client_only = option(
    "--client-only", "AEGIS_CERT_CLIENT_ONLY", "It can call, but not serve.", is_flag=True
)
server_only = option(
    "--server-only", "AEGIS_CERT_SERVER_ONLY", "It can serve, but not call.", is_flag=True
)
force = click.option(  # no variable: what may be replaced once may not be replaced always
    "--force", is_flag=True, help="Replace an existing file."
)
