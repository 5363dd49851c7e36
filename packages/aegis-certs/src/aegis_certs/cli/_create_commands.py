"""The commands that create a CA, certificates and requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from aegis_certs._x509.names import DEFAULT_TRUST_DOMAIN, KeyType
from aegis_certs.cli import _options as options
from aegis_certs.cli._command_group import command_line, prefix
from aegis_certs.cli._input import (
    ask_new_passphrase,
    load_ca,
    output_path,
    read_ids,
    read_input,
    read_passphrase,
)
from aegis_certs.cli._wrapping import no_wrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis_certs import TLSConfig


@options.command(
    "aegis-certs init",
    "aegis-certs init --name 'Acme CA' --trust-domain acme.example",
    "aegis-certs init --key-type p256 --days 730 --passphrase",
    "aegis-certs init --intermediate --root-dir /media/usb/acme-root",
)
@options.directory
@options.key_type("AEGIS_CA_KEY_TYPE", "The type of the CA's key.", KeyType.RSA_4096)
@options.option(
    "--days", "AEGIS_CA_DAYS", "How long the CA is valid.", type=float, default=365, metavar="DAYS"
)
@options.option(
    "--name",
    "AEGIS_CA_NAME",
    'The CA\'s common name; by default "Aegis CA" and a random number.',
    metavar="NAME",
)
@options.option(
    "--trust-domain",
    "AEGIS_TRUST_DOMAIN",
    "The trust domain in the SPIFFE id of every certificate.",
    default=DEFAULT_TRUST_DOMAIN,
    metavar="DOMAIN",
)
@options.option(
    "--passphrase",
    "AEGIS_CA_ASK_PASSPHRASE",
    "Ask for a passphrase that encrypts the CA's key.",
    is_flag=True,
)
@options.passphrase_file
@options.option(
    "--intermediate",
    "AEGIS_CA_INTERMEDIATE",
    "Issue from an intermediate CA, and write its root to another directory, to keep offline.",
    is_flag=True,
)
@options.option(
    "--root-dir",
    "AEGIS_CA_ROOT_DIR",
    "The directory of the root, which is created if it is missing; by default DIR-root.",
    parameter="root_directory",
    metavar="DIR",
)
@options.json_flag
@click.pass_context
def init(
    ctx: click.Context,
    /,
    dir: str,  # noqa: A002 - named after its option
    passphrase: bool,
    passphrase_file: str | None,
    json: bool,
    **spec: Any,
) -> None:
    """Create a new CA in a directory.

    A missing directory is created, with access for you alone.
    """
    from aegis_certs import CertificateAuthority
    from aegis_certs._ca.create import default_root
    from aegis_certs.cli._output import present, run

    secret: str | bytes | None = read_passphrase(passphrase_file)
    if secret is None and passphrase:
        secret = ask_new_passphrase()
    ca = run(
        f"Making a {spec['key_type']} key for the CA …",
        lambda: CertificateAuthority.create(dir, passphrase=secret, **spec),
    )
    facts: dict[str, object] = {
        "name": ca.name,
        "trust_domain": ca.trust_domain,
        "key_type": spec["key_type"],
        "not_after": ca.certificate.not_valid_after_utc,
        "certificate": ca.directory / "ca-cert.pem",
        "key": ca.directory / "ca-key.pem",
    }
    advice = "Keep the key secret."
    if spec["intermediate"] or spec["root_directory"]:
        facts["root"] = spec["root_directory"] or default_root(ca.directory)
        advice = f"Move {facts['root']} away: only the next issuing CA needs it."
    hint = f"{advice} Next: {command_line(ctx, 'issue NODE-ID')}"
    present(json, f"Made a CA in {ca.directory}", facts, hint)


@options.command(
    "aegis-certs issue orders-1",
    "aegis-certs issue orders-1 --host orders.acme.example --host 10.0.0.7",
    "aegis-certs issue laptop --client-only --days 7 --key-type p256",
    "aegis-certs issue orders-1 orders-2 billing-1 --key-type p256",
    "aegis-certs issue --from-file nodes.txt --key-type p256",
)
@click.argument("node_ids", metavar="ID...", nargs=-1)
@options.directory
@options.option(
    "--from-file",
    "AEGIS_CERT_IDS_FILE",
    "A file with more node ids, one a line; empty lines and those with # are skipped.",
    metavar="FILE",
)
@options.hosts
@options.leaf_days
@options.leaf_key_type
@options.client_only
@options.server_only
@options.passphrase_file
@options.json_flag
@click.pass_context
def issue(
    ctx: click.Context,
    /,
    node_ids: Sequence[str],
    dir: str,  # noqa: A002 - named after its option
    from_file: str | None,
    passphrase_file: str | None,
    json: bool,
    **spec: Any,
) -> None:
    """Issue a certificate with a new key for each node ID.

    It replaces an earlier certificate of this node, which stays valid until its end.

    Give only hosts that belong to this node alone: each process that has the key can act as them.

    All ids are checked before the first certificate is issued. If one cannot be issued, those
    before it are, and the rest are not.
    """
    from aegis_certs import validate_node_id
    from aegis_certs.cli._output import note_cut_short, present, run
    from aegis_certs.cli._views import identity_facts, show_issued

    named = [*node_ids, *(read_ids(from_file) if from_file else ())]
    names = list(dict.fromkeys(map(validate_node_id, named)))
    if not names:
        raise click.UsageError("Missing argument: give at least one ID, or --from-file")
    if spec["hosts"] and len(names) > 1:
        raise click.UsageError("a --host belongs to one node; issue that certificate alone")
    ca = load_ca(dir, passphrase_file)
    hint = f"To see all: {command_line(ctx, 'list')}"
    if len(names) == 1 and not from_file:
        (name,) = names
        tls = run(f"Issuing a certificate for {name} …", lambda: ca.issue(name, **spec))
        note_cut_short(ca, {name: tls.not_after})
        facts, title = identity_facts(tls, ca.directory), f"Issued a certificate for {name}"
        hint = f"Its node needs these three files. {hint}"
        present(json, title, facts, hint, hidden=("id",))
        return
    issued: list[TLSConfig] = []
    try:
        for name in names:
            message = f"Issuing certificate {len(issued) + 1} of {len(names)} …"
            issued.append(run(message, partial(ca.issue, name, **spec)))
    finally:  # what was issued is shown, also if the next one failed
        show_issued(json, ca.directory, issued, hint)
    note_cut_short(ca, {tls.node_id: tls.not_after for tls in issued})


@options.command(
    "aegis-certs csr orders-1",
    "aegis-certs csr orders-2 --host orders.acme.example --key-type p256",
)
@click.argument("node_id", metavar="ID")
@options.directory
@options.hosts
@options.leaf_key_type
@options.client_only
@options.server_only
@options.json_flag
@click.pass_context
def csr(
    ctx: click.Context,
    /,
    node_id: str,
    dir: str,  # noqa: A002 - named after its option
    json: bool,
    **spec: Any,
) -> None:
    """Make a key and a request for its certificate.

    The key stays here, and a CA elsewhere signs the request. The node keeps its present identity
    until `install` replaces it.
    """
    from aegis_certs import request_certificate
    from aegis_certs.cli._output import present, run

    path = run(
        f"Making a {spec['key_type']} key for {node_id} …",
        lambda: request_certificate(node_id, dir, **spec),
    )
    asked = {name: spec[name] for name in ("hosts", "key_type")}
    facts = {"id": node_id, **asked, "request": path}
    there = no_wrap(f"{prefix(ctx)} sign {path.name}")
    here = command_line(ctx, f"install {node_id}_signed.pem")
    hint = f"Copy it to the CA. There: {there}\nThen here: {here}"
    present(json, f"Made a request for {node_id}", facts, hint, hidden=("id",))


@options.command(
    "aegis-certs sign certs/orders-1_csr.pem",
    "aegis-certs sign certs/orders-2_csr.pem --host orders.acme.example",
)
@click.argument("request", metavar="FILE")
@options.directory
@options.option(
    "--id", "AEGIS_CERT_ID", "Refuse a request for another node.", parameter="node_id", metavar="ID"
)
@options.option(
    "--host",
    "AEGIS_CERT_HOSTS",
    "A DNS name or IP address to grant, requested or not; may be given more than once.",
    parameter="hosts",
    multiple=True,
    metavar="HOST",
)
@options.leaf_days
@options.client_only
@options.server_only
@options.option(
    "--out", "AEGIS_CERT_OUT", "The file to write; by default ID_signed.pem.", metavar="FILE"
)
@options.force
@options.passphrase_file
@options.json_flag
@click.pass_context
def sign(
    ctx: click.Context,
    /,
    request: str,
    dir: str,  # noqa: A002 - named after its option
    out: str | None,
    force: bool,
    passphrase_file: str | None,
    json: bool,
    **spec: Any,
) -> None:
    """Sign the request in FILE.

    The request names the node and its key; you grant hosts and days here. What it requests
    beyond that is dropped, and listed.
    """
    from aegis_certs._ca.request import Request
    from aegis_certs._store.files import PUBLIC, write
    from aegis_certs.cli._output import note_cut_short, present, run

    data = read_input(request, "request")
    path = output_path(out or f"{Request.parse(data, request).node_id}_signed.pem", force)
    ca = load_ca(dir, passphrase_file)
    signed = run("Signing …", lambda: ca.sign(data, **spec))
    write(path, signed.pem, PUBLIC)
    note_cut_short(ca, {signed.node_id: signed.certificate.not_valid_after_utc})
    facts = {
        "id": signed.node_id,
        "hosts": spec["hosts"],
        "dropped": list(signed.dropped),
        "serial": f"{signed.certificate.serial_number:x}",
        "not_after": signed.certificate.not_valid_after_utc,
        "signed": path,
        "trust_bundle": ca.directory / "ca-cert.pem",
    }
    there = no_wrap(f"{prefix(ctx)} install {path.name}")
    hint = f"Copy both files back. There: {there}, with the --dir that the request was made with"
    present(json, f"Signed a certificate for {signed.node_id}", facts, hint, hidden=("id",))


@options.command(
    "aegis-certs install orders-1_signed.pem",
    "aegis-certs install orders-2_signed.pem --dir ./certs",
)
@click.argument("signed", metavar="FILE")
@options.directory
@options.json_flag
def install(signed: str, dir: str, json: bool) -> None:  # noqa: A002 - named after its option
    """Install a signed certificate with the key that csr made.

    The directory must have the trust bundle `ca-cert.pem` of the CA.
    """
    from pathlib import Path

    from aegis_certs import install_certificate
    from aegis_certs.cli._output import present
    from aegis_certs.cli._views import identity_facts

    tls = install_certificate(read_input(signed, "signed certificate"), dir)
    facts = identity_facts(tls, Path(dir))
    hint = "Its node loads it while it runs, or at its next start."
    present(json, f"Installed the certificate of {tls.node_id}", facts, hint, hidden=("id",))
