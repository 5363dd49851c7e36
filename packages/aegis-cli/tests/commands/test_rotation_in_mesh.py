"""A rotation of the CA that asks the mesh before each step."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_cli.cli import aegis
from aegis_core import Node, PeerInfo
from aegis_discovery.proto import aegis_pb2
from click.testing import CliRunner, Result


@pytest.fixture
def own_ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256)


@pytest.fixture
def nodes(own_ca: CertificateAuthority, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """One node in the directory of the CA, and one in a copy that is never updated."""
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


@contextmanager
def calling(*pairs: tuple[Node, str]) -> Iterator[list[int]]:
    """Calls without pause while the block runs; fails if one call fails."""
    stop, calls = threading.Event(), [0] * len(pairs)

    def call(index: int) -> None:
        node, peer_id = pairs[index]
        while not stop.wait(0.005):
            node.ping_peer(peer_id)
            calls[index] += 1

    with ThreadPoolExecutor(len(pairs)) as threads:
        outcomes = [threads.submit(call, index) for index in range(len(pairs))]
        try:
            yield calls
        finally:
            stop.set()
        for outcome in outcomes:
            outcome.result()


def rotate(ca: CertificateAuthority, step: str, *options: str) -> Result:
    arguments = ["certs", "rotate-ca", step, "--dir", str(ca.directory), *options]
    return CliRunner().invoke(aegis, arguments)


def renew_far(ca: CertificateAuthority, elsewhere: Path, near: Node) -> None:
    """Issues a new leaf for the node in the copy, and copies its two files there."""
    renewed = ca.issue("far", key_type=KeyType.P256)
    for name in ("far-cert.pem", "far-key.pem"):
        (elsewhere / name).write_bytes((ca.directory / name).read_bytes())
    wait_for(lambda: near.get_certificate("far") == renewed.certificate)


def wait_for_new_leaf(ca: CertificateAuthority, node: Node) -> None:
    """Waits until a node publishes a record signed with a leaf of the present issuing CA."""
    issuer = CertificateAuthority.load(ca.directory).certificate.subject  # a command changed it

    def is_new() -> bool:
        certificate = node.get_certificate(node.id)
        return certificate is not None and certificate.issuer == issuer

    wait_for(is_new)


def test_each_step_waits_for_nodes_that_are_not_ready_and_no_call_fails(
    own_ca: CertificateAuthority, nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    near, far = nodes
    elsewhere = tmp_path / "elsewhere"

    def known(node_id: str) -> str:
        return near.topology.nodes[node_id].trust_bundle

    with calling((near, "far"), (far, "near")) as calls:
        assert rotate(own_ca, "prepare").exit_code == 0
        prepared = own_ca.rotation()
        wait_for(lambda: prepared.trusts(known("near")))
        refused = rotate(own_ca, "activate", "--node", near.address)
        assert refused.exit_code != 0
        assert "far" in refused.output
        assert "near" not in refused.output.replace(near.address, "")

        bundle = (own_ca.directory / "ca-cert.pem").read_bytes()
        (elsewhere / "ca-cert.pem").write_bytes(bundle)
        wait_for(lambda: prepared.trusts(known("far")))
        activated = rotate(own_ca, "activate", "--node", near.address, "--json")
        assert activated.exit_code == 0, activated.output
        assert json.loads(activated.stdout)["phase"] == "activated"

        wait_for_new_leaf(own_ca, near)
        in_use = rotate(own_ca, "retire", "--node", near.address)
        assert in_use.exit_code != 0
        assert "far" in in_use.output
        renew_far(own_ca, elsewhere, near)
        retired = rotate(own_ca, "retire", "--node", near.address)
        assert retired.exit_code == 0, retired.output
        wait_for(lambda: known("near") == own_ca.rotation().bundle_fingerprint)
        reached = list(calls)
        wait_for(lambda: all(now > then + 5 for now, then in zip(calls, reached, strict=True)))
    assert len(near.topology.nodes) == len(far.topology.nodes) == 2


def test_an_activation_requires_confirm_if_a_node_is_not_ready_or_none_was_asked(
    own_ca: CertificateAuthority, nodes: tuple[Node, Node]
) -> None:
    near, _ = nodes
    assert rotate(own_ca, "prepare").exit_code == 0
    wait_for(lambda: own_ca.rotation().trusts(near.topology.nodes["near"].trust_bundle))
    without_mesh = rotate(own_ca, "activate")
    assert without_mesh.exit_code != 0
    assert all(word in without_mesh.output for word in ("near", "far", "--confirm"))
    asked = rotate(own_ca, "activate", "--node", near.address)
    assert asked.exit_code != 0
    assert all(word in asked.output for word in ("far", "--confirm"))
    assert own_ca.rotation().phase == "prepared", "a refused step changes nothing"
    confirmed = rotate(own_ca, "activate", "--node", near.address, "--confirm")
    assert confirmed.exit_code == 0, confirmed.output
    assert own_ca.rotation().phase == "activated"


def test_a_ca_is_not_retired_while_a_leaf_of_it_is_used_even_with_confirm(
    own_ca: CertificateAuthority, nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    near, _ = nodes
    assert rotate(own_ca, "prepare").exit_code == 0
    assert rotate(own_ca, "activate", "--confirm").exit_code == 0
    wait_for_new_leaf(own_ca, near)
    # The mesh was not asked: the inventory alone knows that `far` has a leaf of the old CA.
    refused = rotate(own_ca, "retire")
    assert refused.exit_code != 0
    assert "far" in refused.output
    assert rotate(own_ca, "retire", "--confirm").exit_code != 0
    assert own_ca.rotation().phase == "activated"
    # The mesh alone knows that `far` does not use its new leaf yet.
    own_ca.issue("far", key_type=KeyType.P256)
    in_use = rotate(own_ca, "retire", "--node", near.address)
    assert in_use.exit_code != 0
    assert "far" in in_use.output
    bundle = (own_ca.directory / "ca-cert.pem").read_bytes()
    (tmp_path / "elsewhere" / "ca-cert.pem").write_bytes(bundle)
    renew_far(own_ca, tmp_path / "elsewhere", near)
    assert rotate(own_ca, "retire", "--node", near.address).exit_code == 0


def test_a_step_that_asks_the_mesh_takes_the_passphrase_and_does_not_block_the_next(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim\n")
    ca = CertificateAuthority.create(tmp_path / "c", key_type=KeyType.P256, passphrase="geheim")
    ca.issue("near", key_type=KeyType.P256)
    given = ("--passphrase-file", str(secret))
    with Node("near", address="127.0.0.1:0", cert_dir=ca.directory, grace=0) as near:
        assert rotate(ca, "prepare", *given).exit_code == 0
        wait_for(lambda: ca.rotation().trusts(near.topology.nodes["near"].trust_bundle))
        activated = rotate(ca, "activate", "--node", near.address, *given)
        assert activated.exit_code == 0, activated.output
        ca.renew_due()
        retired = rotate(ca, "retire", *given)
        assert retired.exit_code == 0, retired.output


@pytest.fixture
def go_node(own_ca: CertificateAuthority) -> Iterator[PeerInfo]:
    """A node that speaks only the unsigned protocol, and so publishes no signed record."""
    tls = own_ca.issue("go-1", address="127.0.0.1", key_type=KeyType.P256)
    known = aegis_pb2.TopologySyncResponse(version=1, nodes=[aegis_pb2.TopologyNode(id="go-1")])
    handler = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: known,
        request_deserializer=aegis_pb2.TopologySyncRequest.FromString,
        response_serializer=aegis_pb2.TopologySyncResponse.SerializeToString,
    )
    describe = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: aegis_pb2.NodeInfoResponse(id="go-1"),
        request_deserializer=aegis_pb2.NodeInfoRequest.FromString,
        response_serializer=aegis_pb2.NodeInfoResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_registered_method_handlers(
        "aegis.MeshService", {"SyncTopology": handler, "GetNodeInfo": describe}
    )
    pair = (tls.private_key, tls.certificate_chain)
    credentials = grpc.ssl_server_credentials([pair], tls.trust_bundle, True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    known.nodes[0].address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield PeerInfo("go-1", known.nodes[0].address)
    finally:
        server.stop(0).wait()


def test_a_node_that_others_vouch_for_does_not_count_as_ready(
    own_ca: CertificateAuthority, go_node: PeerInfo
) -> None:
    own_ca.issue("near", key_type=KeyType.P256)
    with Node("near", address="127.0.0.1:0", cert_dir=own_ca.directory, grace=0) as near:
        near.add_peer(go_node)
        wait_for(lambda: "go-1" in near.topology.nodes)
        ask = ("--node", near.address)
        assert rotate(own_ca, "prepare").exit_code == 0
        wait_for(lambda: own_ca.rotation().trusts(near.topology.nodes["near"].trust_bundle))
        refused = rotate(own_ca, "activate", *ask)
        assert refused.exit_code != 0
        assert "cannot be seen: go-1" in refused.output
        assert "not known to trust the new CA yet (go-1)" in refused.output
        assert rotate(own_ca, "activate", *ask, "--confirm").exit_code == 0

        wait_for_new_leaf(own_ca, near)
        own_ca.issue("go-1", key_type=KeyType.P256)  # whether it is in use is unknown
        refused = rotate(own_ca, "retire", *ask)
        assert refused.exit_code != 0
        assert "cannot be seen (go-1)" in refused.output
        assert own_ca.rotation().phase == "activated"
        retired = rotate(own_ca, "retire", *ask, "--confirm")
        assert retired.exit_code == 0, retired.output


def test_the_help_explains_the_node_option() -> None:
    shown = CliRunner().invoke(aegis, ["certs", "rotate-ca", "activate", "--help"]).output
    assert "--node" in shown
    assert "which nodes trust the new CA already" in " ".join(shown.split())
