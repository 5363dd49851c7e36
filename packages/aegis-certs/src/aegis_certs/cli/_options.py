"""What the commands share: their options, their examples, and where a passphrase comes from."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aegis_certs._x509.names import KeyType
from aegis_certs.cli._command_group import NAME, CommandGroup, prefix, tell

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from aegis_certs import CertificateAuthority

F = TypeVar("F", bound=Callable[..., Any])

EXPIRING = 3  # the exit code of a certificate that is good, but not for long


class Command(click.Command):
    """A command whose examples call it as the reader has called it."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples."""
        _write_epilog(self, ctx, formatter)


class Group(CommandGroup):
    """A group of such commands."""

    command_class = Command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples."""
        _write_epilog(self, ctx, formatter)


def same_directory(ctx: click.Context) -> str:
    """The `--dir` that the next command needs too; empty where it goes there without."""
    given = ctx.get_parameter_source("dir") is click.core.ParameterSource.COMMANDLINE
    return f" --dir {shlex.quote(ctx.params['dir'])}" if given else ""


def note_shortened(ctx: click.Context, ca: CertificateAuthority, end: datetime) -> None:
    """Tells, on standard error, where a certificate got fewer days than were asked for."""
    asked = ctx.get_parameter_source("days") is not click.core.ParameterSource.DEFAULT
    if asked and end == ca.certificate.not_valid_after_utc:
        tell(
            f"Note: it ends with its CA, at {end:%Y-%m-%d %H:%M:%S} UTC, "
            f"and not after {ctx.params['days']:g} days."
        )


def _write_epilog(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    if command.epilog:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(command.epilog.replace(f"{NAME} ", f"{prefix(ctx)} "))


def examples(*lines: str) -> str:
    """An epilog that click does not wrap."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def option(name: str, envvar: str, text: str, **attributes: Any) -> Callable[[F], F]:
    """An option that can come from the environment too."""
    return click.option(
        name, envvar=envvar, show_envvar=True, show_default=True, help=text, **attributes
    )


directory = option(
    "--dir",
    "AEGIS_CERT_DIR",
    "The certificate directory.",
    default="./certs",
    metavar="DIR",
)
json_flag = option("--json", "AEGIS_JSON", "Print JSON for machines.", is_flag=True)
key_types = click.Choice([str(key_type) for key_type in KeyType])
passphrase_file = option(
    "--passphrase-file",
    "AEGIS_CA_PASSPHRASE_FILE",
    "A file whose first line is the passphrase of the CA's key; otherwise $AEGIS_CA_PASSPHRASE, "
    "or you are asked.",
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
    "--days", "AEGIS_CERT_DAYS", "How long it lives.", type=float, default=90, metavar="DAYS"
)
leaf_key_type = option(
    "--key-type", "AEGIS_CERT_KEY_TYPE", "Its key.", type=key_types, default=KeyType.RSA_2048.value
)
client_only = option(
    "--client-only", "AEGIS_CERT_CLIENT_ONLY", "It can call, not serve.", is_flag=True
)
server_only = option(
    "--server-only", "AEGIS_CERT_SERVER_ONLY", "It can serve, not call.", is_flag=True
)

force = click.option(  # of no variable: what may be replaced once may not be for good
    "--force", is_flag=True, help="Replace the file that is there."
)


def place_for(path: str, force: bool) -> Path:
    """A file that the user named, to be written.

    Raises:
        AlreadyExistsError: It is there, and was not given up.
        DirectoryError: It is something else, such as a device, that a file must not replace.
    """
    from pathlib import Path

    from aegis_certs import AlreadyExistsError, DirectoryError

    place = Path(path)
    if place.exists() and not place.is_file():
        raise DirectoryError(place, "it is no file; name one")
    if place.exists() and not force:
        raise AlreadyExistsError("a file", place, "name another, or replace it with --force")
    return place


def read_file(path: str, what: str) -> bytes:
    """The content of a file that the user named.

    Raises:
        NotFoundError: It cannot be read.
    """
    from pathlib import Path

    from aegis_certs import NotFoundError

    try:
        return Path(path).read_bytes()
    except OSError as error:
        advice = f"{(error.strerror or str(error)).lower()}; check its name"
        raise NotFoundError(what, path, advice) from error


def read_passphrase(path: str | None) -> str | None:
    """The passphrase in a file; None where no file is named."""
    if path is None:
        return None
    lines = read_file(path, "passphrase file").decode(errors="replace").splitlines()
    if not lines or not lines[0]:
        raise click.UsageError(f"the passphrase file {path} begins with an empty line")
    return lines[0]


def ask_new_passphrase() -> str:
    """The passphrase of a new key, asked for twice on a terminal."""
    if not sys.stdin.isatty():
        raise click.UsageError(
            "there is no terminal to ask for the passphrase; give --passphrase-file, or set "
            "AEGIS_CA_PASSPHRASE"
        )
    asked: str = click.prompt(
        "Passphrase for the CA's key", hide_input=True, confirmation_prompt=True, err=True
    )
    return asked


def load_ca(directory: str, path: str | None) -> CertificateAuthority:
    """The CA of a directory; on a terminal, the user is asked for a passphrase that is missing."""
    from aegis_certs import CertificateAuthority, PassphraseError

    given = read_passphrase(path)
    try:
        return CertificateAuthority.load(directory, passphrase=given)
    except PassphraseError:
        if given or os.environ.get("AEGIS_CA_PASSPHRASE") or not sys.stdin.isatty():
            raise
        asked = click.prompt("Passphrase of the CA's key", hide_input=True, err=True)
        return CertificateAuthority.load(directory, passphrase=asked)
