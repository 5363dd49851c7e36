"""The commands that list, show, verify and examine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aegis_certs.cli import _options as options
from aegis_certs.cli._command_group import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis_certs import CertsError
    from aegis_certs._inspect.doctor import Finding
    from aegis_certs._x509.trust import Usage


@options.command("aegis-certs list", "aegis-certs list --json", name="list")
@options.directory
@options.option(
    "--all",
    "AEGIS_LIST_ALL",
    "List certificates with a life of an hour or less too; they serve commands.",
    parameter="every",
    is_flag=True,
)
@options.json_flag
def list_(dir: str, every: bool, json: bool) -> None:  # noqa: A002 - named after its option
    """List the certificates that were issued or are here.

    A certificate is `expiring` when less than a third of its life is left, and `replaced` when
    its node has a newer one and it is still valid. If you may not read the inventory, only the
    certificates in the directory are listed, and a note says so.
    """
    from dataclasses import asdict

    from aegis_certs._inspect.listing import list_directory
    from aegis_certs.cli._output import show_json
    from aegis_certs.cli._views import show_certificates

    listing = list_directory(dir)
    entries = listing.certificates if every else listing.long_lived
    if json:
        certificates = [asdict(entry) for entry in entries]
        show_json({"directory": dir, "certificates": certificates, "not_read": listing.not_read})
        return
    for reason in listing.not_read:
        note(f"Note: {reason}")
    if entries:
        show_certificates(entries)
    else:
        click.echo(f"There is no certificate in {dir}.")


@options.command(
    "aegis-certs show orders-1",
    "aegis-certs show certs/crl.pem",
    "aegis-certs show 127.0.0.1:50051",
    "aegis-certs show 127.0.0.1:50051 --identity laptop",
)
@click.argument("what", metavar="FILE|ID|HOST:PORT")
@options.directory
@options.option(
    "--identity",
    "AEGIS_IDENTITY",
    "Present the certificate of this node to a live server.",
    metavar="ID",
)
@options.json_flag
def show(
    what: str,
    dir: str,  # noqa: A002 - named after its option
    identity: str | None,
    json: bool,
) -> None:
    """Show a file, a node's certificate, or that of a live server.

    The handshake with a server presents no certificate, or that of --identity; the output also
    says whether the server accepted it. The handshake itself trusts any server.
    """
    from aegis_certs._inspect.show import inspect
    from aegis_certs.cli._views import show_facts

    show_facts(json, inspect(what, dir, identity))


@options.command(
    "aegis-certs verify orders-1",
    "aegis-certs verify orders-2 --usage server --name orders.acme.example",
    "aegis-certs verify certs/orders-2-cert.pem",
)
@click.argument("what", metavar="FILE|ID")
@options.directory
@options.option(
    "--usage",
    "AEGIS_VERIFY_USAGE",
    "The usage that it must be made for.",
    type=click.Choice(["server", "client"]),
)
@options.option("--name", "AEGIS_VERIFY_NAME", "A name that it must be valid for.", metavar="NAME")
@options.json_flag
def verify(
    what: str,
    dir: str,  # noqa: A002 - named after its option
    usage: Usage | None,
    name: str | None,
    json: bool,
) -> None:
    """Check a certificate against the trust bundle of the directory.

    The checks are dates, chain, usage, name, key and revocation. The exit code is that of the
    first check that fails.
    """
    from aegis_certs._inspect.verify import verify_target
    from aegis_certs.cli._views import show_checks

    checks, expiring = verify_target(what, dir, usage, name)
    show_checks(json, what, checks)
    _exit_with([check.error for check in checks], expiring=expiring)


@options.command("aegis-certs doctor", "aegis-certs doctor --json")
@options.directory
@options.json_flag
def doctor(dir: str, json: bool) -> None:  # noqa: A002 - named after its option
    """Find the present and coming problems of a directory.

    It examines permissions, clock, CA, certificates, keys, and what expires next. The exit code is
    that of the first problem; without a problem 3 if a certificate is expiring, and otherwise 0.
    What you may not read is `skipped`, and is no problem.
    """
    from aegis_certs._inspect.doctor import examine
    from aegis_certs.cli._views import show_findings

    findings = examine(dir)
    show_findings(json, dir, findings)
    expiring = any(found.topic == "expiry" and found.level == "warning" for found in findings)
    _exit_with([found.error for found in findings], expiring=expiring)


def examine(directory: str) -> tuple[Finding, ...]:
    """What `doctor` finds in a directory.

    Raises:
        NotFoundError: There is no such directory.
    """
    from aegis_certs._inspect.doctor import examine as examine_directory

    return examine_directory(directory)


def _exit_with(errors: Sequence[CertsError | None], *, expiring: bool) -> None:
    """Ends a command with the exit code of the first error, if there is one, or of `expiring`."""
    from aegis_certs.cli._command_group import certs_exit_codes, exit_code_of

    for error in filter(None, errors):
        raise click.exceptions.Exit(exit_code_of(error, certs_exit_codes()) or 1)
    if expiring:
        raise click.exceptions.Exit(options.EXPIRING)
