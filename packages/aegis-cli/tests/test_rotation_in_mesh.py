"""A rotation of the CA that looks at the mesh before each step."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_cli.cli import aegis
from aegis_core import Node
from click.testing import CliRunner, Result


@pytest.fixture
def own_ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256)


@pytest.fixture
def nodes(own_ca: CertificateAuthority, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """One node on the CA's own directory, and one on a copy that nobody updates."""
    for node_id in ("near", "far"):
        own_ca.issue(node_id, key_type=KeyType.P256)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(own_ca.directory, elsewhere)
    (elsewhere / "ca-key.pem").unlink()
    with (
        Node("near", address="127.0.0.1:0", cert_dir=own_ca.directory, grace=0) as near,
        Node(
            "far",
            address="127.0.0.1:0",
            cert_dir=elsewhere,
            seed_peers=[near.address],
            grace=0,
        ) as far,
    ):
        yield near, far


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_step_waits_for_the_nodes_that_are_not_ready(
    own_ca: CertificateAuthority, nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    near, far = nodes
    directory = str(own_ca.directory)

    def rotate(step: str, *options: str) -> Result:
        arguments = ["certs", "rotate-ca", step, "--dir", directory, *options]
        return CliRunner().invoke(aegis, arguments)

    def known(node_id: str) -> str:
        return near.topology.nodes[node_id].trust_bundle

    assert rotate("prepare").exit_code == 0
    prepared = own_ca.rotation()
    wait_for(lambda: prepared.trusts(known("near")))
    refused = rotate("activate", "--node", near.address)
    assert refused.exit_code != 0
    assert "far" in refused.output
    assert "near" not in refused.output.replace(near.address, "")

    bundle = tmp_path / "elsewhere" / "ca-cert.pem"
    bundle.write_bytes((own_ca.directory / "ca-cert.pem").read_bytes())
    wait_for(lambda: prepared.trusts(known("far")))
    activated = rotate("activate", "--node", near.address, "--json")
    assert activated.exit_code == 0, activated.output
    assert json.loads(activated.stdout)["phase"] == "activated"

    wait_for(lambda: near.tls.certificate.issuer == own_ca.certificate.subject)
    in_use = rotate("retire", "--node", near.address)
    assert in_use.exit_code != 0
    assert "far" in in_use.output
    renewed = own_ca.issue("far", key_type=KeyType.P256)
    for name in ("far-cert.pem", "far-key.pem"):
        fresh = (own_ca.directory / name).read_bytes()
        (tmp_path / "elsewhere" / name).write_bytes(fresh)
    wait_for(lambda: near.get_certificate("far") == renewed.certificate)
    retired = rotate("retire", "--node", near.address)
    assert retired.exit_code == 0, retired.output
    assert len(near.topology.nodes) == len(far.topology.nodes) == 2


def test_the_help_tells_what_a_look_at_the_mesh_is_for() -> None:
    shown = CliRunner().invoke(aegis, ["certs", "rotate-ca", "activate", "--help"]).output
    assert "--node" in shown
    assert "which nodes trust the new CA already" in " ".join(shown.split())
