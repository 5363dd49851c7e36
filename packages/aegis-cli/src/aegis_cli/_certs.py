"""`aegis certs`: the certificate commands, and two of them with eyes for a running mesh."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from aegis_certs.cli import certs

from aegis_cli._options import option

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority, RotationState
    from aegis_discovery.aio import Mesh

Look = Callable[["Mesh", "RotationState"], list[str]]
"""Finds the nodes of a mesh that stand in the way of a step."""


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
    def distrusting(mesh: Mesh, state: RotationState) -> list[str]:
        return [
            node.id
            for node in mesh.topology.nodes.values()
            if not node.vouched_by and not state.trusts(node.trust_bundle)
        ]

    return _seeing(
        command,
        distrusting,
        """Let the new CA issue from now on; certificates of the old one stay valid.

        With --node it asks the mesh which nodes trust the new CA already, lists the others, and
        wants --confirm only then. Without it, it lists the nodes that have certificates, and
        wants --confirm.
        """,
    )


def _retire(command: click.Command) -> click.Command:
    def in_use(mesh: Mesh, state: RotationState) -> list[str]:
        found = []
        for node_id in mesh.topology.nodes:
            certificate = mesh.get_certificate(node_id)
            issuer = certificate.issuer if certificate else ()
            if any(a.rfc4514_attribute_name == "CN" and a.value == state.old for a in issuer):
                found.append(node_id)
        return found

    return _seeing(
        command,
        in_use,
        """End the trust in the old CA, and forget its key.

        It is refused, with the list, while nodes have certificates of the old CA: those that it
        issued here and, with --node, those that the nodes of the mesh use.
        """,
    )


def _seeing(command: click.Command, look: Look, text: str) -> click.Command:
    """A copy of a command that is told, with --node, what a look at the mesh has found."""
    inner = command.callback
    assert inner is not None  # noqa: S101 - a command does something

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
        def seen(ca: CertificateAuthority) -> list[str]:
            assert node is not None  # noqa: S101 - only then it is asked
            return _looked_at(ca, node, identity, mesh, look)

        inner(**options, look=None if node is None else seen)

    seeing = copy.copy(command)
    seeing.params = [*command.params, *reversed(callback.__click_params__)]  # type: ignore[attr-defined]  # click's own
    seeing.callback = callback
    seeing.help = text
    return seeing


def _looked_at(
    ca: CertificateAuthority, node: str, identity: str | None, mesh: str, look: Look
) -> list[str]:
    from aegis_discovery.aio import connect

    from aegis_cli._identity import LIFE, NAME, asking_identity
    from aegis_cli._run import run

    if identity is None:  # of this CA, whose passphrase was given already
        tls = ca.issue_in_memory(NAME, days=LIFE, client_only=True)
    else:
        tls = asking_identity(str(ca.directory), identity)
    state = ca.rotation()

    async def found() -> list[str]:
        async with await connect(node, tls=tls, mesh=mesh) as seen:
            return look(seen, state)

    return run(found())
