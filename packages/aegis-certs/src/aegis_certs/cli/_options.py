"""The options and the input that commands share."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aegis_certs._x509.names import KeyType
from aegis_certs.cli._command_group import note, prefix
from aegis_certs.cli._wrapping import no_wrap

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from aegis_certs import CertificateAuthority

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


def certificate_directory(name: str, text: str) -> Callable[[F], F]:
    """The option for the certificate directory."""
    return option(name, "AEGIS_CERT_DIR", text, default="./certs", metavar="DIR")


directory = certificate_directory("--dir", "The certificate directory.")
json_flag = option("--json", "AEGIS_JSON", "Print JSON for machines.", is_flag=True)
key_types = click.Choice([str(key_type) for key_type in KeyType])
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
    type=key_types,
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


def command_line(ctx: click.Context, command: str) -> str:
    """A next command as the user can paste it, with the same `--dir` if one was given."""
    given = ctx.get_parameter_source("dir") is click.core.ParameterSource.COMMANDLINE
    option = f" --dir {shlex.quote(ctx.params['dir'])}" if given else ""
    return no_wrap(f"{prefix(ctx)} {command}{option}")


def note_shortened(ctx: click.Context, ca: CertificateAuthority, end: datetime) -> None:
    """Writes a note if a certificate is valid for fewer days than the user asked for."""
    asked = ctx.get_parameter_source("days") is not click.core.ParameterSource.DEFAULT
    if asked and end == ca.certificate.not_valid_after_utc:
        note(
            f"Note: it ends with its CA, at {end:%Y-%m-%d %H:%M:%S} UTC, "
            f"and not after {ctx.params['days']:g} days."
        )


def output_path(path: str, force: bool) -> Path:
    """The path of a file to write, as the user named it.

    Raises:
        AlreadyExistsError: The file exists, and `force` is not set.
        DirectoryError: It is not a file but, for example, a device, which is never replaced.
    """
    from pathlib import Path

    from aegis_certs import AlreadyExistsError, DirectoryError

    place = Path(path)
    if place.exists() and not place.is_file():
        raise DirectoryError(place, "it is not a file; name one")
    if place.exists() and not force:
        raise AlreadyExistsError("a file", place, "name another, or replace it with --force")
    return place


def read_input(path: str, what: str) -> bytes:
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
    """The passphrase in a file; None if no file is named."""
    if path is None:
        return None
    lines = read_input(path, "passphrase file").decode(errors="replace").splitlines()
    if not lines or not lines[0]:
        raise click.UsageError(f"the first line of the passphrase file {path} is empty")
    return lines[0]


def ask_new_passphrase() -> str:
    """Asks twice for the passphrase of a new key, on a terminal."""
    if not sys.stdin.isatty():
        raise click.UsageError(
            "there is no terminal to ask for the passphrase; give --passphrase-file, or set "
            "AEGIS_CA_PASSPHRASE"
        )
    return _ask("Passphrase for the CA's key", confirm=True)


def load_ca(directory: str, path: str | None) -> CertificateAuthority:
    """The CA of a directory; asks for a missing passphrase on a terminal."""
    from aegis_certs import CertificateAuthority, PassphraseError

    passphrase = read_passphrase(path)
    try:
        return CertificateAuthority.load(directory, passphrase=passphrase)
    except PassphraseError:
        if passphrase or os.environ.get("AEGIS_CA_PASSPHRASE") or not sys.stdin.isatty():
            raise
        passphrase = _ask("Passphrase of the CA's key", confirm=False)
        return CertificateAuthority.load(directory, passphrase=passphrase)


def _ask(prompt: str, *, confirm: bool) -> str:
    answer: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
