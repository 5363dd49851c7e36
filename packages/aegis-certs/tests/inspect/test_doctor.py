"""One problem is one finding, however many examinations it prevents."""

from __future__ import annotations

from pathlib import Path

from aegis_certs import CertificateAuthority, KeyType
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
