"""`aegis policy`: the decisions of a policy, and their reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from aegis_certs import DEFAULT_TRUST_DOMAIN
from aegis_certs.cli import examples, json_flag, option, show_json

from aegis_cli._group import group

if TYPE_CHECKING:
    from aegis_discovery.policy import Decision, Policy

DENIED = 1
"""The exit code of a denial."""


@group("aegis policy check policy.toml call billing-1 shop.v1.Orders/Cancel")
def policy() -> None:
    """Check what a policy allows."""


@policy.command(
    epilog=examples(
        "aegis policy check policy.toml call billing-1 shop.v1.Orders/Cancel",
        "aegis policy check policy.toml call edge shop.Orders/Cancel --type gateway",
        "aegis policy check policy.toml provide payments-1 payments/v2",
        notes="Exit codes: 0 allowed, 1 denied, 2 usage or an invalid policy file.",
    )
)
@click.argument("file", type=click.Path())
@click.argument("kind", type=click.Choice(["call", "provide"]), metavar="call|provide")
@click.argument("who")
@click.argument("what")
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
@json_flag
def check(
    file: str,
    kind: str,
    who: str,
    what: str,
    type: str | None,  # noqa: A002 - named after its option
    trust_domain: str,
    vouched_by: str | None,
    json: bool,
) -> None:
    """Show whether a policy allows something, and by which rule.

    WHO is a node id; the number of a worker does not matter. WHAT is a method, such as
    shop.v1.Orders/Cancel, for `call`, and a service of the mesh, such as orders/v1, for `provide`.
    """
    from aegis_certs import owner_of
    from aegis_discovery.policy import Subject, load_policy

    voucher = vouched_by and owner_of(vouched_by)
    subject = Subject(owner_of(who), type, None if voucher else trust_domain or None, voucher)
    rules = load_policy(file)
    if kind == "call":
        decision = rules.may_call(subject, *_parts(what, "shop.v1.Orders/Cancel"))
    else:
        decision = rules.may_provide(subject, *_parts(what, "orders/v1"))
    _show(rules, kind, decision, json=json)
    if not decision.allowed:
        raise click.exceptions.Exit(DENIED)


def _parts(what: str, example: str) -> tuple[str, str]:
    left, slash, right = what.removeprefix("/").partition("/")
    if not (left and slash and right) or "/" in right:
        raise click.BadParameter(f"{what!r} is not like {example}", param_hint="WHAT")
    return left, right


def _show(rules: Policy, kind: str, decision: Decision, *, json: bool) -> None:
    if json:
        listed = rules.call if kind == "call" else rules.provide
        show_json(
            {
                "allowed": decision.allowed,
                "rule": None if decision.rule is None else listed.index(decision.rule) + 1,
                "line": decision.rule.line or None if decision.rule else None,
                "reason": decision.reason,
            }
        )
    else:
        click.echo(f"{'allowed' if decision.allowed else 'denied'}: {decision.reason}")
