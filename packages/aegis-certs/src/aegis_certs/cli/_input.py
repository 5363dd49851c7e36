"""The input of commands: files, passphrases, and the CA of a directory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from aegis_certs import CertificateAuthority


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
