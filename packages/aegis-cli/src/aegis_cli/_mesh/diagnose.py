"""Examines an identity, its directory, and the mesh that it reaches."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from aegis_certs import CertsError, TLSConfig
from aegis_certs.cli import examine
from aegis_discovery.errors import DiscoveryError

from aegis_cli._mesh.connecting import MeshPlace, reading
from aegis_cli._view.diagnosis import Diagnosis, examine_view
from aegis_cli._view.model import CertificateSeen
from aegis_cli.errors import CliError

_PARTS = ("topology_nodes", "versions")


def examine_directory(directory: str) -> list[Diagnosis]:
    """What `aegis certs doctor` finds, without what is well."""
    try:
        found = examine(directory)
    except CertsError as error:
        return [Diagnosis("directory", "problem", str(error))]
    wrong = [
        Diagnosis(one.topic, one.level, one.text)
        for one in found
        # What is skipped for an error is behind a problem that is in the list.
        if one.level != "ok" and not (one.level == "skipped" and one.error)
    ]
    return wrong or [Diagnosis("directory", "ok", f"nothing is wrong in {directory}")]


def examine_identity(tls: TLSConfig) -> Diagnosis:
    """Whether the identity that this command uses is valid, and for how long."""
    leaf = tls.certificate
    seen = CertificateSeen(tls.node_id, "", leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    now = datetime.now(UTC)
    text = f"this command is {tls.node_id}, whose certificate is valid for {seen.left(now)}"
    if leaf.not_valid_before_utc > now:
        text = f"the certificate of {tls.node_id} is not valid yet; is this machine's clock right?"
        return Diagnosis("identity", "problem", text)
    if seen.style(now) == "red":
        text = f"the certificate of {tls.node_id} has expired; renew it with `aegis certs renew`"
        return Diagnosis("identity", "problem", text)
    return Diagnosis("identity", "ok", text)


async def examine_mesh(place: MeshPlace) -> Iterable[Diagnosis]:
    """Asks every node of the mesh."""
    try:
        async with reading(place) as reader:
            view = await reader.read(of_all=_PARTS, replies=True)
    except (DiscoveryError, CliError) as error:
        return [Diagnosis("mesh", "problem", f"the mesh cannot be read: {error}")]
    return list(examine_view(view))
