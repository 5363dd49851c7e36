"""Only the CA's authority can order a node to drain, and only its present process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, DocumentSigner, KeyType, TLSConfig
from aegis_cli.cli import aegis
from aegis_core.aio import Node
from aegis_discovery import DEFAULT_MESH, InvalidDocumentError
from aegis_discovery.documents import (
    DocumentKind,
    Forgotten,
    SignedDocument,
    encode_forgotten,
    sign_document,
)
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
        assert (unknown.exit_code, "no such node" in unknown.output) == (1, True)
        keyless = await asyncio.to_thread(
            CliRunner().invoke,
            aegis,
            ["mesh", "drain", "b", "--node", issuer.address, "--cert-dir", str(tmp_path / "no")],
        )
        assert "run this command where the CA's key is" in keyless.output
    finally:
        await asyncio.gather(*(node.stop(grace=0) for node in nodes))
