"""Only the CA's authority, or whom a policy names, can drain a node, and its present process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, DocumentSigner, KeyType, TLSConfig
from aegis_cli.cli import aegis
from aegis_core import CallRule, Policy
from aegis_core.aio import Node
from aegis_discovery import DEFAULT_MESH, InvalidDocumentError
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.documents import (
    DocumentKind,
    Forgotten,
    SignedDocument,
    encode_forgotten,
    sign_document,
)
from aegis_discovery.proto import operations_pb2, operations_pb2_grpc
from click.testing import CliRunner


def order(signer: DocumentSigner, node_id: str, instance: str) -> SignedDocument:
    now = round(time.time() * 1000)
    content = encode_forgotten([Forgotten(node_id, instance, now)])
    return sign_document(DocumentKind.DRAIN, content, now, signer, mesh=DEFAULT_MESH)


def as_signer(tls: TLSConfig) -> DocumentSigner:
    """Lets any identity sign as the authority does."""
    return DocumentSigner(tls.certificate, tls.key, tls.trust_domain or "")


async def test_what_others_than_the_authority_sign_drains_nobody(
    tmp_path: Path, until: Any
) -> None:
    ca = CertificateAuthority.create(tmp_path / "ca", key_type=KeyType.P256)
    stranger = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    member = ca.issue("mallory", key_type=KeyType.P256)
    node = Node("a", address="127.0.0.1:0", tls=ca.issue("a", key_type=KeyType.P256))
    await node.start()
    try:
        documents, own = node._parts.state.documents, node._parts.state.instance
        signers = (as_signer(member), as_signer(node.tls), stranger.document_signer())
        for signer in signers:
            with pytest.raises(InvalidDocumentError):
                documents.receive(order(signer, "a", own))
        authority = ca.document_signer()
        good = order(authority, "a", own)
        with pytest.raises(InvalidDocumentError):
            documents.receive(good._replace(body=good.body.replace(b'"a"', b'"b"')))
        # Signed, but of another node, or of an earlier process under this id.
        assert documents.receive(order(authority, "b", own))
        await asyncio.sleep(0.002)  # sequences are milliseconds
        assert documents.receive(order(authority, "a", "an earlier life"))
        await asyncio.sleep(0)
        assert node.topology.get_node("a") is not None
        assert documents.receive(good) is None  # it is older than what is held
        await asyncio.sleep(0.002)
        assert documents.receive(order(authority, "a", own))
        await asyncio.wait_for(node.wait_for_termination(), 30)
    finally:
        await node.stop(grace=0)


async def test_a_node_is_drained_where_the_key_of_the_ca_is_and_may_come_back(
    tmp_path: Path, until: Any
) -> None:
    ca = CertificateAuthority.create(tmp_path / "ca", key_type=KeyType.P256)

    def run(*words: str) -> Any:
        command = ["mesh", "drain", *words, "--cert-dir", str(ca.directory)]
        return asyncio.to_thread(CliRunner().invoke, aegis, command)

    async def start(node_id: str, *seeds: str, **options: Any) -> Node:
        tls = {} if options else {"tls": ca.issue(node_id, key_type=KeyType.P256)}
        node = Node(node_id, address="127.0.0.1:0", seed_peers=seeds, **tls, **options)
        await node.start()
        return node

    ca.issue("ca-1", key_type=KeyType.P256)
    issuer = await start("ca-1", cert_dir=ca.directory, issuer=True)
    nodes = [issuer]
    try:
        nodes.append(await start("b", issuer.address))
        await until(lambda: "b" in issuer.topology.nodes)
        done = await run("b", "--node", issuer.address)
        assert done.exit_code == 0, done.output
        assert "b has left the mesh" in done.output
        await asyncio.wait_for(nodes[1].wait_for_termination(), 30)
        nodes.append(await start("b", issuer.address))
        await until(lambda: "b" in issuer.topology.nodes)
        assert nodes[2].failure is None
        unknown = await run("x", "--node", issuer.address)
        assert (unknown.exit_code, "knows no node x" in unknown.output) == (1, True)
        keyless = await asyncio.to_thread(
            CliRunner().invoke,
            aegis,
            ["mesh", "drain", "b", "--node", issuer.address, "--cert-dir", str(tmp_path / "no")],
        )
        assert "run this command where the CA's key is" in keyless.output
    finally:
        await asyncio.gather(*(node.stop(grace=0) for node in nodes))


async def ask(caller: TLSConfig, node: Node, instance: str) -> None:
    """The call with which an operator drains a node."""
    async with open_channel(caller, node.tls.node_id, node.address) as channel:
        stub = operations_pb2_grpc.OperationsStub(channel)
        await stub.Drain(operations_pb2.DrainRequest(instance=instance), timeout=10)


EVERYBODY = CallRule(ids=["*"], services=["*"])
NAMED = CallRule(ids=["ops"], services=["aegis.mesh.v1.Operations"])
TYPED = CallRule(types=["operator"], services=["aegis.mesh.v1.Operations"])


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
@pytest.mark.parametrize(
    "policy",
    [
        None,
        Policy(call=[EVERYBODY]),
        Policy(call=[EVERYBODY, TYPED]),
        Policy(call=[EVERYBODY, CallRule(ids=["*"], services=["aegis.mesh.v1.*"])]),
        Policy(call=[NAMED], published=Policy(call=[EVERYBODY])),
        Policy(call=[EVERYBODY], published=Policy(call=[NAMED])),
        Policy(call=[CallRule(ids=["ops-2"], services=["aegis.mesh.v1.Operations"])]),
    ],
    ids=["none", "all", "type", "pattern", "own only", "published only", "another"],
)
async def test_no_member_drains_a_node_whose_policy_does_not_name_it(
    server: str, policy: Policy | None, identity: Any
) -> None:
    node = Node("a", address="127.0.0.1:0", tls=identity("a"), policy=policy)
    await node.start()
    ops = Node(
        "ops",
        address="127.0.0.1:0",
        tls=identity("ops"),
        type="operator",
        seed_peers=[node.address],
    )
    await ops.start()
    try:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(identity("ops"), node, node._parts.state.instance)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "rule" not in (refused.value.details() or "")
        assert node.topology.get_node("a") is not None
    finally:
        await asyncio.gather(ops.stop(grace=0), node.stop(grace=0))


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_who_is_named_drains_the_present_process_and_no_worker(
    server: str, identity: Any
) -> None:
    node = Node("a", address="127.0.0.1:0", tls=identity("a"), policy=Policy(call=[NAMED]))
    worker = Node("b#0", address="127.0.0.1:0", tls=identity("b"), policy=Policy(call=[NAMED]))
    await asyncio.gather(node.start(), worker.start())
    try:
        for one, instance in ((node, "an earlier life"), (worker, worker._parts.state.instance)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(identity("ops"), one, instance)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        await ask(identity("ops"), node, node._parts.state.instance)
        await asyncio.wait_for(node.wait_for_termination(), 30)
        assert worker.topology.get_node("b#0") is not None
    finally:
        await asyncio.gather(node.stop(grace=0), worker.stop(grace=0))


async def test_the_command_drains_with_an_identity_that_the_policy_names(
    tmp_path: Path, until: Any
) -> None:
    ca = CertificateAuthority.create(tmp_path / "ca", key_type=KeyType.P256)
    ca.issue("ops", key_type=KeyType.P256)
    ca.issue("dev", key_type=KeyType.P256)
    node = Node(
        "a",
        address="127.0.0.1:0",
        tls=ca.issue("a", key_type=KeyType.P256),
        policy=Policy(call=[NAMED]),
    )
    await node.start()
    worker = Node(
        "w#0",
        address="127.0.0.1:0",
        tls=ca.issue("w", key_type=KeyType.P256),
        seed_peers=[node.address],
        policy=Policy(call=[NAMED]),
    )
    await worker.start()
    await until(lambda: "w#0" in node.topology.nodes)
    place = ["--node", node.address, "--cert-dir", str(ca.directory)]

    async def run(*words: str) -> Any:
        command = ["mesh", "drain", *words, *place]
        return await asyncio.to_thread(CliRunner().invoke, aegis, command)

    try:
        refused = await run("a", "--identity", "dev")
        assert refused.exit_code == 1
        assert "its policy does not let this identity drain it" in refused.output
        for order in (("w#0", "--identity", "ops"), ("w#0",)):  # nor by the authority
            refused = await run(*order)
            assert (refused.exit_code, "it is a worker" in refused.output) == (1, True)
        done = await run("a", "--identity", "ops")
        assert done.exit_code == 0, done.output
        await asyncio.wait_for(node.wait_for_termination(), 30)
    finally:
        await asyncio.gather(node.stop(grace=0), worker.stop(grace=0))
