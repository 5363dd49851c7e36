"""`aegis services`: what the services of a mesh offer."""

from __future__ import annotations

from typing import Any

import click
from aegis_certs.cli import certificate_directory, examples, json_flag, printable, show_json

from aegis_cli._group import group
from aegis_cli._options import (
    entry_node,
    identity_name,
    mesh_name,
    provider,
    region,
    service_argument,
    zone,
)


@group("aegis services describe greeter/v1")
def services() -> None:
    """Look at what services offer."""


@services.command(
    epilog=examples(
        "aegis services describe greeter/v1 --via 127.0.0.1:50051",
        "aegis services describe orders/v1 shop.v1.Orders",
        "aegis services describe orders/v1 shop.v1.Order --node orders-2",
        "aegis services describe orders/v1 --json | jq '.services[].methods[].path'",
    )
)
@click.argument("service", callback=service_argument, metavar="NAME/VERSION")
@click.argument("symbol", required=False, metavar="[SYMBOL]")
@entry_node
@provider
@region
@zone
@certificate_directory(
    "--cert-dir", "The directory of the CA's certificate, and of its key or the named identity."
)
@identity_name
@mesh_name
@json_flag
def describe(
    service: Any,
    symbol: str | None,
    via: str,
    node: str | None,
    region: str | None,
    zone: str | None,
    cert_dir: str,
    identity: str | None,
    mesh: str,
    json: bool,
) -> None:
    """Show the methods and messages of a service.

    They are read from one provider by server reflection, and shown as in a `.proto` file. SYMBOL is
    the full name of one gRPC service or one message; by default all gRPC services are shown that
    the provider serves beside those of the mesh.
    """
    from aegis_cli._identity import client_identity
    from aegis_cli._rpc.description import describe_services, describe_symbol
    from aegis_cli._rpc.target import open_target

    tls = client_identity(cert_dir, identity)
    with open_target(service, via, tls, mesh=mesh, node=node, region=region, zone=zone) as target:
        if symbol is None:
            found = describe_services(target.reflection)
        else:
            found = describe_symbol(target.reflection, symbol.lstrip("./"))
    if json:
        show_json({"service": str(service), **found.facts})
        return
    for line in found.lines:
        click.echo(printable(line))
