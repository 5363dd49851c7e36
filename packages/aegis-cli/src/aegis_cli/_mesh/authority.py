"""What the issuers of a CA's directory are to publish."""

from __future__ import annotations

from aegis_certs import PublishedFiles

from aegis_cli.errors import NoAuthorityError


def authority_files(directory: str) -> PublishedFiles:
    """Returns the files of a directory that has the key of a CA.

    Raises:
        NoAuthorityError: It has none.
    """
    files = PublishedFiles(directory)
    if not files.has_ca_key:
        raise NoAuthorityError(directory)
    return files
