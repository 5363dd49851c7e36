"""Many processes start on one empty directory at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, TrustBundle, list_certificates
from aegis_certs._ca import audit_log
from aegis_certs._ca.inventory import Inventory
from aegis_certs._store.directory import Store
from aegis_certs._x509.pem import parse_certificates

START = """
import sys
from aegis_certs import KeyType, load_or_generate_tls
import aegis_certs._identity.load_or_generate
print("ready", flush=True)
sys.stdin.readline()
tls = load_or_generate_tls(sys.argv[1], sys.argv[2], key_type=KeyType.P256)
tls.bundle.verify(tls.chain, "server")
sys.stdout.buffer.write(tls.certificate_chain + tls.trust_bundle)
"""


def start_at_once(script: str, arguments: list[list[str]]) -> list[bytes]:
    """Starts one process for each list of arguments, and returns their outputs."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *each],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for each in arguments
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    outputs = []
    for process in processes:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
        outputs.append(output)
    return outputs


@pytest.mark.parametrize(
    ("processes", "identities"),
    [(12, 8), pytest.param(30, 30, marks=pytest.mark.soak)],
)
def test_many_processes_on_an_empty_directory_end_with_one_ca(
    directory: Path, processes: int, identities: int
) -> None:
    node_ids = [f"node-{number % identities}" for number in range(processes)]
    outputs = start_at_once(START, [[node_id, str(directory)] for node_id in node_ids])
    ca = CertificateAuthority.load(directory)
    leaves = {}
    for node_id, output in zip(node_ids, outputs, strict=True):
        leaf, root = parse_certificates(output)
        assert root == ca.certificate
        assert TrustBundle([root]).verify([leaf], "client").node_id == node_id
        assert leaves.setdefault(node_id, leaf) == leaf
    assert len({leaf.serial_number for leaf in leaves.values()}) == identities
    assert {entry.state for entry in list_certificates(directory)} == {"valid"}


WORK = """
import random, sys, time
from aegis_certs import (
    CertificateAuthority, CertsError, IdentitySource, KeyType, TrustBundle, list_certificates,
)
import aegis_certs._identity.source
node_id, directory, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
rng, done = random.Random(node_id), 0
source = IdentitySource.directory(node_id, directory, key_type=KeyType.P256)
roots, until = {source.load().bundle.certificates[0]}, time.monotonic() + seconds
while time.monotonic() < until:
    act = rng.randrange(5)
    if act == 0:
        source.renew()
    elif act == 1:
        ca = CertificateAuthority.load(directory)
        ca.issue(f"{node_id}-{'abc'[done % 3]}", key_type=KeyType.P256)
    elif act == 2:
        list_certificates(directory)
        source.revocations()
    elif act == 3:
        ca = CertificateAuthority.load(directory)
        ca.revoke(ca.issue(node_id + "-r", key_type=KeyType.P256).node_id)
    else:
        other = IdentitySource.directory(node_id, directory)
        tls = other.load()
        tls.bundle.verify(tls.chain, "server")
    tls = source.poll() or source.current
    tls.bundle.verify(tls.chain, "client")
    roots.add(tls.bundle.certificates[0])
    done += 1
assert len(roots) == 1, roots
print(done)
"""


@pytest.mark.parametrize(
    ("processes", "seconds"), [(8, 1.0), pytest.param(16, 10.0, marks=pytest.mark.soak)]
)
def test_many_processes_issue_renew_revoke_and_read_one_directory(
    directory: Path, processes: int, seconds: float
) -> None:
    names = [f"node-{number // 2}" for number in range(processes)]  # two processes each
    outputs = start_at_once(WORK, [[name, str(directory), str(seconds)] for name in names])
    assert all(int(output) > 0 for output in outputs)
    store = Store(directory)
    serials = [entry.serial for entry in Inventory.load(store)]
    logged = [
        line["certificate"]["serial"]
        for line in audit_log.lines(store.audit_path)
        if "certificate" in line
    ]
    assert len(set(serials)) == len(serials) == len(logged)
    assert sum(line["action"] == "create-ca" for line in audit_log.lines(store.audit_path)) == 1
    for name in store.names():
        pair = store.pair(name)
        assert pair is not None
        assert f"{pair.chain[0].serial_number:x}" in serials
