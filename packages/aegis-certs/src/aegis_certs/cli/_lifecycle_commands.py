"""The commands that renew and revoke certificates and rotate a CA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from aegis_certs._time import format_utc
from aegis_certs.cli import _options as options
from aegis_certs.cli._command_group import (
    CommandGroup,
    certs_exit_codes,
    command_line,
    exit_code_of,
    fail,
    note,
)
from aegis_certs.cli._input import load_ca

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority, Renewal

FindBlockers = Callable[["CertificateAuthority"], Sequence[str]]
"""Finds the nodes that block a step of the rotation; for a command that can see the mesh."""

RenewVia = Callable[[str, str | None, str], Sequence["Renewal"]]
"""Renews one identity of a directory, or all that are due, through a node of a mesh."""

# The reasons of RFC 5280 that cannot be undone, as `RevocationReason` has them.
_REASONS = (
    "unspecified",
    "key-compromise",
    "ca-compromise",
    "affiliation-changed",
    "superseded",
    "cessation-of-operation",
    "privilege-withdrawn",
)
_WATCH_SECONDS = 60.0  # how long after a certificate is due it may be renewed


@options.command(
    "aegis-certs renew",
    "aegis-certs renew orders-1",
    "aegis-certs renew --watch",
    "aegis certs renew orders-1 --via 10.0.0.5:50051",
)
@click.argument("node_id", metavar="[ID]", required=False)
@options.directory
@options.option("--watch", "AEGIS_WATCH", "Renew what becomes due until Ctrl-C.", is_flag=True)
@options.option(
    "--via",
    "AEGIS_RENEW_VIA",
    "Ask the issuers of a mesh, found through this node of it, where the CA's key is not here. "
    "`aegis` can do this, and `aegis-certs` alone cannot.",
    metavar="[ID@]HOST:PORT",
)
@options.passphrase_file
@options.json_flag
def renew(
    node_id: str | None,
    dir: str,  # noqa: A002 - named after its option
    watch: bool,
    via: str | None,
    passphrase_file: str | None,
    json: bool,
    renew_via: RenewVia | None = None,
) -> None:
    """Renew one certificate, or all that are due.

    Each gets a new key. A certificate is due when less than a third of its life is left, or when
    its CA was replaced. The revocation list is signed again too when half of its life is left. With
    --json and --watch, every round that has something new prints one document.

    The exit code is 0 only if every certificate here is in order afterwards. It is 3 if one that is
    due ends with its CA, 4 if the CA has expired, and otherwise that of the first failure, such as
    a missing or damaged key.
    """
    from aegis_certs import CAEndsError, Renewal
    from aegis_certs.cli._output import run
    from aegis_certs.cli._views import show_renewals

    if watch and node_id is not None:
        raise click.UsageError("--watch renews all that are due; leave out the ID")
    renewals: Sequence[Renewal]
    if via is not None:
        if renew_via is None:
            raise click.UsageError(
                "--via needs gRPC, which aegis-certs does not have; install aegis-cli, and run "
                "`aegis certs renew --via`"
            )
        if watch:
            raise click.UsageError("--via renews once; a running node keeps renewing by itself")
        renewals = run("Asking an issuer …", lambda: renew_via(dir, node_id, via))
        show_renewals(json, dir, renewals)
    else:
        ca = load_ca(dir, passphrase_file)
        if watch:
            _keep_renewing(ca, json)
        renewals = run(
            "Renewing …",
            lambda: (Renewal(node_id, ca.renew(node_id)),) if node_id else ca.renew_due(),
        )
        _show_renewals(json, ca, renewals)
    failed = [renewal.error for renewal in renewals if renewal.error is not None]
    if failed:
        # A certificate that ends with its CA still works, so another failure is worse.
        worst = min(failed, key=lambda error: isinstance(error, CAEndsError))
        count = f"{len(failed)} of {len(renewals)} certificates"
        code = exit_code_of(worst, certs_exit_codes())
        fail(f"{count} could not be renewed; the reasons are above", code or 1)


def _show_renewals(json: bool, ca: CertificateAuthority, renewals: Sequence[Renewal]) -> None:
    from aegis_certs.cli._output import note_cut_short
    from aegis_certs.cli._views import show_renewals

    note_cut_short(ca, {one.node_id: one.tls.not_after for one in renewals if one.tls})
    show_renewals(json, ca.directory, renewals)


def _keep_renewing(ca: CertificateAuthority, json: bool) -> NoReturn:
    """Renews until Ctrl-C; after a failure it prints the error, and tries again."""
    import time

    from aegis_certs import CertsError
    from aegis_certs.cli._output import run

    note(f"Renewing what becomes due in {ca.directory}, until Ctrl-C.")
    known: set[str] = set()  # the errors of the last round
    while True:
        try:
            renewals = run("Renewing …", ca.renew_due)
        except CertsError as error:
            if str(error) not in known:
                note(f"Error: {error}")
            known = {str(error)}
        else:
            if new := [one for one in renewals if str(one.error) not in known]:
                _show_renewals(json, ca, new)
            known = {str(one.error) for one in renewals if one.error is not None}
        time.sleep(_WATCH_SECONDS)


@options.command(
    "aegis-certs revoke orders-1 --reason key-compromise",
    "aegis-certs revoke 3d501a7c58954d5437712c818eea1a70490c1d9b",
)
@click.argument("what", metavar="ID|SERIAL")
@options.directory
@options.option(
    "--reason",
    "AEGIS_REVOKE_REASON",
    "The reason.",
    type=click.Choice(_REASONS),
    default="unspecified",
)
@options.passphrase_file
@options.json_flag
@click.pass_context
def revoke(
    ctx: click.Context,
    what: str,
    dir: str,  # noqa: A002 - named after its option
    reason: str,
    passphrase_file: str | None,
    json: bool,
) -> None:
    """Revoke a node, or one certificate by its serial number.

    For a node, all its certificates are revoked. The signed list of all revoked certificates is
    written to `crl.pem`. Nodes that have a copy of it beside their trust bundle refuse these
    certificates within seconds.
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
    forget = command_line(ctx, "remove ID")
    hint = f"Every node needs this crl.pem beside its ca-cert.pem. To forget the node: {forget}"
    title = f"Revoked {what}"
    if read(crl) == before:
        since = format_utc(found[0].date)
        title = f"{what} was already revoked on {since} (reason {found[0].reason})"
    present(json, title, facts, hint)


