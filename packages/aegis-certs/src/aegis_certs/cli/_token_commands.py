"""The command that makes, lists and cancels tokens."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from aegis_certs.cli import _options as options
from aegis_certs.cli._command_group import fail, note
from aegis_certs.cli._input import load_ca

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from aegis_certs import IssuerAddress, Token
    from aegis_certs._store.directory import Store

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _parse_ttl(_ctx: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    from datetime import timedelta

    if (found := _DURATION.fullmatch(value)) is None:
        raise click.BadParameter("give a number and s, m, h or d, such as 15m")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


@options.command(
    "aegis-certs token orders-1 > token",
    "aegis-certs token laptop --client-only --days 7 --ttl 1h > token",
    "aegis-certs token orders-1 --at 10.0.0.5:50051 --issuer-id ca-1 > token",
    "aegis-certs token --list",
    "aegis-certs token --cancel orders-1",
)
@click.argument("node_id", metavar="[ID]", required=False)
@options.directory
@options.option(
    "--ttl",
    "AEGIS_TOKEN_TTL",
    "How long it can be used: a number and s, m, h or d.",
    default="15m",
    metavar="TIME",
    callback=_parse_ttl,
)
@options.leaf_days
@options.hosts
@options.client_only
@options.option(
    "--at",
    "AEGIS_TOKEN_AT",
    "The address of an issuer to ask first. Issuers on this machine write their addresses into the "
    "directory; name others, and those whose address differs from outside.",
    parameter="addresses",
    multiple=True,
    metavar="HOST:PORT",
)
@options.option(
    "--issuer-id",
    "AEGIS_ISSUER_ID",
    "The node id of the issuer at --at, if the directory does not tell it.",
    metavar="ID",
)
@click.option(  # no variable, as for --cancel: a variable would change what the command does
    "--list", "listing", is_flag=True, help="List the tokens of the last week instead."
)
@click.option(
    "--cancel",
    metavar="ID|SERIAL",
    help="Cancel the unused tokens of a node, or one token, instead.",
)
@options.passphrase_file
@options.json_flag
def token(
    node_id: str | None,
    dir: str,  # noqa: A002 - named after its option
    listing: bool,
    cancel: str | None,
    **rest: Any,
) -> None:
    """Make a token, with which a machine becomes the node ID.

    The token is a certificate that can do one thing: ask an issuer of the mesh, once, for the first
    certificate of this node. The machine needs nothing else. Until it is used or ends, whoever has
    it can become the node.

    Only the token is written to standard output. On the machine, `aegis enroll` takes it from a
    file or from standard input.
    """
    if (node_id is not None) + listing + (cancel is not None) != 1:
        raise click.UsageError("give one of: an ID, --list, --cancel ID|SERIAL")
    if listing:
        _list(dir, rest["json"])
    elif cancel is not None:
        _cancel(dir, cancel, rest["passphrase_file"], rest["json"])
    else:
        _create(str(node_id), dir, **rest)


def _create(
    node_id: str,
    directory: str,
    passphrase_file: str | None,
    json: bool,
    addresses: Sequence[str],
    issuer_id: str | None,
    **grant: Any,
) -> None:
    from aegis_certs import validate_node_id
    from aegis_certs._store.directory import Store
    from aegis_certs.cli._output import run

    validate_node_id(node_id)
    ca = load_ca(directory, passphrase_file)
    issuers = _issuers(Store(directory), addresses, issuer_id)
    made = run("Making the token …", lambda: ca.create_token(node_id, issuers=issuers, **grant))
    _show(made, json)


def _issuers(store: Store, addresses: Sequence[str], issuer_id: str | None) -> list[IssuerAddress]:
    """The issuers at the given addresses.

    Their id is the given one, or that of the only issuer, or else of the only node, that the
    directory knows.
    """
    from aegis_certs import IssuerAddress
    from aegis_certs._ca.enrolment.issuer_addresses import read_issuer_addresses

    known = [issuer.node_id for issuer in read_issuer_addresses(store)]
    if not addresses:
        if issuer_id is not None:
            raise click.UsageError("--issuer-id needs --at HOST:PORT, the address of that issuer")
        if not known:
            fail(
                f"no issuer has run in {store.directory} yet, so the machine would not know whom "
                f"to ask; start one (`aegis node run --id ca-1 --issuer`), or name one with "
                f"--at HOST:PORT",
                7,
            )
        return []
    if issuer_id is None:
        ids = known or store.names()
        if len(ids) != 1:
            raise click.UsageError(
                "the directory does not tell which node is at --at; name it with --issuer-id ID"
            )
        (issuer_id,) = ids
    return [IssuerAddress.parse(issuer_id, address) for address in addresses]


def _show(made: Token, json: bool) -> None:
    from aegis_certs._time import format_utc
    from aegis_certs.cli._output import show_json

    text = made.encode()
    if json:
        show_json(
            {
                "id": made.node_id,
                "serial": made.serial,
                "not_after": made.not_after,
                "issuers": [issuer._asdict() for issuer in made.issuers],
                "token": text,
            }
        )
    else:
        click.echo(text)
    if sys.stderr.isatty():
        note(
            f"Until {format_utc(made.not_after)} this token makes one machine {made.node_id}: "
            f"`aegis enroll --token-file FILE` there. Treat it as a password. To take it back: "
            f"`aegis-certs token --cancel {made.node_id}`"
        )


def _list(directory: str, json: bool) -> None:
    from dataclasses import asdict

    from aegis_certs._ca.enrolment.tokens import read_tokens
    from aegis_certs._store.directory import Store
    from aegis_certs._time import utc_or_now
    from aegis_certs.cli._output import show_json
    from aegis_certs.cli._token_view import show_tokens

    tokens = read_tokens(Store(directory), utc_or_now(None))
    if json:
        show_json({"directory": directory, "tokens": [asdict(one) for one in tokens]})
    elif tokens:
        show_tokens(tokens)
    else:
        click.echo(f"There is no token in {directory}.")


def _cancel(directory: str, what: str, passphrase_file: str | None, json: bool) -> None:
    from dataclasses import asdict

    from aegis_certs.cli._output import run, say, show_json

    ca = load_ca(directory, passphrase_file)
    tokens = run("Cancelling …", lambda: ca.cancel_token(what))
    if json:
        show_json({"directory": directory, "cancelled": [asdict(one) for one in tokens]})
        return
    for one in tokens:
        say(f"Cancelled the token {one.serial} of {one.id}", "green")
