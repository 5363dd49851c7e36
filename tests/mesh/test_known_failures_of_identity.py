"""Known failures, as in `test_known_failures`, of certificates and keys."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import (
    CertificateAuthority,
    CertsError,
    InvalidNodeIdError,
    KeyType,
    UntrustedError,
    load_or_generate_tls,
)
from aegis_core import Node, TLSOptions
from aegis_discovery import connect
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc
from cryptography import x509

LONG_AGO = datetime.now(UTC) - timedelta(days=30)


FIRST_START = """
import sys
from aegis_core import Node

with Node(sys.argv[1], address="127.0.0.1:0", cert_dir=sys.argv[2], grace=0) as node:
    print(node.address, flush=True)
    sys.stdin.read()
"""


@contextmanager
def starting_together(directory: Path, *node_ids: str) -> Iterator[list[str]]:
    """Starts processes at the same time with umask 022; yields their addresses."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_START, node_id, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            umask=0o022,
        )
        for node_id in node_ids
    ]
    try:
        yield [process.stdout.readline().strip() for process in processes]  # type: ignore[union-attr]  # they have pipes
    finally:
        for process in processes:
            process.communicate(timeout=20)


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """Two processes that started at the same time on one empty directory with mode 755."""
    directory = tmp_path_factory.mktemp("first")
    directory.chmod(0o755)
    with starting_together(directory, "a", "b") as addresses:
        yield directory, addresses


def test_two_processes_on_one_empty_directory_end_with_certificates_that_chain(
    first_start: tuple[Path, list[str]],
) -> None:
    directory, addresses = first_start
    ca = x509.load_pem_x509_certificate((directory / "ca-cert.pem").read_bytes())
    client = load_or_generate_tls("client", directory, key_type=KeyType.P256)
    for node_id, address in zip("ab", addresses, strict=True):
        leaf = (directory / f"{node_id}-cert.pem").read_bytes()
        x509.load_pem_x509_certificate(leaf).verify_directly_issued_by(ca)
        with connect(f"{node_id}@{address}", tls=client) as mesh:
            assert list(mesh.topology.nodes) == [node_id]


def test_keys_are_readable_by_their_owner_only_under_umask_022(
    first_start: tuple[Path, list[str]],
) -> None:
    directory, _ = first_start
    keys = [path for path in directory.iterdir() if path.name.endswith("-key.pem")]
    assert len(keys) >= 3
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_a_node_id_cannot_make_files_outside_the_directory(tmp_path: Path) -> None:
    inside = tmp_path / "certs"
    inside.mkdir()
    for node_id in ("../x", "..", "/tmp/x", "a/../../x", "a\0b"):
        with pytest.raises(InvalidNodeIdError):
            Node(node_id, address="127.0.0.1:0", cert_dir=inside).start()
    assert [path.name for path in tmp_path.rglob("*")] == ["certs"]


@pytest.fixture
def old_ca(tmp_path: Path) -> CertificateAuthority:
    """A CA that is old enough to have issued certificates that have expired."""
    return CertificateAuthority.create(tmp_path / "old", key_type=KeyType.P256, at=LONG_AGO)


def files_of(ca: CertificateAuthority, bundle: CertificateAuthority, **more: Any) -> TLSOptions:
    """Issues an expired identity as files."""
    ca.issue("a", key_type=KeyType.P256, days=1, at=LONG_AGO)
    return TLSOptions(
        cert_file=ca.directory / "a-cert.pem",
        key_file=ca.directory / "a-key.pem",
        ca_file=bundle.directory / "ca-cert.pem",
        **more,
    )


def test_an_expired_certificate_is_an_error_at_start(old_ca: CertificateAuthority) -> None:
    node = Node("a", address="127.0.0.1:0", tls_options=files_of(old_ca, old_ca))
    with pytest.raises(CertsError, match="the certificate of a expired at"):
        node.start()


def test_allowing_expiry_does_not_skip_the_chain_check(
    old_ca: CertificateAuthority, ca: CertificateAuthority
) -> None:
    options = files_of(old_ca, bundle=ca, allow_expired=True)
    with pytest.raises(UntrustedError):
        Node("a", address="127.0.0.1:0", tls_options=options).start()


def test_no_certificate_is_valid_for_localhost_or_for_another_node(
    ca: CertificateAuthority, identity: Any
) -> None:
    client = identity("client")
    with Node("host", address="localhost:0", cert_dir=ca.directory, grace=0) as node:
        names = node.tls.certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.DNSName)
        assert names == ["host"]

        def ping(server_name: str) -> str:
            credentials = grpc.ssl_channel_credentials(
                client.trust_bundle, client.private_key, client.certificate_chain
            )
            options = [("grpc.ssl_target_name_override", server_name)]
            with grpc.secure_channel(node.address, credentials, options) as channel:
                stub = aegis_pb2_grpc.MeshServiceStub(channel)
                return str(stub.Ping(aegis_pb2.PingRequest(), timeout=10).receiver_id)

        assert ping("host") == "host"
        for other in ("localhost", "127.0.0.1", "a"):
            with pytest.raises(grpc.RpcError):
                ping(other)
