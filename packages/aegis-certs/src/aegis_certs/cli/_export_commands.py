"""The commands that give identities and roots to other programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from aegis_certs.cli import _options as options
from aegis_certs.cli._command_group import command_line, note
from aegis_certs.cli._input import output_path, read_passphrase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis_certs import TrustStore

_PASSPHRASE = "AEGIS_PKCS12_PASSPHRASE"  # noqa: S105 - the name of a variable
_FORMATS = {
    "env": ("AEGIS_EXPORT_ENV", "Write variables for an environment file."),
    "spiffe_bundle": ("AEGIS_EXPORT_SPIFFE_BUNDLE", "Write the roots as a SPIFFE bundle."),
    "kubernetes_secret": (
        "AEGIS_EXPORT_KUBERNETES_SECRET",
        "Write the manifest of a Kubernetes secret.",
    ),
    "pkcs12": ("AEGIS_EXPORT_PKCS12", "Write an encrypted PKCS#12 file."),
}


def _formats(command: Callable[..., None]) -> Callable[..., None]:
    for name, (variable, text) in reversed(_FORMATS.items()):
        command = options.option(f"--{name.replace('_', '-')}", variable, text, is_flag=True)(
            command
        )
    return command


@options.command(
    "aegis-certs export > ca.pem",
    "aegis-certs export orders-1 --env --out orders-1.env",
    "aegis-certs export --spiffe-bundle > bundle.json",
    "aegis-certs export orders-1 --kubernetes-secret | kubectl apply -f -",
    "aegis-certs export orders-1 --pkcs12 --out orders-1.p12",
)
@click.argument("node_id", metavar="[ID]", required=False)
@options.directory
@_formats
@options.option(
    "--name",
    "AEGIS_EXPORT_NAME",
    "The name of the Kubernetes secret; by default the ID.",
    metavar="NAME",
)
@options.option(
    "--passphrase-file",
    "AEGIS_PKCS12_PASSPHRASE_FILE",
    f"A file whose first line is the passphrase of the PKCS#12 file. Without it, the passphrase is "
    f"read from ${_PASSPHRASE} or asked for.",
    metavar="FILE",
)
@options.option(
    "--out",
    "AEGIS_EXPORT_OUT",
    "A file to write, readable by you alone, instead of standard output.",
    metavar="FILE",
)
@options.force
@options.json_flag
def export(
    node_id: str | None,
    *,
    dir: str,  # noqa: A002 - named after its option
    name: str | None,
    passphrase_file: str | None,
    out: str | None,
    force: bool,
    json: bool,
    **formats: bool,
) -> None:
    """Write the trust bundle or an identity for other programs.

    An identity is the key and the chain of the node ID, and the trust bundle: keep it secret.
    Without an option all is one PEM text. --env writes the variables AEGIS_TLS_KEY, AEGIS_TLS_CERT
    and AEGIS_TLS_CA, one a line. --kubernetes-secret and --pkcs12 need an ID; --spiffe-bundle has
    the roots alone.
    """
    from aegis_certs._store.files import PRIVATE, write

    kind = _only_format(formats, node_id)
    if kind == "pkcs12" and out is None and sys.stdout.isatty():
        raise click.UsageError("PKCS#12 is binary; write it to a file with --out, or into a pipe")
    if name is not None and kind != "kubernetes_secret":
        raise click.UsageError("--name is the name of a --kubernetes-secret")
    path = None if out is None else output_path(out, force)
    if kind == "pkcs12":
        data = _pkcs12(dir, str(node_id), passphrase_file)
    else:
        data = _text(dir, node_id, kind, name, json).encode()
    if path is None:
        click.echo(data, nl=False)
    else:
        write(path, data, PRIVATE)


def _only_format(formats: dict[str, bool], node_id: str | None) -> str:
    """The one format that was asked for; `pem` without one."""
    chosen = [name for name, is_chosen in formats.items() if is_chosen] or ["pem"]
    shown = [f"--{name.replace('_', '-')}" for name in chosen]
    if len(chosen) > 1:
        raise click.UsageError(f"choose one of {' and '.join(shown)}")
    if chosen[0] in ("kubernetes_secret", "pkcs12") and node_id is None:
        raise click.UsageError(f"{shown[0]} has the key of one node; name its ID")
    if chosen[0] == "spiffe_bundle" and node_id is not None:
        raise click.UsageError("--spiffe-bundle has the roots and no identity; leave out the ID")
    return chosen[0]


def _text(directory: str, node_id: str | None, kind: str, name: str | None, json: bool) -> str:
    from aegis_certs import kubernetes_secret, spiffe_bundle
    from aegis_certs._export.kubernetes_secret import to_yaml
    from aegis_certs._export.pem import environment_file, export_identity, export_parts
    from aegis_certs.cli._output import to_json

    if kind == "spiffe_bundle":
        return to_json(spiffe_bundle(directory)) + "\n"
    if kind == "kubernetes_secret":
        secret = kubernetes_secret(export_identity(directory, str(node_id)), name=name)
        return to_json(secret) + "\n" if json else to_yaml(secret)
    parts = export_parts(directory, node_id)
    if json:
        return to_json({name: data.decode() for name, data in parts.items()}) + "\n"
    return environment_file(parts) if kind == "env" else b"".join(parts.values()).decode()


def _pkcs12(directory: str, node_id: str, passphrase_file: str | None) -> bytes:
    from aegis_certs import pkcs12
    from aegis_certs._export.pem import export_identity
    from aegis_certs.cli._input import ask_new_passphrase

    tls = export_identity(directory, node_id)  # before it asks
    passphrase: str | bytes | None = read_passphrase(passphrase_file) or os.environ.get(_PASSPHRASE)
    return pkcs12(tls, passphrase or ask_new_passphrase("the PKCS#12 file", _PASSPHRASE))


@options.command(
    "sudo aegis-certs trust",
    "aegis-certs trust --store browsers",
    "aegis-certs trust --dry-run",
    "sudo aegis-certs trust --remove",
)
@options.directory
@options.option(
    "--store",
    "AEGIS_TRUST_STORE",
    "The store of the system, or those of your Firefox and Chromium.",
    type=click.Choice(["system", "browsers"]),
    default="system",
)
@click.option("--remove", is_flag=True, help="Take the roots out again.")
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="With --remove: all roots that this command has put in, such as those of replaced CAs.",
)
@options.option("--dry-run", "AEGIS_DRY_RUN", "Only say what it would do.", is_flag=True)
@options.json_flag
@click.pass_context
def trust(
    ctx: click.Context,
    dir: str,  # noqa: A002 - named after its option
    store: str,
    remove: bool,
    every: bool,
    dry_run: bool,
    json: bool,
) -> None:
    """Let this machine's programs or browsers trust the CA.

    It puts the roots of the directory into the store of Debian or Fedora, which curl and most
    programs read and only root may write, or into the databases of your Firefox and Chromium. From
    then on, anyone who has the CA's key can impersonate every website to those programs.
    """
    from aegis_certs._export.pem import trust_bundle
    from aegis_certs._store.directory import Store
    from aegis_certs._x509.trust import TrustBundle
    from aegis_certs._x509.validity import common_name
    from aegis_certs.cli._output import say, show_json

    if every and not remove:
        raise click.UsageError("--all belongs to --remove")
    roots = None if every else TrustBundle(trust_bundle(Store(dir))).roots
    names = [] if roots is None else [common_name(root.subject) for root in roots]
    title = f"{'Removing' if remove else 'Trusting'} {', '.join(names) or 'all roots of Aegis'}"
    changes = []
    for place in _trust_stores(store):
        steps = place.plan_removal(roots) if remove else place.plan_trust(roots or ())
        changes.append({"store": place.name, "steps": [step.text for step in steps]})
        if not json:
            say(f"{title}: {place.name}" if steps else f"Nothing to do: {place.name}", "bold")
        for step in steps:
            if not json:
                say(step.text, head=("  ", ""))
            if not dry_run:
                step.apply()
    if json:
        show_json({"roots": names, "remove": remove, "dry_run": dry_run, "stores": changes})
    elif dry_run:
        say("Nothing was changed (--dry-run).", "dim")
    elif not remove:
        undo = command_line(ctx, f"trust --store {store} --remove")
        say("Anyone who has the key of this CA can now impersonate every website here.", "yellow")
        say(f"Undo: {undo}", "dim")


def _trust_stores(store: str) -> Sequence[TrustStore]:
    from aegis_certs import TrustStoreError, browser_trust_stores, system_trust_store

    if store == "system":
        return [system_trust_store()]
    found = browser_trust_stores()
    if not found:
        raise TrustStoreError(
            "the store of Firefox or Chromium",
            "your home directory has none; start the browser once, as this user",
        )
    if os.geteuid() == 0 and os.environ.get("SUDO_USER"):
        note("Note: these are the browsers of root; run this without sudo for your own.")
    return found