@options.command("aegis-certs remove orders-1")
@click.argument("node_id", metavar="ID")
@options.directory
@options.json_flag
def remove(node_id: str, dir: str, json: bool) -> None:  # noqa: A002 - named after its option
    """Forget a node whose certificates are all over.

    They are over if they are revoked or expired, or if their CA was retired. The files of the node
    are deleted, and `list` and `doctor` show it no more. Its revocations stay in `crl.pem` until
    the certificates expire, and in the audit log.
    """
    from aegis_certs._ca.remove import remove_node
    from aegis_certs.cli._output import present, run

    removed = run(f"Removing {node_id} …", lambda: remove_node(dir, node_id))
    hint = "The audit log still has its history."
    present(json, f"Removed {node_id}", {"id": node_id, "removed": removed}, hint, hidden=("id",))


@click.group(
    "rotate-ca",
    cls=CommandGroup,
    epilog=options.examples(
        "aegis-certs rotate-ca prepare",
        "aegis-certs rotate-ca activate",
        "aegis-certs renew",
        "aegis-certs rotate-ca retire",
    ),
)
def rotate_ca() -> None:
    """Replace the CA by a new one, in three steps.

    No call is interrupted: first all nodes trust both CAs, then the new CA issues, and when no
    certificate of the old CA is left, the old CA is retired.
    """


@rotate_ca.command(epilog=options.examples("aegis-certs rotate-ca status --json"))
@options.directory
@options.json_flag
@click.pass_context
def status(
    ctx: click.Context,
    dir: str,  # noqa: A002 - named after its option
    json: bool,
) -> None:
    """Show the phase of the rotation.

    It needs no right to write and no key of the CA. What this user may not read is named.
    """
    from aegis_certs._ca.rotation.steps import read_state
    from aegis_certs._store.directory import Store
    from aegis_certs._time import utc_or_now
    from aegis_certs.cli._views import show_rotation

    store = Store(dir)
    state = read_state(store, utc_or_now(None))
    show_rotation(ctx, json, f"The rotation of the CA in {store.directory}", state, store)


