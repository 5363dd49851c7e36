"""Many processes start on one empty directory at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from aegis_certs import CertificateAuthority, TrustBundle, list_certificates
from aegis_certs._pem import parse_certificates

START = """
import sys
from aegis_certs import KeyType, load_or_generate_tls
import aegis_certs._lifecycle
print("ready", flush=True)
sys.stdin.readline()
tls = load_or_generate_tls(sys.argv[1], sys.argv[2], key_type=KeyType.P256)
tls.bundle.verify(tls.chain, "server")
sys.stdout.buffer.write(tls.certificate_chain + tls.trust_bundle)
"""


def start_at_once(directory: Path, node_ids: list[str]) -> list[bytes]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START, node_id, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for node_id in node_ids
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        outputs.append(output)
    return outputs


def test_twelve_processes_on_an_empty_directory_end_with_one_ca(directory: Path) -> None:
    node_ids = [f"node-{number % 8}" for number in range(12)]  # some share an identity
    outputs = start_at_once(directory, node_ids)
    ca = CertificateAuthority.load(directory)
    leaves = {}
    for node_id, output in zip(node_ids, outputs, strict=True):
        leaf, root = parse_certificates(output)
        assert root == ca.certificate
        assert TrustBundle([root]).verify([leaf], "client").node_id == node_id
        assert leaves.setdefault(node_id, leaf) == leaf
    assert len({leaf.serial_number for leaf in leaves.values()}) == 8
    assert {entry.state for entry in list_certificates(directory)} == {"valid"}
