"""The root of all commands."""

from __future__ import annotations

import click

from aegis_cli._commands.call import call
from aegis_cli._commands.certs import with_mesh
from aegis_cli._commands.completion import completion
from aegis_cli._commands.demo import demo
from aegis_cli._commands.doctor import doctor
from aegis_cli._commands.enroll import enroll
from aegis_cli._commands.mesh_traffic import mesh
from aegis_cli._commands.node import node
from aegis_cli._commands.policy import policy
from aegis_cli._commands.services import services
from aegis_cli._commands.ui import ui
from aegis_cli._group import group


@group(
    "aegis demo",
    "aegis certs init",
    "aegis node run --id orders-1 --service orders/v1 orders:register",
    "aegis mesh status --node 127.0.0.1:50051",
    notes="Exit codes: 0 ok, 1 error, 2 usage, 8 `--check` failed, 130 interrupted; `aegis certs` "
    "has more.",
)
@click.version_option(package_name="aegis-cli", prog_name="aegis", message="%(prog)s %(version)s")
def aegis() -> None:
    """An embedded service mesh: run nodes, look at a mesh, manage its certificates."""


for command in (
    call,
    with_mesh(),
    completion,
    demo,
    doctor,
    enroll,
    mesh,
    node,
    policy,
    services,
    ui,
):
    aegis.add_command(command)
