"""On a full disk nothing is half done, and a certificate can be revoked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

IN_OWN_MOUNTS = ("unshare", "--mount", "--map-root-user")

SETUP = """
import contextlib, json, os, subprocess, sys
from pathlib import Path
from aegis_certs import CertificateAuthority, DirectoryError, KeyType, list_certificates
from aegis_certs._ca.inventory import Inventory
from aegis_certs._store.directory import Store

disk, PAGE, P256 = Path(sys.argv[1]), os.sysconf("SC_PAGESIZE"), KeyType.P256
options = ["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(disk)]
subprocess.run(["mount", *options], check=True)
certs, filler = disk / "certs", disk / "filler"
ca = CertificateAuthority.create(certs, key_type=P256)

def fill(free=0):
    "Leaves this many pages of the disk free."
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(PAGE))
    os.truncate(filler, filler.stat().st_size - free * PAGE)

def state():
    listed = [(one.id, str(one.state)) for one in list_certificates(certs)]
    recorded = [entry.serial for entry in Inventory.load(Store(certs))]
    return [listed, recorded, sorted(path.name for path in certs.iterdir())]
"""


@pytest.fixture
def on_disk(tmp_path: Path) -> Any:
    """Runs a script after `SETUP`, on a small disk that only it sees; it ends with its result."""
    if subprocess.run([*IN_OWN_MOUNTS, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk, even in a namespace of its own")

    def run(script: str) -> Any:
        command = [*IN_OWN_MOUNTS, sys.executable, "-c", SETUP + script, str(tmp_path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_an_issue_on_a_full_disk_is_done_or_not_done(on_disk: Any) -> None:
    outcomes = on_disk("""
ca.issue("node-1", key_type=P256)
outcomes = []
for free in range(12):
    before, issued = state(), True
    fill(free)
    try:
        ca.issue(f"new-{free}", key_type=P256)
    except DirectoryError:
        issued = False
    after = state()
    filler.unlink()
    ca.rotation()  # takes the lock, so that an interrupted install would be finished
    settled = state()
    outcomes.append([issued, before, after, settled])
print(json.dumps(outcomes))
""")
    assert {issued for issued, *_ in outcomes} == {True, False}
    for free, (issued, before, after, settled) in enumerate(outcomes):
        assert after[:2] == settled[:2]
        name = f"new-{free}"
        assert ([name, "valid"] in after[0]) == issued
        if not issued:
            assert after == before
            assert settled == before


def test_a_certificate_can_be_revoked_on_a_full_disk(on_disk: Any) -> None:
    before, revoked, listed, again = on_disk("""
for number in range(40):
    ca.issue(f"node-{number}", key_type=P256)
fill()
before = filler.stat().st_size
revoked = [one.serial for one in ca.revoke("node-1")]
listed = [str(one.state) for one in list_certificates(certs) if one.id == "node-1"]
filler.unlink()
ca.issue("node-1", key_type=P256)
print(json.dumps([before, revoked, listed, (certs / ".reserve").stat().st_size]))
""")
    assert before > 0
    assert len(revoked) == 1
    assert listed == ["revoked"]
    assert again > 0


def test_an_enrolment_on_a_full_disk_can_be_repeated_and_a_token_cancelled(on_disk: Any) -> None:
    outcomes, states = on_disk("""
from aegis_certs import new_enrolment_key_and_csr
outcomes = []
for free in range(8):
    token = ca.create_token(f"node-{free}")
    requests = [new_enrolment_key_and_csr(token.node_id, key_type=P256) for _ in range(2)]
    fill(free)
    for request in requests:
        try:
            ca.enroll(request.csr, token.certificate, issuer_id="ca-1")
            outcomes.append(True)
            break
        except DirectoryError:
            outcomes.append(False)
            filler.unlink()
    filler.unlink(missing_ok=True)
ca.create_token("other")
fill()
ca.cancel_token("other")
filler.unlink()
print(json.dumps([outcomes, [str(one.state) for one in ca.tokens()]]))
""")
    assert set(outcomes) == {True, False}
    assert states == ["used"] * 8 + ["cancelled"]


def test_an_interrupted_install_on_a_full_disk_stops_no_other_command(on_disk: Any) -> None:
    listed, revoked, installed = on_disk("""
from aegis_certs._store import files
ca.issue("node-1", key_type=P256)
new = ca.issue_in_memory("node-2")
pending = Store(certs).pending_path("node-2")
files.write(pending, new.private_key + new.certificate_chain, files.PRIVATE)
fill()
phase = str(ca.rotation().phase)
revoked = len(ca.revoke("node-1"))
listed = [one.id for one in list_certificates(certs)]
filler.unlink()
ca.rotation()
installed = Store(certs).certificate_path("node-2").exists() and not pending.exists()
print(json.dumps([listed, revoked, installed]))
""")
    assert listed == ["ca", "node-1", "node-2"]
    assert (revoked, installed) == (1, True)
