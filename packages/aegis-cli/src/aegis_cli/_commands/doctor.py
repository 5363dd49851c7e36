"""`aegis doctor`: one report on an identity and its mesh."""

from __future__ import annotations

from typing import Any

import click
from aegis_certs.cli import examples

from aegis_cli._options import CHECK_FAILED, check, connecting


@click.command(
    epilog=examples(
        "aegis doctor",
        "aegis doctor --node 127.0.0.1:50051",
        "aegis doctor --node 10.0.0.7:50051 --identity ops --check",
    )
)
@connecting
@check
def doctor(json: bool, check: bool, **options: Any) -> None:
    """Find what is wrong with this machine and the mesh.

    It says what to do about it. It examines the certificate directory, the identity and, with
    --node or --registry, the mesh: whether each node answers from here and is healthy, whether
    clocks differ, addresses that others cannot use, certificates and CAs that end, nodes that trust
    other CAs, mixed versions, and nodes that know other nodes than the rest.
    """
    from dataclasses import replace
    from datetime import UTC, datetime

    from aegis_certs import CertsError

    from aegis_cli._identity import client_identity
    from aegis_cli._mesh.connecting import MeshPlace
    from aegis_cli._mesh.diagnose import examine_directory, examine_identity, examine_mesh
    from aegis_cli._output.show import show
    from aegis_cli._run import run
    from aegis_cli._view.diagnosis import Diagnosis, report
    from aegis_cli.errors import CliError

    cert_dir, identity = options["cert_dir"], options["identity"]
    found = examine_directory(cert_dir)
    try:
        tls = client_identity(cert_dir, identity)
    except (CertsError, CliError) as error:
        if str(error) not in (one.text for one in found):
            found.append(Diagnosis("identity", "problem", str(error)))
        if options["node"] or options["registry"]:
            found.append(Diagnosis("mesh", "skipped", "there is no identity to read it with"))
    else:
        found.append(examine_identity(tls))
        node, registry = options["node"], options["registry"]
        if node is not None and registry is not None:
            raise click.UsageError("name one node of the mesh by --node, or its --registry")
        if node is None and registry is None:
            advice = "name a node with --node, or a registry with --registry, to examine the mesh"
            found.append(Diagnosis("mesh", "skipped", advice))
        else:
            place = MeshPlace(node, lambda: tls, options["mesh"], registry=registry)
            found += run(examine_mesh(place))
    named = [replace(one, text=one.text.replace("`aegis-certs ", "`aegis certs ")) for one in found]
    answer = report(named, datetime.now(UTC))
    show(answer, json=json)
    if check and answer.wrong:
        click.get_current_context().exit(CHECK_FAILED)