@rotate_ca.command(
    epilog=options.examples(
        "aegis-certs rotate-ca prepare",
        "aegis-certs rotate-ca prepare --key-type p384 --name 'Acme CA 2027'",
    )
)
@options.directory
@options.key_type(
    "AEGIS_CA_KEY_TYPE", "The type of the new CA's key; by default that of the old CA."
)
@options.option(
    "--days",
    "AEGIS_CA_DAYS",
    "How long the new CA is valid; by default as long as the old CA.",
    type=float,
    metavar="DAYS",
)
@options.option(
    "--name",
    "AEGIS_CA_NAME",
    "Its common name; by default that of the old CA with a generation.",
    metavar="NAME",
)
@options.option(
    "--root-dir",
    "AEGIS_CA_ROOT_DIR",
    "The directory of the root that signs it; needed if the old CA is an intermediate.",
    parameter="root_directory",
    metavar="DIR",
)
@options.passphrase_file
@options.json_flag
@click.pass_context
def prepare(
    ctx: click.Context,
    /,
    dir: str,  # noqa: A002 - named after its option
    passphrase_file: str | None,
    json: bool,
    **spec: Any,
) -> None:
    """Create the new CA, and trust both.

    The trust bundle gets both CAs; the old one still issues.
    """
    from aegis_certs._store.directory import Store
    from aegis_certs.cli._output import run
    from aegis_certs.cli._views import show_rotation

    ca = load_ca(dir, passphrase_file)
    state = run("Making the key of the new CA …", lambda: ca.prepare_rotation(**spec))
    show_rotation(
        ctx, json, f"Prepared the rotation of the CA in {ca.directory}", state, Store(ca.directory)
    )


@rotate_ca.command(
    epilog=options.examples(
        "aegis-certs rotate-ca activate", "aegis-certs rotate-ca activate --confirm"
    )
)
@options.directory
@click.option(  # no variable: what is confirmed once is not confirmed always
    "--confirm", is_flag=True, help="All nodes have the new trust bundle, or are allowed to fail."
)
@options.passphrase_file
@options.json_flag
@click.pass_context
def activate(
    ctx: click.Context,
    dir: str,  # noqa: A002 - named after its option
    confirm: bool,
    passphrase_file: str | None,
    json: bool,
    find_blockers: FindBlockers | None = None,
) -> None:
    """Let the new CA issue from now on.

    Certificates of the old CA stay valid. This command cannot see which nodes trust the new CA. So
    it lists the nodes that have certificates, and requires --confirm.
    """
    from aegis_certs._store.directory import Store
    from aegis_certs.cli._output import run
    from aegis_certs.cli._views import show_rotation

    ca = load_ca(dir, passphrase_file)
    distrusting = find_blockers(ca) if find_blockers else None
    state = run(
        "Activating …", lambda: ca.activate_rotation(distrusting=distrusting, confirm=confirm)
    )
    show_rotation(ctx, json, f"The new CA in {ca.directory} issues", state, Store(ca.directory))


@rotate_ca.command(epilog=options.examples("aegis-certs rotate-ca retire"))
@options.directory
@options.passphrase_file
@options.json_flag
@click.pass_context
def retire(
    ctx: click.Context,
    dir: str,  # noqa: A002 - named after its option
    passphrase_file: str | None,
    json: bool,
    find_blockers: FindBlockers | None = None,
) -> None:
    """End the trust in the old CA, and delete its key.

    It is refused, with a list, while nodes have certificates of the old CA.
    """
    from aegis_certs._store.directory import Store
    from aegis_certs.cli._output import run
    from aegis_certs.cli._views import show_rotation

    ca = load_ca(dir, passphrase_file)
    in_use = find_blockers(ca) if find_blockers else ()
    state = run("Retiring …", lambda: ca.retire_rotation(in_use=in_use))
    show_rotation(ctx, json, f"Retired the old CA in {ca.directory}", state, Store(ca.directory))
