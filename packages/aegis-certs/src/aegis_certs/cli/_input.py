"""The input of commands: files, passphrases, and the CA of a directory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from aegis_certs import CertificateAuthority

_MAX_INPUT = 1 << 20  # bytes: more than any certificate needs, and a bound for a device


def output_path(path: str, force: bool) -> Path:
    """The path of a file to write, as the user named it.

    Raises:
        AlreadyExistsError: The file exists, and `force` is not set.
        DirectoryError: It is not a file but, for example, a device, which is never replaced.
    """
    from pathlib import Path

    from aegis_certs import AlreadyExistsError, DirectoryError
    from aegis_certs._store.files import exists, is_file

    place = Path(path)
    if exists(place) and not is_file(place):
        raise DirectoryError(place, "it is not a file; name one")
    if exists(place) and not force:
        raise AlreadyExistsError("a file", place, "name another, or replace it with --force")
    return place


def read_input(path: str, what: str) -> bytes:
    """The content of a file that the user named.

    Raises:
        NotFoundError: It cannot be read.
        InvalidPemError: It is too large.
    """
    from pathlib import Path

    from aegis_certs import InvalidPemError, NotFoundError

    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_INPUT + 1)
    except OSError as error:
        advice = f"{(error.strerror or str(error)).lower()}; check its name"
        raise NotFoundError(what, path, advice) from error
    if len(data) > _MAX_INPUT:
        raise InvalidPemError(what, f"it has more than {_MAX_INPUT} bytes; name another", path)
    return data


def read_ids(path: str) -> list[str]:
    """The node ids in a file, one a line, without empty lines and comments."""
    text = read_input(path, "file of node ids").decode(errors="replace").removeprefix("\ufeff")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def read_passphrase(path: str | None) -> bytes | None:
    """The passphrase in a file; None if no file is named."""
    if path is None:
        return None
    from aegis_certs import PassphraseError
    from aegis_certs._ca.passphrase import read_passphrase_file
    from aegis_certs.cli._output import warnings_as_notes

    try:
        with warnings_as_notes():
            return read_passphrase_file(path)
    except PassphraseError as error:
        raise click.UsageError(str(error)) from error


def ask_new_passphrase(what: str = "the CA's key", variable: str = "AEGIS_CA_PASSPHRASE") -> str:
    """Asks twice for a new passphrase, on a terminal."""
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"there is no terminal to ask for the passphrase; give --passphrase-file, or set "
            f"{variable}"
        )
    return _ask(f"Passphrase for {what}", confirm=True)


def load_ca(directory: str, path: str | None) -> CertificateAuthority:
    """The CA of a directory; asks for a missing passphrase on a terminal."""
    from aegis_certs import CertificateAuthority, PassphraseError
    from aegis_certs._ca.passphrase import passphrase_or_default
    from aegis_certs.cli._output import warnings_as_notes

    passphrase: str | bytes | None = read_passphrase(path)
    try:
        with warnings_as_notes():
            passphrase = passphrase_or_default(passphrase)
            return CertificateAuthority.load(directory, passphrase=passphrase)
    except PassphraseError:
        if passphrase or not sys.stdin.isatty():
            raise
        passphrase = _ask("Passphrase of the CA's key", confirm=False)
        with warnings_as_notes():
            return CertificateAuthority.load(directory, passphrase=passphrase)


def _ask(prompt: str, *, confirm: bool) -> str:
    answer: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
