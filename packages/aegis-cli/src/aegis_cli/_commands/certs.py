"""`aegis certs`: the certificate commands; two steps of a rotation can look at a mesh first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from aegis_certs import cli
from aegis_certs.cli import option

from aegis_cli._options import identity_name, mesh_name

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority, Renewal
    from aegis_discovery.aio import Mesh

FindBlockers = Callable[["Mesh", "CertificateAuthority", bool], list[str]]
"""Finds the nodes of a mesh that block a step; the last argument is whether it is confirmed."""

_ACTIVATE_HELP = """Let the new CA issue from now on.

Certificates of the old CA stay valid. With --node it asks the mesh which nodes trust the new CA
already, lists the others, and requires --confirm only if there are any. A node that others vouch
for, such as a Go node, does not publish what it trusts, and is listed too. Without --node it lists
the nodes that have certificates, and requires --confirm.
"""
_RETIRE_HELP = """End the trust in the old CA, and delete its key.

It is refused, with a list, while nodes have certificates of the old CA: those that it issued here
and, with --node, those that the nodes of the mesh use. The certificate of a node that others vouch
for, such as a Go node, cannot be seen: --node lists these nodes too, and requires --confirm.
"""


def _with_mesh() -> click.Group:
    """The certificate commands, where those that can ask a mesh do."""
    return _replaced(_replaced(cli.certs, "rotate-ca", _rotate_ca), "renew", _with_issuers)


def _with_issuers(command: click.Command) -> click.Command:
    """A copy of `renew` that can ask issuers of a mesh."""
    inner = command.callback
    assert inner is not None  # noqa: S101 - a command has a callback

    @mesh_name
    def callback(mesh: str, **options: Any) -> None:
        def renew_via(directory: str, node_id: str | None, via: str) -> list[Renewal]:
            return [_renew(name, directory, via, mesh) for name in _due(directory, node_id)]

        inner(**options, renew_via=renew_via)

    changed = copy.copy(command)
    changed.params = [*command.params, *reversed(callback.__click_params__)]  # type: ignore[attr-defined]  # click's own
    changed.callback = callback
    return changed


def _due(directory: str, node_id: str | None) -> list[str]:
    """The named identity, or all of the directory that are due."""
    from aegis_certs import CertificateState, list_certificates

    if node_id is not None:
        return [node_id]
    listed = list_certificates(directory)
    due = [one for one in listed if one.path and one.state is CertificateState.EXPIRING]
    return [one.id for one in due if any("/node/" in name for name in one.sans)]  # no CA


def _renew(node_id: str, directory: str, via: str, mesh: str) -> Renewal:
    from aegis_certs import CertsError, Renewal
    from aegis_discovery import DiscoveryError, renew

    try:
        return Renewal(node_id, renew(via, node_id=node_id, cert_dir=directory, mesh=mesh))
    except (CertsError, DiscoveryError) as error:
        return Renewal(node_id, None, error)


def _rotate_ca(group: click.Command) -> click.Command:
    assert isinstance(group, click.Group)  # noqa: S101 - it has subcommands
    group = _replaced(
        group, "activate", lambda command: _with_node(command, _distrusting, _ACTIVATE_HELP)
    )
    return _replaced(group, "retire", lambda command: _with_node(command, _using_old, _RETIRE_HELP))


def _replaced(
    group: click.Group, name: str, change: Callable[[click.Command], click.Command]
) -> click.Group:
    """A copy of a group with one command changed; the group of the other wheel is unchanged."""
    changed = copy.copy(group)
    changed.commands = {**group.commands, name: change(group.commands[name])}
    return changed


def _distrusting(mesh: Mesh, ca: CertificateAuthority, _: bool) -> list[str]:
    state, unseen = ca.rotation(), _unseen(mesh)
    nodes = mesh.topology.nodes.values()
    seen = [n.id for n in nodes if not n.vouched_by and not state.trusts(n.trust_bundle)]
    if unseen:
        names = ", ".join(unseen)
        click.echo(f"Which CAs these nodes trust cannot be seen: {names}.", err=True)
    return [*seen, *unseen]


def _using_old(mesh: Mesh, ca: CertificateAuthority, confirmed: bool) -> list[str]:
    from aegis_certs import StillUsedError

    state, found, unseen = ca.rotation(), [], _unseen(mesh)
    for node_id in mesh.topology.nodes:
        certificate = mesh.get_certificate(node_id)
        issuer = certificate.issuer if certificate else ()
        if any(a.rfc4514_attribute_name == "CN" and a.value == state.old for a in issuer):
            found.append(node_id)
    if unseen and not found and not confirmed:
        what = f"whether these nodes use a certificate of {state.old} cannot be seen"
        advice = "make sure that they use new ones, then add `--confirm`"
        raise StillUsedError(ca.directory, unseen, what, advice)
    return found


def _unseen(mesh: Mesh) -> list[str]:
    """The nodes that sign nothing themselves, so that their certificates are unknown."""
    return [node.id for node in mesh.topology.nodes.values() if node.vouched_by]


def _with_node(command: click.Command, find: FindBlockers, text: str) -> click.Command:
    """A copy of a command that has `--node`, to find the blockers of its step in a mesh."""
    inner = command.callback
    assert inner is not None  # noqa: S101 - a command has a callback
    has_confirm = any(parameter.name == "confirm" for parameter in command.params)

    @option(
        "--node", "AEGIS_NODE", "A node of the mesh to look at first.", metavar="[ID@]HOST:PORT"
    )
    @identity_name
    @mesh_name
    def callback(node: str | None, identity: str | None, mesh: str, **options: Any) -> None:
        confirmed = options["confirm"] if has_confirm else options.pop("confirm")

        def blockers(ca: CertificateAuthority) -> list[str]:
            assert node is not None  # noqa: S101 - it is not called without a node
            return _ask_mesh(ca, node, identity, mesh, lambda mesh: find(mesh, ca, confirmed))

        inner(**options, find_blockers=None if node is None else blockers)

    changed = copy.copy(command)
    changed.params = [*command.params, *reversed(callback.__click_params__)]  # type: ignore[attr-defined]  # click's own
    if not has_confirm:
        confirm = "The nodes that --node cannot see use no certificate of the old CA."
        changed.params.append(click.Option(["--confirm"], is_flag=True, help=confirm))
    changed.callback = callback
    changed.help = text
    return changed


def _ask_mesh(
    ca: CertificateAuthority,
    node: str,
    identity: str | None,
    mesh: str,
    find: Callable[[Mesh], list[str]],
) -> list[str]:
    from aegis_discovery.aio import connect

    from aegis_cli._identity import client_identity, temporary_identity
    from aegis_cli._run import run

    # This CA has its passphrase already.
    if identity is None:
        tls = temporary_identity(ca.directory, lambda: ca)
    else:
        tls = client_identity(ca.directory, identity)

    async def ask() -> list[str]:
        async with await connect(node, tls=tls, mesh=mesh) as connected:
            return find(connected)

    return run(ask())


certs = _with_mesh()
