"""The options that the commands on a mesh share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from aegis_certs.cli import certificate_directory, json_flag, option

if TYPE_CHECKING:
    from aegis_discovery import ServiceInfo

F = TypeVar("F", bound=Callable[..., Any])

STATES = ("alive", "suspected", "unreachable", "failed", "healthy", "unhealthy", "unknown")
"""The statuses and healths of nodes that a mesh lists."""

CHECK_FAILED = 8  # the exit code of --check, and of --within
mesh_name = option(
    "--mesh",
    "AEGIS_MESH",
    "The name of the mesh; nodes of another mesh are refused.",
    default="aegis",
    metavar="NAME",
)
identity_name = option(
    "--identity",
    "AEGIS_IDENTITY",
    "Connect with this identity of the certificate directory; by default with a client-only "
    "identity, valid for an hour, that the CA's key makes. It is kept in the directory, in "
    ".aegis-cli.pem, and used again for half an hour.",
    metavar="NAME",
)
node_address = option(
    "--node",
    "AEGIS_NODE",
    "A node of the mesh; without an id, its certificate says which node it is.",
    required=True,
    metavar="[ID@]HOST:PORT",
)
node_or_registry = (
    option(
        "--registry",
        "AEGIS_REGISTRY",
        "The registry of the mesh, in place of a node.",
        metavar="etcd://HOST:PORT,.../PREFIX",
    ),
    option(
        "--node",
        "AEGIS_NODE",
        "A node of the mesh; without an id, its certificate says which node it is.",
        metavar="[ID@]HOST:PORT",
    ),
)
entry_node = option(
    "--via",
    "AEGIS_NODE",
    "A node of the mesh to connect to; without an id, its certificate says which node it is.",
    parameter="via",
    required=True,
    metavar="[ID@]HOST:PORT",
)
provider = option(
    "--node",
    "AEGIS_PROVIDER",
    "Ask this provider only; by default the balancer chooses.",
    parameter="node",
    metavar="ID",
    callback=lambda context, parameter, value: _provider_id(value),
)
region = option(
    "--region",
    "AEGIS_REGION",
    "The region of this caller: providers of it are called first, and some only from there.",
    metavar="NAME",
)
zone = option("--zone", "AEGIS_ZONE", "The part of the region, in the same way.", metavar="NAME")
client_directory = certificate_directory(
    "--cert-dir", "The directory of the CA's certificate, and of its key or the named identity."
)
check = option(
    "--check",
    "AEGIS_CHECK",
    f"End with exit code {CHECK_FAILED} if anything is wrong.",
    is_flag=True,
)
watch = option("--watch", "AEGIS_WATCH", "Update it every second until Ctrl-C.", is_flag=True)


if TYPE_CHECKING:
    _FloatType = click.ParamType[float]
else:  # before click 8.2 it has no type parameter
    _FloatType = click.ParamType


class SpanType(_FloatType):
    """A length of time, such as `90s`, `15m`, `2h` or `14d`."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from aegis_cli._view.model import parse_span

        try:
            return parse_span(str(value))
        except ValueError:
            self.fail(f"{value!r} is no length of time such as 90s, 15m, 2h or 14d", param, ctx)


def connecting(command: F) -> F:
    """The options of every command that reads a mesh, which `place_of` takes, and `json`."""
    for add in (json_flag, mesh_name, identity_name, client_directory, *node_or_registry):
        command = add(command)
    return command


def filtering(command: F) -> F:
    """The options that choose nodes."""
    many: dict[str, Any] = {"multiple": True}
    for add in (
        option(
            "--status",
            "AEGIS_SHOW_STATUS",
            "Only nodes with this status or health, such as failed or unhealthy.",
            parameter="statuses",
            type=click.Choice(STATES),
            metavar="STATUS",
            **many,
        ),
        option(
            "--zone",
            "AEGIS_SHOW_ZONE",
            "Only nodes of this zone.",
            parameter="zones",
            metavar="ZONE",
            **many,
        ),
        option(
            "--region",
            "AEGIS_SHOW_REGION",
            "Only nodes of this region.",
            parameter="regions",
            metavar="REGION",
            **many,
        ),
        option(
            "--service",
            "AEGIS_SHOW_SERVICE",
            "Only providers of this service; may be given more than once, as all filters.",
            parameter="services",
            metavar="NAME[/VERSION]",
            **many,
        ),
    ):
        command = add(command)
    return command


def service_argument(
    _context: click.Context, _parameter: click.Parameter, value: str
) -> ServiceInfo:
    """Parses NAME/VERSION."""
    name, slash, version = value.partition("/")
    if not (name and slash and version) or "/" in version:
        raise click.BadParameter(f"{value!r} is not NAME/VERSION, such as orders/v1")

    from aegis_discovery import ServiceInfo

    return ServiceInfo(name, version)


def _provider_id(value: str | None) -> str | None:
    if value is not None and ":" in value:
        raise click.BadParameter(
            f"{value!r} is an address; --node takes the id of a provider, and --via the address of "
            f"a node of the mesh"
        )
    return value
