"""`aegis call`: one call of a method, without its generated code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
from aegis_certs.cli import certificate_directory, examples, fail, option, show_json

from aegis_cli._options import (
    entry_node,
    identity_name,
    mesh_name,
    provider,
    region,
    service_argument,
    zone,
)


@click.command(
    epilog=examples(
        """aegis call greeter/v1 greeter.v1.Greeter/SayHello '{"name": "you"}'""",
        "aegis call orders/v1 shop.v1.Orders/List --node orders-2 --via ca-1:50051",
        "aegis call orders/v1 shop.v1.Orders/Import - < orders.jsonl",
        "aegis call orders/v1 shop.v1.Orders/Watch --timeout 60 | jq .id",
        notes="Exit codes: 0 ok, 1 error, 2 usage, 64 + its gRPC code where the call failed.",
    )
)
@click.argument("service", callback=service_argument, metavar="NAME/VERSION")
@click.argument("method", metavar="PACKAGE.SERVICE/METHOD")
@click.argument("requests", nargs=-1, metavar="[JSON|-]...")
@entry_node
@provider
@region
@zone
@option(
    "--timeout",
    "AEGIS_TIMEOUT",
    "Seconds for the whole call; by default 30 for a single answer, and no limit for a stream.",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
)
@option(
    "--metadata",
    "AEGIS_METADATA",
    "Metadata to send; may be given more than once.",
    multiple=True,
    metavar="KEY=VALUE",
)
@certificate_directory(
    "--cert-dir", "The directory of the CA's certificate, and of its key or the named identity."
)
@identity_name
@mesh_name
def call(
    service: Any,
    method: str,
    requests: tuple[str, ...],
    via: str,
    node: str | None,
    region: str | None,
    zone: str | None,
    timeout: float | None,
    metadata: tuple[str, ...],
    cert_dir: str,
    identity: str | None,
    mesh: str,
) -> None:
    """Call a method of a service, with JSON.

    The balancer chooses the provider, as it does for the service's clients in this region and zone,
    or --node names it. The types are read from a provider by server reflection.

    Each JSON is one request; several are sent to a method that takes a stream. With - they are read
    from standard input, and sent as they are read. Without any, a single empty request is sent.
    Answers are printed as JSON: the answers of a stream one a line, as they arrive.
    """
    pairs = [_pair(text) for text in metadata]
    name = method.removeprefix("/")
    if name.count("/") != 1 or name.startswith("/") or name.endswith("/"):
        raise click.BadParameter(f"{method!r} is not like shop.v1.Orders/List", param_hint="METHOD")

    from aegis_cli._identity import client_identity
    from aegis_cli._rpc.invocation import invoke
    from aegis_cli._rpc.messages import read_objects
    from aegis_cli._rpc.target import open_target
    from aegis_cli.errors import CallFailedError

    tls = client_identity(cert_dir, identity)
    values = read_objects(_texts(requests))
    with open_target(service, via, tls, mesh=mesh, node=node, region=region, zone=zone) as target:
        found = target.reflection.find_method(name)
        indent = None if found.server_streaming else 2
        try:
            for answer in invoke(target, found, values, timeout=timeout, metadata=pairs):
                show_json(answer, indent=indent)
                sys.stdout.flush()
        except CallFailedError as error:
            fail(str(error), 64 + error.number)


def _texts(requests: tuple[str, ...]) -> Iterator[str]:
    """The lines of all requests; those of standard input are read when they are needed."""
    for text in requests:
        if text == "-":
            yield from iter(sys.stdin.readline, "")
        else:
            yield f"{text}\n"


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or key.lower() != key or not key.isascii() or not value.isprintable():
        raise click.BadParameter(
            f"{text!r} is not KEY=VALUE with a key in lower case", param_hint="--metadata"
        )
    return key, value
