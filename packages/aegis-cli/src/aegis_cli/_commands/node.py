"""`aegis node`: runs a node."""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from aegis_certs.cli import certificate_directory, examples, fail, json_flag, option

from aegis_cli._group import group
from aegis_cli._options import mesh_name

if TYPE_CHECKING:
    from aegis_certs import TLSOptions

_OWN_FILES = "instead of --cert-dir; all three are required."


@group("aegis node run --id seed --address 127.0.0.1:50051")
def node() -> None:
    """Run a node."""


@node.command(
    epilog=examples(
        "aegis node run --id seed --address 127.0.0.1:50051",
        "aegis node run --id orders-1 --service orders/v1 orders:register",
        "aegis node run --id orders-1 --workers auto orders:register",
        "aegis node run --id spare --join 127.0.0.1:50051",
        "aegis node run --id ca-1 --issuer --address 10.0.0.5:50051",
        "aegis node run --id orders-1 --token-file token --join 10.0.0.5:50051",
        "aegis node run --id edge --address 0.0.0.0:50051 --advertise 10.0.0.7:50051",
        "aegis node run --id eu-1 --region eu --boundary region --join 10.0.0.5:50051",
        notes="Exit codes: 0 stopped by SIGTERM or Ctrl-C, 1 error, 2 usage.",
    )
)
@click.argument("registrars", nargs=-1, metavar="[MODULE:NAME]...")
@option(
    "--config",
    "AEGIS_CONFIG",
    "A TOML file of settings in the table [node]; options and variables override them.",
    metavar="FILE",
)
@option("--id", "AEGIS_NODE_ID", "The node id; required.", metavar="ID")
@option(
    "--address",
    "AEGIS_ADDRESS",
    "The address to listen at; port 0 selects a free port.",
    default="127.0.0.1:0",
    metavar="HOST:PORT",
)
@option(
    "--advertise",
    "AEGIS_ADVERTISE",
    "The address at which other nodes reach it, if that differs.",
    metavar="HOST:PORT",
)
@option(
    "--service",
    "AEGIS_SERVICES",
    "A service that the node provides; may be given more than once. A MODULE:NAME must serve it. "
    "With @region, only callers of the node's own region get it.",
    parameter="services",
    multiple=True,
    metavar="NAME/VERSION[@region]",
)
@option(
    "--join",
    "AEGIS_JOIN",
    "A node to join through; may be given more than once.",
    parameter="seed_peers",
    multiple=True,
    metavar="[ID@]HOST:PORT",
)
@option(
    "--registry",
    "AEGIS_REGISTRY",
    "Where the mesh is kept in place of feeds; with --join the node takes part in both.",
    metavar="etcd://HOST:PORT,.../PREFIX",
)
@option("--name", "AEGIS_NODE_NAME", "A name for people; by default the id.", metavar="NAME")
@option("--type", "AEGIS_NODE_TYPE", "The type of the node.", default="generic", metavar="TYPE")
@option(
    "--region",
    "AEGIS_REGION",
    "The region that it runs in; callers prefer providers nearby.",
    metavar="NAME",
)
@option("--zone", "AEGIS_ZONE", "The part of the region that it runs in.", metavar="NAME")
@option(
    "--boundary",
    "AEGIS_BOUNDARY",
    "Keep membership inside regions, once all nodes of the mesh say so.",
    type=click.Choice(["region"]),
)
@mesh_name
@certificate_directory(
    "--cert-dir", "The certificate directory; missing files are created if the CA's key is there."
)
@option(
    "--token-file",
    "AEGIS_TOKEN_FILE",
    "The file of a token, with which a node enrols that has no identity yet, or an expired one. It "
    "may also be in $AEGIS_ENROLL_TOKEN.",
    metavar="FILE",
)
@option(
    "--issuer",
    "AEGIS_ISSUER",
    "Issue certificates to the mesh, with the CA's key in the certificate directory.",
    is_flag=True,
)
@option(
    "--rotate",
    "AEGIS_ROTATE",
    "Whether an issuer replaces its CA in time by itself.",
    type=click.Choice(["auto", "manual"]),
    default="auto",
)
@option("--cert-file", "AEGIS_CERT_FILE", f"The node's certificate, {_OWN_FILES}", metavar="FILE")
@option("--key-file", "AEGIS_KEY_FILE", f"Its key, {_OWN_FILES}", metavar="FILE")
@option("--ca-file", "AEGIS_CA_FILE", f"The CAs to trust, {_OWN_FILES}", metavar="FILE")
@option(
    "--policy",
    "AEGIS_POLICY",
    "A TOML file of rules for who may call and who may provide what; changes are reloaded.",
    metavar="FILE",
)
@option(
    "--workers",
    "AEGIS_WORKERS",
    "Run so many processes under this id, 1 to 64, or one on each core; each has a port of its "
    "own. SIGHUP replaces them one by one.",
    metavar="N|auto",
)
@option(
    "--reload",
    "AEGIS_RELOAD",
    "For development: replace the workers when a file of the program changes.",
    is_flag=True,
)
@option(
    "--metrics",
    "AEGIS_METRICS",
    "Serve metrics to Prometheus there, in plain HTTP; a port alone is one of the loopback "
    "interface. A worker adds its number.",
    metavar="[HOST:]PORT",
)
@option(
    "--telemetry",
    "AEGIS_TELEMETRY",
    "Report traces and metrics of calls to OpenTelemetry, as its SDK is set up in this process. It "
    "needs the extra `otel` of aegis-core.",
    is_flag=True,
)
@option(
    "--log-level",
    "AEGIS_LOG_LEVEL",
    "The least level of log lines that are shown.",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
)
@option(
    "--log-format",
    "AEGIS_LOG_FORMAT",
    "Log lines for people, or one JSON object a line.",
    type=click.Choice(["text", "json"]),
    default="text",
)
@json_flag
def run(
    config: str | None,
    registrars: tuple[str, ...],
    services: tuple[str, ...],
    cert_file: str | None,
    key_file: str | None,
    ca_file: str | None,
    reload: bool,
    log_level: str,
    log_format: str,
    json: bool,
    **options: Any,
) -> None:
    """Run a node until SIGTERM or Ctrl-C.

    MODULE:NAME is a function that adds gRPC services to the server it is given, or a list of such
    functions; modules are found in the current directory too. Without any, the node provides no
    service: use it as a seed peer.

    The first signal makes it leave the mesh; a second one ends it at once. So does SIGHUP, which
    a closed terminal sends, unless workers run. One line on standard
    output has the address at which it serves; changes of the mesh go to standard error.

    With --workers it runs several processes, each of which is a node, such as orders-1#2. Worker n
    listens at the given port + n. A worker that ends is started again.
    """
    parsed = [_parse_service(text) for text in services]
    own_files = _own_files(cert_file, key_file, ca_file)

    from aegis_core.errors import WorkerStartError
    from aegis_core.workers import asks_for_workers, supervise
    from aegis_discovery import ServiceInfo

    from aegis_cli._logs import log_to_stderr
    from aegis_cli._node_runner import run_alone

    # `main` lets commands end without a search for cycles. A user's objects may rely on it: a file
    # in a cycle is flushed by it.
    atexit.unregister(gc.freeze)
    sys.path.insert(0, str(Path.cwd()))
    log_to_stderr(log_level, log_format)
    # The node reads the variables and the file itself, so the precedence is the same everywhere.
    source_of = click.get_current_context().get_parameter_source
    options["services"] = [ServiceInfo(*parts) for parts in parsed]
    given = {
        name: value
        for name, value in options.items()
        if source_of(name) is click.core.ParameterSource.COMMANDLINE
    }
    if own_files is not None:
        given["tls_options"] = own_files
    has_workers = asks_for_workers(registrars, given, config)
    if has_workers or reload:
        try:
            supervise(
                registrars,
                given if has_workers else {**given, "workers": 1},
                config=config,
                reload=reload,
                target="aegis_cli._node_runner:run_worker",
                arguments={"json": json, "log_level": log_level, "log_format": log_format},
            )
        except WorkerStartError as error:
            fail(str(error), max(1, error.exit_code))
    else:
        run_alone(registrars, given, config=config, json=json)


def _parse_service(text: str) -> tuple[str, str, str]:
    name, slash, version = text.partition("/")
    version, at, scope = version.partition("@")
    if not (name and slash and version) or "/" in version or (at and scope != "region"):
        raise click.BadParameter(
            f"{text!r} is not NAME/VERSION, such as orders/v1, or NAME/VERSION@region",
            param_hint="--service",
        )
    return name, version, scope or "mesh"


def _own_files(
    cert_file: str | None, key_file: str | None, ca_file: str | None
) -> TLSOptions | None:
    files = {"--cert-file": cert_file, "--key-file": key_file, "--ca-file": ca_file}
    missing = [name for name, file in files.items() if file is None]
    if len(missing) == len(files):
        return None
    if missing:
        raise click.UsageError(f"{' and '.join(missing)} must be given too")

    from aegis_certs import TLSOptions

    return TLSOptions(cert_file=cert_file, key_file=key_file, ca_file=ca_file)
