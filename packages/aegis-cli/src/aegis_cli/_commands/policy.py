"""`aegis policy`: the decisions of a policy, and how it is published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from aegis_certs import DEFAULT_TRUST_DOMAIN
from aegis_certs.cli import certificate_directory, examples, json_flag, option, show_json

from aegis_cli._group import group
from aegis_cli._options import identity_name, mesh_name

if TYPE_CHECKING:
    from aegis_discovery.policy import Decision, Policy, Subject

    from aegis_cli._mesh.policies import NodePolicies

DENIED = 1
"""The exit code of a denial."""


@group("aegis policy check policy.toml call billing-1 shop.v1.Orders/Cancel")
def policy() -> None:
    """Check what a policy allows, and publish one to the mesh."""


@policy.command(
    epilog=examples(
        "aegis policy check policy.toml call billing-1 shop.v1.Orders/Cancel",
        "aegis policy check policy.toml call edge shop.Orders/Cancel --type gateway",
        "aegis policy check policy.toml provide payments-1 payments/v2",
        "aegis policy check call edge shop.v1.Orders/Cancel --node 127.0.0.1:50051",
        notes="Exit codes: 0 allowed, 1 denied, 2 usage or an invalid policy file.",
    )
)
@click.argument("words", nargs=-1, metavar="[FILE] call|provide WHO WHAT")
@option(
    "--node",
    "AEGIS_NODE",
    "Decide as this node does: by the policy that it has from the mesh, and by its own, FILE.",
    metavar="[ID@]HOST:PORT",
)
@option(
    "--type",
    "AEGIS_NODE_TYPE",
    "The type in the record of the node; a client has none.",
    metavar="TYPE",
)
@option(
    "--trust-domain",
    "AEGIS_TRUST_DOMAIN",
    "The trust domain in its certificate.",
    default=DEFAULT_TRUST_DOMAIN,
    metavar="DOMAIN",
)
@option(
    "--vouched-by",
    "AEGIS_VOUCHED_BY",
    "The node that vouches for a provider that signs nothing, such as a Go node.",
    metavar="ID",
)
@certificate_directory(
    "--cert-dir",
    "With --node: the directory of the CA's certificate, and of its key or the named identity.",
)
@identity_name
@mesh_name
@json_flag
def check(
    words: tuple[str, ...],
    node: str | None,
    type: str | None,  # noqa: A002 - named after its option
    trust_domain: str,
    vouched_by: str | None,
    cert_dir: str,
    identity: str | None,
    mesh: str,
    json: bool,
) -> None:
    """Show whether a policy allows something, and by which rule.

    WHO is a node id; the number of a worker does not matter. WHAT is a method, such as
    shop.v1.Orders/Cancel, for `call`, and a service of the mesh, such as orders/v1, for `provide`.

    With --node it shows which policies that node has: the one that the mesh has published, and its
    own. The node tells only the hash of its own policy, so give its FILE to decide by both.
    """
    from hashlib import sha256

    from aegis_certs import owner_of
    from aegis_discovery.policy import Subject, combined, load_policy

    file, kind, who, what = _split(words, needs_file=node is None)
    voucher = vouched_by and owner_of(vouched_by)
    subject = Subject(owner_of(who), type, None if voucher else trust_domain or None, voucher)
    rules = None if file is None else load_policy(file)
    facts = None
    if node is not None:
        from aegis_cli._identity import client_identity
        from aegis_cli._mesh.policies import policies_of
        from aegis_cli._run import run

        tls = client_identity(cert_dir, identity)
        given = "" if file is None else sha256(Path(file).read_bytes()).hexdigest()
        facts = run(policies_of(node, tls, mesh=mesh, given=given))
        # A file that is not in force there says nothing about this node.
        rules = combined(rules if facts.own else None, facts.published)
    decision = _decide(rules, kind, subject, what)
    _show(rules, kind, decision, facts, json=json)
    if not decision.allowed:
        raise click.exceptions.Exit(DENIED)


@policy.command(
    epilog=examples(
        "aegis policy publish policy.toml",
        "aegis policy publish policy.toml --cert-dir /etc/aegis/ca",
    )
)
@click.argument("file", type=click.Path())
@certificate_directory("--cert-dir", "The directory of the CA, with its key.")
def publish(file: str, cert_dir: str) -> None:
    """Publish a policy to all nodes and clients of the mesh.

    Run it where the CA's key is. A running issuer signs the policy and sends it to the mesh within
    seconds. A node with a policy of its own allows only what both allow.
    """
    from aegis_certs.cli import run_slowly
    from aegis_discovery.documents import publish_policy
    from aegis_discovery.policy import load_policy

    from aegis_cli._mesh.authority import authority_files

    files = authority_files(cert_dir)
    rules = load_policy(file)
    content = Path(file).read_bytes()
    run_slowly("Publishing the policy …", lambda: publish_policy(files, content))
    counts = f"call rules: {len(rules.call)}, provide rules: {len(rules.provide)}"
    click.echo(f"{file} ({counts}) is published by the issuers of {cert_dir}.")
    if not files.read_issuers():
        click.echo("No issuer runs there yet: start one with `aegis node run --issuer`.", err=True)


def _split(words: tuple[str, ...], *, needs_file: bool) -> tuple[str | None, str, str, str]:
    """Returns the file, if it was given, and the question."""
    file, rest = (None, words) if words[:1] in (("call",), ("provide",)) else (words[:1], words[1:])
    if len(rest) != 3 or rest[0] not in ("call", "provide"):
        raise click.UsageError("give [FILE] call|provide WHO WHAT, such as: policy.toml call a b/C")
    if file is None and needs_file:
        raise click.UsageError("name the FILE of the policy, or a node with --node")
    return (file[0] if file else None), rest[0], rest[1], rest[2]


def _decide(rules: Policy | None, kind: str, subject: Subject, what: str) -> Decision:
    from aegis_discovery.policy import Decision

    example = "shop.v1.Orders/Cancel" if kind == "call" else "orders/v1"
    parts = _parts(what, example)
    if rules is None:
        return Decision(True, None, "there is no policy, so all is allowed")
    return rules.may_call(subject, *parts) if kind == "call" else rules.may_provide(subject, *parts)


def _parts(what: str, example: str) -> tuple[str, str]:
    left, slash, right = what.removeprefix("/").partition("/")
    if not (left and slash and right) or "/" in right:
        raise click.BadParameter(f"{what!r} is not like {example}", param_hint="WHAT")
    return left, right


def _show(
    rules: Policy | None,
    kind: str,
    decision: Decision,
    facts: NodePolicies | None,
    *,
    json: bool,
) -> None:
    if json:
        listed = () if rules is None else rules.call if kind == "call" else rules.provide
        found = {
            "allowed": decision.allowed,
            "rule": listed.index(decision.rule) + 1 if decision.rule in listed else None,
            "line": decision.rule.line or None if decision.rule else None,
            "reason": decision.reason,
        }
        show_json(found | ({} if facts is None else {"node": facts.to_json()}))
        return
    if facts is not None:
        for line in facts.lines():
            click.echo(line)
    click.echo(f"{'allowed' if decision.allowed else 'denied'}: {decision.reason}")
