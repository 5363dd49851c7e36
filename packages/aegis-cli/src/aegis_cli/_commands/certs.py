"""`aegis certs`: the certificate commands, and two of them with eyes for a running mesh."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from aegis_certs.cli import certs

from aegis_cli._options import option

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority
    from aegis_discovery.aio import Mesh

Look = Callable[["Mesh", "CertificateAuthority", bool], list[str]]
"""Finds the nodes of a mesh that stand in the way of a step, which may be confirmed already."""


def with_mesh() -> click.Group:
    """The certificate commands, where the steps of a rotation can look at a mesh first."""
    return _replaced(certs, "rotate-ca", _rotate_ca)


def _rotate_ca(group: click.Command) -> click.Command:
    assert isinstance(group, click.Group)  # noqa: S101 - it has steps
    group = _replaced(group, "activate", _activate)
    return _replaced(group, "retire", _retire)


def _replaced(
    group: click.Group, name: str, change: Callable[[click.Command], click.Command]
) -> click.Group:
    """A copy of a group, with one command changed; the group of the other wheel stays as it is."""
    mounted = copy.copy(group)
    mounted.commands = {**group.commands, name: change(group.commands[name])}
    return mounted


def _activate(command: click.Command) -> click.Command:
    def distrusting(mesh: Mesh, ca: CertificateAuthority, _: bool) -> list[str]:
        state = ca.rotation()
        nodes = mesh.topology.nodes.values()
        seen = [n.id for n in nodes if not n.vouched_by and not state.trusts(n.trust_bundle)]
        unseen = _unseen(mesh)
        if unseen:
            names = ", ".join(unseen)
            click.echo(f"Which CAs these nodes trust cannot be seen: {names}.", err=True)
        return [*seen, *unseen]

    return _seeing(
        command,
        distrusting,
        """Let the new CA issue from now on; certificates of the old one stay valid.

        With --node it asks the mesh which nodes trust the new CA already, lists the others, and
        wants --confirm only then. A node that others vouch for, such as a Go node, publishes
        nothing of that, and is listed too. Without --node, it lists the nodes that have
        certificates, and wants --confirm.
        """,
    )


def _retire(command: click.Command) -> click.Command:
    def in_use(mesh: Mesh, ca: CertificateAuthority, confirmed: bool) -> list[str]:
        from aegis_certs import StillUsedError

        state, found, unseen = ca.rotation(), [], _unseen(mesh)
        for node_id in mesh.topology.nodes:
            certificate = mesh.get_certificate(node_id)
            issuer = certificate.issuer if certificate else ()
            if any(a.rfc4514_attribute_name == "CN" and a.value == state.old for a in issuer):
                found.append(node_id)
        if unseen and not found and not confirmed:
            what = f"whether these nodes use a certificate of {state.old} cannot be seen"
            advice = "see that they use new ones, and go on with `--confirm`"
            raise StillUsedError(ca.directory, unseen, what, advice)
        return found

    return _seeing(
        command,
        in_use,
        """End the trust in the old CA, and forget its key.

        It is refused, with the list, while nodes have certificates of the old CA: those that it
        issued here and, with --node, those that the nodes of the mesh use. What a node uses that
        others vouch for, such as a Go node, cannot be seen: --node lists them too, and wants
        --confirm.
        """,
    )


def _unseen(mesh: Mesh) -> list[str]:
    """The nodes that sign nothing themselves, so that nobody knows their certificates."""
    return [node.id for node in mesh.topology.nodes.values() if node.vouched_by]


def _seeing(command: click.Command, look: Look, text: str) -> click.Command:
    """A copy of a command that is told, with --node, what a look at the mesh has found."""
    inner = command.callback
    assert inner is not None  # noqa: S101 - a command does something
    asks_itself = any(parameter.name == "confirm" for parameter in command.params)

    @option(
        "--node",
        "AEGIS_NODE",
        "A node of the mesh to look at first.",
        metavar="[ID@]HOST:PORT",
    )
    @option(
        "--identity",
        "AEGIS_IDENTITY",
        "Ask as this identity of the directory; by default as one made in memory.",
        metavar="NAME",
    )
    @option("--mesh", "AEGIS_MESH", "The mesh's name.", default="aegis", metavar="NAME")
    def callback(node: str | None, identity: str | None, mesh: str, **options: Any) -> None:
        confirmed = options["confirm"] if asks_itself else options.pop("confirm")

        def seen(ca: CertificateAuthority) -> list[str]:
            assert node is not None  # noqa: S101 - only then it is asked
            return _looked_at(ca, node, identity, mesh, lambda mesh: look(mesh, ca, confirmed))

        inner(**options, look=None if node is None else seen)

    seeing = copy.copy(command)
    seeing.params = [*command.params, *reversed(callback.__click_params__)]  # type: ignore[attr-defined]  # click's own
    if not asks_itself:
        told = "The nodes that --node cannot see use no certificate of the old CA."
        seeing.params.append(click.Option(["--confirm"], is_flag=True, help=told))
    seeing.callback = callback
    seeing.help = text
    return seeing


def _looked_at(
    ca: CertificateAuthority,
    node: str,
    identity: str | None,
    mesh: str,
    look: Callable[[Mesh], list[str]],
) -> list[str]:
    from aegis_discovery.aio import connect

    from aegis_cli._identity import LIFE, NAME, asking_identity
    from aegis_cli._run import run

    if identity is None:  # of this CA, whose passphrase was given already
        tls = ca.issue_in_memory(NAME, days=LIFE, client_only=True)
    else:
        tls = asking_identity(str(ca.directory), identity)

    async def found() -> list[str]:
        async with await connect(node, tls=tls, mesh=mesh) as seen:
            return look(seen)

    return run(found())
