"""The commands that keep a CA going: renewals, revocations, rotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from aegis_certs._x509.names import KeyType
from aegis_certs.cli._command_group import prefix, tell
from aegis_certs.cli._options import (
    Command,
    Group,
    directory,
    examples,
    json_flag,
    key_types,
    load_ca,
    option,
    passphrase_file,
    same_directory,
)
from aegis_certs.cli._wrapping import unbroken

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority

Look = Callable[["CertificateAuthority"], Sequence[str]]
"""How a command that can see the nodes tells which of them stand in the way of a step."""

# The reasons of RFC 5280 that are for good, as `RevocationReason` has them.
_REASONS = (
    "unspecified",
    "key-compromise",
    "ca-compromise",
    "affiliation-changed",
    "superseded",
    "cessation-of-operation",
    "privilege-withdrawn",
)
_WATCH_SECONDS = 60.0  # how late a certificate that becomes due may be renewed


@click.command(
    cls=Command,
    short_help="Renew one certificate, or all that are due.",
    epilog=examples("aegis-certs renew", "aegis-certs renew orders-1", "aegis-certs renew --watch"),
)
@click.argument("node_id", metavar="[ID]", required=False)
@directory
@option("--watch", "AEGIS_WATCH", "Go on, and renew what becomes due, until Ctrl-C.", is_flag=True)
@passphrase_file
@json_flag
def renew(
    node_id: str | None,
    dir: str,  # noqa: A002 - named after its option
    watch: bool,
    passphrase_file: str | None,
    json: bool,
) -> None:
    """Renew the certificate of the node ID, or all that are due, each with a new key.

    Due is what has less than a third of its life left, or is from a CA that was replaced. The
    list of what is revoked is signed anew too, where it is half-way to its end. With --json and
    --watch, every round that did something is one document.
    """
    from aegis_certs import Renewal
    from aegis_certs.cli._output import run, show_renewals

    if watch and node_id is not None:
        raise click.UsageError("--watch renews all that are due; leave out the ID")
    ca = load_ca(dir, passphrase_file)
    if watch:
        _keep_renewing(ca, json)
    renewals = run(
        "Renewing …",
        lambda: (Renewal(node_id, ca.renew(node_id)),) if node_id else ca.renew_due(),
    )
    show_renewals(json, ca.directory, renewals)
    for renewal in renewals:
        if renewal.error is not None:
            raise renewal.error


def _keep_renewing(ca: CertificateAuthority, json: bool) -> NoReturn:
    """Renews for ever; what fails is told, and tried again a little later."""
    import time

    from aegis_certs import CertsError
    from aegis_certs.cli._output import run, show_renewals

    tell(f"Renewing what becomes due in {ca.directory}, until Ctrl-C.")
    while True:
        try:
            renewals = run("Renewing …", ca.renew_due)
        except CertsError as error:
            tell(f"Error: {error}")
        else:
            if renewals:
                show_renewals(json, ca.directory, renewals)
        time.sleep(_WATCH_SECONDS)


@click.command(
    cls=Command,
    short_help="Revoke a node, or one certificate by its serial number.",
    epilog=examples(
        "aegis-certs revoke orders-1 --reason key-compromise",
        "aegis-certs revoke 3d501a7c58954d5437712c818eea1a70490c1d9b",
    ),
)
@click.argument("what", metavar="ID|SERIAL")
@directory
@option(
    "--reason",
    "AEGIS_REVOKE_REASON",
    "Why.",
    type=click.Choice(_REASONS),
    default="unspecified",
)
@passphrase_file
@json_flag
@click.pass_context
def revoke(
    ctx: click.Context,
    what: str,
    dir: str,  # noqa: A002 - named after its option
    reason: str,
    passphrase_file: str | None,
    json: bool,
) -> None:
    """Revoke a node with all its certificates, or the one certificate with this serial number.

    A signed list of all that is revoked is written to `crl.pem`; nodes that have a copy of it
    beside their trust bundle refuse these certificates within seconds.
    """
    from dataclasses import asdict

    from aegis_certs import RevocationReason
    from aegis_certs._store.files import read
    from aegis_certs.cli._output import present, run

    ca = load_ca(dir, passphrase_file)
    crl = ca.directory / "crl.pem"
    before = read(crl)
    found = run("Revoking …", lambda: ca.revoke(what, RevocationReason(reason)))
    facts = {
        "revoked": [asdict(one) for one in found] if json else [one.serial for one in found],
        "reason": found[0].reason,
        "date": found[0].date,
        "crl": crl,
    }
    see = unbroken(f"{prefix(ctx)} list{same_directory(ctx)}")
    hint = f"Every node needs this crl.pem beside its ca-cert.pem. See: {see}"
    title = f"Revoked {what}"
    if read(crl) == before:
        since = f"{found[0].date:%Y-%m-%d %H:%M:%S} UTC"
        title = f"{what} was already revoked on {since} (reason {found[0].reason})"
    present(json, title, facts, hint)


@click.group(
    "rotate-ca",
    cls=Group,
    short_help="Replace the CA by a new one, in three steps.",
    epilog=examples(
        "aegis-certs rotate-ca prepare",
        "aegis-certs rotate-ca activate",
        "aegis-certs renew",
        "aegis-certs rotate-ca retire",
    ),
)
def rotate_ca() -> None:
    """Replace the CA by a new one, in three steps and without a pause.

    First all nodes come to trust both CAs, then the new one issues, and when no certificate of
    the old one is left, it goes.
    """


@rotate_ca.command(epilog=examples("aegis-certs rotate-ca status --json"))
@directory
@passphrase_file
@json_flag
@click.pass_context
def status(
    ctx: click.Context,
    dir: str,  # noqa: A002 - named after its option
    passphrase_file: str | None,
    json: bool,
) -> None:
    """Show where the rotation stands."""
    from aegis_certs.cli._output import show_rotation

    ca = load_ca(dir, passphrase_file)
    state = ca.rotation()
    show_rotation(
        json, f"The rotation of the CA in {ca.directory}", state, prefix(ctx), same_directory(ctx)
    )


@rotate_ca.command(
    short_help="Make the new CA, and trust both.",
    epilog=examples(
        "aegis-certs rotate-ca prepare",
        "aegis-certs rotate-ca prepare --key-type p384 --days 730 --name 'Acme CA 2027'",
    ),
)
@directory
@option(
    "--key-type",
    "AEGIS_CA_KEY_TYPE",
    "The key of the new CA; that of the old one by default.",
    type=key_types,
)
@option(
    "--days",
    "AEGIS_CA_DAYS",
    "How long the new CA lives; as long as the old one by default.",
    type=float,
    metavar="DAYS",
)
@option(
    "--name",
    "AEGIS_CA_NAME",
    "Its common name; that of the old one with a generation by default.",
    metavar="NAME",
)
@option(
    "--root-dir",
    "AEGIS_CA_ROOT_DIR",
    "Make it an intermediate of the root there; needed where the old one is an intermediate.",
    metavar="DIR",
)
@passphrase_file
@json_flag
@click.pass_context
def prepare(
    ctx: click.Context,
    dir: str,  # noqa: A002 - named after its option
    key_type: str | None,
    days: float | None,
    name: str | None,
    root_dir: str | None,
    passphrase_file: str | None,
    json: bool,
) -> None:
    """Make the new CA, and put both into the trust bundle; the old one goes on issuing."""
    from aegis_certs.cli._output import run, show_rotation

    ca = load_ca(dir, passphrase_file)
    state = run(
        "Making the key of the new CA …",
        lambda: ca.prepare_rotation(
            key_type=KeyType(key_type) if key_type else None,
            days=days,
            name=name,
            root_directory=root_dir,
        ),
    )
    show_rotation(
        json,
        f"Prepared the rotation of the CA in {ca.directory}",
        state,
        prefix(ctx),
        same_directory(ctx),
    )


@rotate_ca.command(
    short_help="Let the new CA issue from now on.",
    epilog=examples("aegis-certs rotate-ca activate", "aegis-certs rotate-ca activate --confirm"),
)
@directory
@click.option(  # of no variable: what was confirmed once is not confirmed for good
    "--confirm",
    is_flag=True,
    help="All nodes have the new trust bundle, or may fail.",
)
@passphrase_file
@json_flag
@click.pass_context
def activate(
    ctx: click.Context,
    dir: str,  # noqa: A002 - named after its option
    confirm: bool,
    passphrase_file: str | None,
    json: bool,
    look: Look | None = None,
) -> None:
    """Let the new CA issue from now on; certificates of the old one stay valid.

    Which nodes trust the new CA cannot be seen from here. So this lists the nodes that have
    certificates, and wants --confirm.
    """
    from aegis_certs.cli._output import run, show_rotation

    ca = load_ca(dir, passphrase_file)
    distrusting = look(ca) if look else None
    state = run(
        "Activating …",
        lambda: ca.activate_rotation(distrusting=distrusting, confirm=confirm),
    )
    show_rotation(
        json, f"The new CA in {ca.directory} issues", state, prefix(ctx), same_directory(ctx)
    )


@rotate_ca.command(epilog=examples("aegis-certs rotate-ca retire"))
@directory
@passphrase_file
@json_flag
@click.pass_context
def retire(
    ctx: click.Context,
    dir: str,  # noqa: A002 - named after its option
    passphrase_file: str | None,
    json: bool,
    look: Look | None = None,
) -> None:
    """End the trust in the old CA, and forget its key.

    It is refused, with the list, while nodes have certificates of the old CA.
    """
    from aegis_certs.cli._output import run, show_rotation

    ca = load_ca(dir, passphrase_file)
    in_use = look(ca) if look else ()
    state = run("Retiring …", lambda: ca.retire_rotation(in_use=in_use))
    show_rotation(
        json, f"Retired the old CA in {ca.directory}", state, prefix(ctx), same_directory(ctx)
    )
