"""The certificate commands. They read options, call the library and hand the result to output.

Whatever takes long to import is imported inside a command, so that `--help` is fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ._command_group import CommandGroup
from ._naming import DEFAULT_TRUST_DOMAIN, KeyType

F = TypeVar("F", bound=Callable[..., Any])


def _examples(*lines: str) -> str:
    """An epilog that click does not wrap."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _option(name: str, envvar: str, text: str, **attributes: Any) -> Callable[[F], F]:
    return click.option(
        name, envvar=envvar, show_envvar=True, show_default=True, help=text, **attributes
    )


_directory = _option(
    "--dir",
    "AEGIS_CERT_DIR",
    "The certificate directory.",
    default="./certs",
    metavar="DIR",
)
_json = _option("--json", "AEGIS_JSON", "Print JSON for machines.", is_flag=True)
_key_types = click.Choice([str(key_type) for key_type in KeyType])


@click.group(
    cls=CommandGroup,
    epilog=_examples("aegis-certs init", "aegis-certs issue orders-1", "aegis-certs list")
    + "\n\nExit codes: 0 ok, 1 anything else, 2 usage, 3 expiring, 4 expired, 5 untrusted, "
    "6 revoked, 7 not found, 130 interrupted.",
)
@click.version_option(package_name="aegis-certs", message="%(package)s %(version)s")
def certs() -> None:
    """A CA for your team, and the certificates of your nodes."""


@certs.command(
    epilog=_examples(
        "aegis-certs init",
        "aegis-certs init --dir /etc/acme/certs --name 'Acme CA' --trust-domain acme.example",
        "aegis-certs init --key-type p256 --days 730",
    )
)
@_directory
@_option(
    "--key-type",
    "AEGIS_CA_KEY_TYPE",
    "The CA's key.",
    type=_key_types,
    default=KeyType.RSA_4096.value,
)
@_option(
    "--days", "AEGIS_CA_DAYS", "How long the CA lives.", type=float, default=365, metavar="DAYS"
)
@_option(
    "--name",
    "AEGIS_CA_NAME",
    'The CA\'s common name; "Aegis CA" and a random number by default.',
    metavar="NAME",
)
@_option(
    "--trust-domain",
    "AEGIS_TRUST_DOMAIN",
    "Goes into the SPIFFE id of every certificate.",
    default=DEFAULT_TRUST_DOMAIN,
    metavar="DOMAIN",
)
@_json
@click.pass_context
def init(
    ctx: click.Context,
    dir: str,  # noqa: A002 - named after its option
    key_type: str,
    days: float,
    name: str | None,
    trust_domain: str,
    json: bool,
) -> None:
    """Make a new CA in a directory.

    The directory is made where it is missing, and is private to you.
    """
    from . import CertificateAuthority
    from ._output import run, show_facts, show_json

    ca = run(
        f"Making a {key_type} key for the CA …",
        lambda: CertificateAuthority.create(
            dir, key_type=KeyType(key_type), days=days, name=name, trust_domain=trust_domain
        ),
    )
    facts = {
        "name": ca.name,
        "trust_domain": ca.trust_domain,
        "key_type": key_type,
        "not_after": ca.certificate.not_valid_after_utc,
        "certificate": ca.directory / "ca-cert.pem",
        "key": ca.directory / "ca-key.pem",
    }
    if json:
        show_json(facts)
    else:
        show_facts(
            f"Made a CA in {ca.directory}",
            {fact.replace("_", " "): value for fact, value in facts.items()},
            f"Keep the key secret. Next: {_prefix(ctx)} issue NODE-ID",
        )


@certs.command(
    epilog=_examples(
        "aegis-certs issue orders-1",
        "aegis-certs issue orders-1 --host orders.acme.example --host 10.0.0.7",
        "aegis-certs issue laptop --client-only --days 7 --key-type p256",
    )
)
@click.argument("node_id", metavar="ID")
@_directory
@_option(
    "--host",
    "AEGIS_CERT_HOSTS",
    "A further DNS name or IP address; may be given more than once.",
    multiple=True,
    metavar="HOST",
)
@_option("--days", "AEGIS_CERT_DAYS", "How long it lives.", type=float, default=90, metavar="DAYS")
@_option(
    "--key-type", "AEGIS_CERT_KEY_TYPE", "Its key.", type=_key_types, default=KeyType.RSA_2048.value
)
@_option("--client-only", "AEGIS_CERT_CLIENT_ONLY", "It can call, not serve.", is_flag=True)
@_option("--server-only", "AEGIS_CERT_SERVER_ONLY", "It can serve, not call.", is_flag=True)
@_json
@click.pass_context
def issue(
    ctx: click.Context,
    node_id: str,
    dir: str,  # noqa: A002 - named after its option
    host: tuple[str, ...],
    days: float,
    key_type: str,
    client_only: bool,
    server_only: bool,
    json: bool,
) -> None:
    """Issue a certificate, with a new key, for the node ID.

    An earlier certificate of this node is replaced; it stays valid until its end.

    Give a host only where nobody else answers to it: whoever has the key passes for it.
    """
    from . import CertificateAuthority
    from ._output import run, show_facts, show_json

    tls, directory = run(
        f"Issuing a certificate for {node_id} …",
        lambda: (
            (ca := CertificateAuthority.load(dir)).issue(
                node_id,
                hosts=host,
                days=days,
                key_type=KeyType(key_type),
                client_only=client_only,
                server_only=server_only,
            ),
            ca.directory,
        ),
    )
    facts = {
        "id": tls.node_id,
        "spiffe_id": tls.identity.spiffe_id,
        "hosts": list(host),
        "key_type": key_type,
        "serial": f"{tls.certificate.serial_number:x}",
        "fingerprint": tls.fingerprint.hex(),
        "not_after": tls.not_after,
        "certificate": directory / f"{node_id}-cert.pem",
        "key": directory / f"{node_id}-key.pem",
        "trust_bundle": directory / "ca-cert.pem",
    }
    if json:
        show_json(facts)
        return
    shown = {fact.replace("_", " "): value for fact, value in facts.items() if fact != "id"}
    shown["hosts"] = ", ".join(host) or "none"
    show_facts(
        f"Issued a certificate for {node_id}",
        shown,
        f"Its node needs these three files. See all: {_prefix(ctx)} list",
    )


@certs.command("list", epilog=_examples("aegis-certs list", "aegis-certs list --json"))
@_directory
@_json
def list_(dir: str, json: bool) -> None:  # noqa: A002 - named after its option
    """List the certificates of a directory.

    A certificate is `expiring` once less than a third of its life is left.
    """
    from dataclasses import asdict

    from . import list_certificates
    from ._output import show_certificates, show_json

    entries = list_certificates(dir)
    if json:
        show_json({"directory": dir, "certificates": [asdict(entry) for entry in entries]})
    elif entries:
        show_certificates(entries)
    else:
        click.echo(f"There is no certificate in {dir}.")


def _prefix(ctx: click.Context) -> str:
    """How this group was called: `aegis-certs`, or `aegis certs`."""
    return ctx.parent.command_path if ctx.parent else "aegis-certs"
