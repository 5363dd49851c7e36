"""`aegis enroll`: the first identity of a machine, for a token."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from aegis_certs.cli import (
    Command,
    certificate_directory,
    examples,
    json_flag,
    option,
    warn_at_once,
)

from aegis_cli._options import mesh_name

if TYPE_CHECKING:
    from aegis_certs import TLSConfig, Token

TOKEN = "AEGIS_ENROLL_TOKEN"  # noqa: S105 - the name of a variable


@click.command(
    cls=Command,
    epilog=examples(
        "aegis enroll --token-file token",
        "ssh ca-1 aegis certs token orders-1 | aegis enroll",
        "aegis enroll orders-1 --token-file token --cert-dir /etc/aegis/certs",
    ),
)
@click.argument("node_id", metavar="[ID]", required=False)
@option(
    "--token-file",
    "AEGIS_TOKEN_FILE",
    f"The file of the token. Without it, the token is read from ${TOKEN}, or else from standard "
    "input. A token is never an argument: other users of this machine could read it.",
    metavar="FILE",
)
@certificate_directory("--cert-dir", "Where key, certificate and trust bundle are kept.")
@mesh_name
@option(
    "--key-type",
    "AEGIS_CERT_KEY_TYPE",
    "The type of the new key.",
    type=click.Choice(["rsa-2048", "rsa-4096", "p256", "p384"]),
    default="rsa-2048",
)
@option(
    "--timeout",
    "AEGIS_ENROLL_TIMEOUT",
    "Seconds until it gives up. A busy issuer is asked again until then.",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    metavar="SECONDS",
)
@json_flag
def enroll(
    node_id: str | None,
    token_file: str | None,
    cert_dir: str,
    mesh: str,
    key_type: str,
    timeout: float,
    json: bool,
) -> None:
    """Get this machine's identity from an issuer, for a token.

    The key is created here and never leaves this machine. If the directory has a valid identity of
    this node already, it is kept, and the token is not used. With an ID, the token must be for it.
    """
    from aegis_certs import KeyType
    from aegis_certs.cli import run_slowly
    from aegis_discovery.enrolment import enroll_until_cancelled

    token = _token(token_file)
    with _warnings_shown():
        tls, is_new = run_slowly(
            "Asking an issuer for a certificate",
            lambda: enroll_until_cancelled(
                token,
                cert_dir,
                node_id=node_id or token.node_id,
                mesh=mesh,
                key_type=KeyType(key_type),
                timeout=timeout,
                must_write=True,
            ),
        )
    _show(tls, Path(cert_dir), token, is_new=is_new, json=json)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Shows at once why there is no certificate yet: it may take minutes, and a person waits."""
    import logging

    logger, handler = logging.getLogger("aegis.identity"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: warn_at_once(record.getMessage())  # type: ignore[method-assign]  # shorter than a class
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _token(file: str | None) -> Token:
    from aegis_certs import Token
    from aegis_discovery import TokenError

    if file is not None:
        try:
            return Token.parse(Path(file).read_bytes()[: 1 << 16])
        except OSError as error:
            raise TokenError(f"cannot read {file}: {error.strerror or error}") from error
    if text := os.environ.get(TOKEN):
        return Token.parse(text)
    if sys.stdin.isatty():
        raise click.UsageError(
            f"no token was given; name its file with --token-file FILE, set ${TOKEN}, or pipe it "
            "in; make one where the CA's key is: aegis certs token ID"
        )
    return Token.parse(sys.stdin.read(1 << 16))


def _show(tls: TLSConfig, directory: Path, token: Token, *, is_new: bool, json: bool) -> None:
    from aegis_certs.cli import present

    seed = token.issuers[0].address if token.issuers else "HOST:PORT"
    if "server" in tls.usages:
        advice = (
            "Its certificate is renewed while its node runs. "
            f"Next: aegis node run --id {tls.node_id} --join {seed}"
        )
    else:
        advice = (
            "It can call, and cannot serve; its certificate is renewed while its client runs. "
            f'Next, in a program: connect("{seed}", node_id="{tls.node_id}", cert_dir=...)'
        )
    title = f"{tls.node_id} has enrolled"
    if not is_new:
        title = f"{tls.node_id} has a valid identity already; the token was not used"
    present(
        json,
        title,
        {
            "id": tls.node_id,
            "spiffe_id": tls.identity.spiffe_id,
            "not_after": tls.not_after,
            "certificate": directory / f"{tls.node_id}-cert.pem",
            "key": directory / f"{tls.node_id}-key.pem",
            "trust_bundle": directory / "ca-cert.pem",
            "enrolled": is_new,
        },
        advice,
        hidden=("id", "enrolled"),
    )
