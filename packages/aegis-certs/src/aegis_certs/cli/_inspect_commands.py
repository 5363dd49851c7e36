"""The commands that look: lists, single certificates, checks, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aegis_certs.cli._options import (
    EXPIRING,
    Command,
    directory,
    examples,
    force,
    json_flag,
    option,
    place_for,
)

if TYPE_CHECKING:
    from aegis_certs._x509.trust import Usage


@click.command(
    "list",
    cls=Command,
    short_help="List all certificates that were issued, or lie here.",
    epilog=examples("aegis-certs list", "aegis-certs list --json"),
)
@directory
@json_flag
def list_(dir: str, json: bool) -> None:  # noqa: A002 - named after its option
    """List all certificates that were issued, or lie in the directory.

    A certificate is `expiring` once less than a third of its life is left, and `replaced` where
    its node has a newer one but it has not ended.
    """
    from dataclasses import asdict

    from aegis_certs import list_certificates
    from aegis_certs.cli._output import show_certificates, show_json

    entries = list_certificates(dir)
    if json:
        show_json({"directory": dir, "certificates": [asdict(entry) for entry in entries]})
    elif entries:
        show_certificates(entries)
    else:
        click.echo(f"There is no certificate in {dir}.")


@click.command(
    cls=Command,
    short_help="Show a file, a node's certificate, or that of a live server.",
    epilog=examples(
        "aegis-certs show orders-1",
        "aegis-certs show certs/crl.pem",
        "aegis-certs show 127.0.0.1:50051",
        "aegis-certs show 127.0.0.1:50051 --identity laptop",
    ),
)
@click.argument("what", metavar="FILE|ID|HOST:PORT")
@directory
@option(
    "--identity",
    "AEGIS_IDENTITY",
    "The certificate of this node is shown to a live server.",
    metavar="ID",
)
@json_flag
def show(
    what: str,
    dir: str,  # noqa: A002 - named after its option
    identity: str | None,
    json: bool,
) -> None:
    """Show what is in a file, a node's certificate, or the certificate of a live server.

    A server is asked without a certificate, or with that of --identity; whether it goes on
    talking after the handshake is told too. It is not trusted, only looked at.
    """
    from aegis_certs._inspect.show import inspect
    from aegis_certs.cli._output import show_things

    show_things(json, inspect(what, dir, identity))


@click.command(
    cls=Command,
    short_help="Check a certificate, and say what fails.",
    epilog=examples(
        "aegis-certs verify orders-1",
        "aegis-certs verify certs/orders-2-cert.pem --usage server --name orders.acme.example",
    ),
)
@click.argument("what", metavar="FILE|ID")
@directory
@option(
    "--usage",
    "AEGIS_VERIFY_USAGE",
    "What it is to be used for.",
    type=click.Choice(["server", "client"]),
)
@option("--name", "AEGIS_VERIFY_NAME", "A name that it must be valid for.", metavar="NAME")
@json_flag
def verify(
    what: str,
    dir: str,  # noqa: A002 - named after its option
    usage: Usage | None,
    name: str | None,
    json: bool,
) -> None:
    """Check a certificate against the trust bundle of the directory, and say what fails.

    Checked are dates, chain, usage, name, key and revocation. The exit code is that of the first
    check that fails.
    """
    from aegis_certs._inspect.verify import verify_target
    from aegis_certs.cli._command_group import certs_exit_codes, exit_code_of
    from aegis_certs.cli._output import show_checks

    checks, expiring = verify_target(what, dir, usage, name)
    show_checks(json, what, checks)
    failed = next((check.error for check in checks if check.error is not None), None)
    if failed is not None:
        raise click.exceptions.Exit(exit_code_of(failed, certs_exit_codes()) or 1)
    if expiring:
        raise click.exceptions.Exit(EXPIRING)


@click.command(
    cls=Command,
    short_help="Write the trust bundle, or an identity, as one PEM text.",
    epilog=examples(
        "aegis-certs export > ca.pem",
        "aegis-certs export orders-1 --out orders-1.pem",
        "aegis-certs export orders-1 --env --out orders-1.env",
    ),
)
@click.argument("node_id", metavar="[ID]", required=False)
@directory
@option("--env", "AEGIS_EXPORT_ENV", "Write variables for an environment file.", is_flag=True)
@option(
    "--out", "AEGIS_EXPORT_OUT", "A file, private to you, instead of the output.", metavar="FILE"
)
@force
@json_flag
def export(
    node_id: str | None,
    dir: str,  # noqa: A002 - named after its option
    env: bool,
    out: str | None,
    force: bool,
    json: bool,
) -> None:
    """Write the trust bundle, or the identity of the node ID, as one PEM text.

    An identity is key, chain and trust bundle: keep it secret. With --env they are the variables
    AEGIS_TLS_KEY, AEGIS_TLS_CERT and AEGIS_TLS_CA, each on one line.
    """
    from aegis_certs._inspect.export import environment_file, export_parts
    from aegis_certs._store.files import PRIVATE, write
    from aegis_certs.cli._output import show_json

    place = None if out is None else place_for(out, force)
    parts = export_parts(dir, node_id)
    if json:
        text = None
        facts = {name: data.decode() for name, data in parts.items()}
    else:
        text = environment_file(parts) if env else b"".join(parts.values()).decode()
        facts = {}
    if place is not None:
        import json as encoder

        content = encoder.dumps(facts, indent=2) + "\n" if text is None else text
        write(place, content.encode(), PRIVATE)
    elif text is None:
        show_json(facts)
    else:
        click.echo(text, nl=False)


@click.command(
    cls=Command,
    short_help="Find what is wrong with a directory, or soon will be.",
    epilog=examples("aegis-certs doctor", "aegis-certs doctor --json"),
)
@directory
@json_flag
def doctor(dir: str, json: bool) -> None:  # noqa: A002 - named after its option
    """Examine a directory: permissions, clock, CA, certificates, keys, and what expires next.

    The exit code is 0 where there is no problem, and otherwise that of the first one; 3 where
    something is expiring.
    """
    from aegis_certs._inspect.doctor import examine
    from aegis_certs.cli._command_group import certs_exit_codes, exit_code_of
    from aegis_certs.cli._output import show_findings

    findings = examine(dir)
    show_findings(json, dir, findings)
    errors = [finding.error for finding in findings if finding.error is not None]
    if errors:
        raise click.exceptions.Exit(exit_code_of(errors[0], certs_exit_codes()) or 1)
    if any(finding.topic == "expiry" and finding.level == "warning" for finding in findings):
        raise click.exceptions.Exit(EXPIRING)
