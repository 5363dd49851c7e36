"""The root of all commands."""

from __future__ import annotations

import click

from aegis_cli._group import group


@group(
    "aegis demo",
    "aegis certs init",
    "aegis node run --id orders-1 --service orders/v1 orders:register",
    "aegis mesh status --node 127.0.0.1:50051",
    notes="Exit codes: 0 ok, 1 error, 2 usage, 8 `--check` failed, 130 interrupted; `aegis certs` "
    "has more.",
    call="aegis_cli._commands.call:call",
    certs="aegis_cli._commands.certs:certs",
    completion="aegis_cli._commands.completion:completion",
    demo="aegis_cli._commands.demo:demo",
    doctor="aegis_cli._commands.doctor:doctor",
    enroll="aegis_cli._commands.enroll:enroll",
    mesh="aegis_cli._commands.mesh:mesh",
    node="aegis_cli._commands.node:node",
    policy="aegis_cli._commands.policy:policy",
    services="aegis_cli._commands.services:services",
    ui="aegis_cli._commands.ui:ui",
)
@click.version_option(package_name="aegis-cli", prog_name="aegis", message="%(prog)s %(version)s")
def aegis() -> None:
    """An embedded service mesh: run nodes, look at a mesh, manage its certificates."""
