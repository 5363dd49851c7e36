"""One problem is one finding, however many examinations it prevents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from aegis_certs import CertificateAuthority, KeyType
from aegis_certs._inspect.doctor import examine as examine_directory
from aegis_certs.cli import examine


def test_a_broken_ca_file_is_one_problem(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256)
    ca.issue("a", key_type=KeyType.P256)
    (ca.directory / "ca-cert.pem").write_text("garbage")
    found = {one.topic: one for one in examine(ca.directory)}
    (problem,) = (one for one in found.values() if one.level == "problem")
    assert problem.topic == "CA"
    assert problem.text.count("cannot be used") == 1
    hidden = [topic for topic, one in found.items() if one.level == "skipped"]
    assert hidden == ["certificates", "revocations", "rotation", "expiry"]
    assert {found[topic].text for topic in hidden} == {"not examined: see CA"}
    assert found["keys"].level == "ok"


def test_a_clock_that_is_behind_is_one_finding_for_all_certificates(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256)
    for name in "abc":
        ca.issue(name, key_type=KeyType.P256)
    early = datetime.now(UTC) - timedelta(hours=2)
    clock = [one for one in examine_directory(ca.directory, at=early) if one.topic == "clock"]
    assert len(clock) == 2  # files from the future, and certificates
    assert "files here were written" in clock[0].text
    assert clock[1].text.endswith("; 3 more are not valid yet")
