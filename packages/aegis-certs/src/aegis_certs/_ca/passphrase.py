"""The passphrase of a CA's key: an argument, a file, the environment or a systemd credential.

The first of these that is there counts:

1. the argument `passphrase`, and in commands the file of `--passphrase-file`;
2. the file that `AEGIS_CA_PASSPHRASE_FILE` names;
3. `AEGIS_CA_PASSPHRASE`;
4. the systemd credential `aegis-ca-passphrase` (`LoadCredential=` in a unit).

It is never an argument of a command, since other users of the machine could read it.
"""

from __future__ import annotations

import codecs
import logging
import os
import stat
from pathlib import Path

from aegis_certs._store import files
from aegis_certs.errors import DirectoryError, NotFoundError, PassphraseError

VARIABLE = "AEGIS_CA_PASSPHRASE"
FILE_VARIABLE = f"{VARIABLE}_FILE"
CREDENTIAL = "aegis-ca-passphrase"
_MAX_BYTES = 1023
_MAX_FILE = 1 << 20  # bytes: a bound for a device

logger = logging.getLogger("aegis_certs")


def passphrase_or_default(given: str | bytes | None) -> bytes | None:
    """The given passphrase as bytes; by default the first of the others, or None.

    Raises:
        PassphraseError: It is too long, or its file has none.
        NotFoundError: Its file cannot be read.
    """
    if given is not None:
        return _checked(given.encode(errors="surrogateescape") if isinstance(given, str) else given)
    if path := os.environ.get(FILE_VARIABLE):
        return read_passphrase_file(path)
    if value := os.environ.get(VARIABLE):
        return _checked(value.encode(errors="surrogateescape"))
    if directory := os.environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory) / CREDENTIAL
        if files.exists(credential):
            return read_passphrase_file(credential)
    return None


def read_passphrase_file(path: str | Path) -> bytes:
    """The first line of a file, without the mark of UTF-8 (BOM).

    A warning is logged if all users can read the file. A group may on purpose.

    Raises:
        NotFoundError: The file cannot be read.
        PassphraseError: Its first line is empty, too long or not UTF-8.
    """
    path = Path(path)
    try:
        data, found = files.read(path, _MAX_FILE + 1), files.status(path)
    except DirectoryError as error:
        raise NotFoundError("passphrase file that can be read", path, str(error)) from error
    if data is None or found is None:
        raise NotFoundError("passphrase file", path, "check its name")
    if len(data) > _MAX_FILE:
        raise _unusable(f"it has more than {_MAX_FILE} bytes; name another", path)
    if stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH:
        logger.warning("all users can read the passphrase in %s; run `chmod o-r %s`", path, path)
    line = next(iter(data.removeprefix(codecs.BOM_UTF8).splitlines()), b"")
    if not line:
        raise _unusable("its first line is empty", path)
    if b"\0" in line:  # in UTF-16 every second byte of a Latin text is zero
        raise _unusable("it is not a text in UTF-8", path)
    return _checked(line, path) or line


def _checked(passphrase: bytes, source: Path | None = None) -> bytes | None:
    if len(passphrase) > _MAX_BYTES:
        reason = f"it has {len(passphrase)} bytes, and OpenSSL accepts at most {_MAX_BYTES}"
        raise PassphraseError("passphrase", f"{reason}; choose a shorter one", source)
    return passphrase or None


def _unusable(reason: str, path: Path) -> PassphraseError:
    return PassphraseError("passphrase file", reason, path)
