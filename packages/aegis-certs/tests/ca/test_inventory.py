"""The inventory and the audit log have every issued certificate, and never a key."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    InvalidRequestError,
    InventoryError,
    KeyType,
    NotFoundError,
    StillUsedError,
    TLSConfig,
    list_certificates,
    load_or_generate_tls,
    request_certificate,
)
from aegis_certs._ca.inventory import Inventory
from aegis_certs._store.directory import Store

P256 = KeyType.P256
DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


def audit(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "audit.jsonl").read_text().splitlines()]


def serials(directory: Path) -> list[str]:
    return [entry.serial for entry in Inventory.load(Store(directory))]


def test_every_issue_renewal_revocation_and_rotation_is_logged(directory: Path) -> None:
    load_or_generate_tls("node-1", directory, key_type=P256)
    ca = CertificateAuthority.load(directory)
    ca.issue("node-2", key_type=P256)
    ca.issue_in_memory("node-3")
    ca.sign(request_certificate("node-4", directory, key_type=P256).read_bytes())
    ca.renew("node-1")
    ca.revoke("node-2")
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    ca.renew("node-1")
    for node_id in ("node-3", "node-4"):
        ca.revoke(node_id)
    ca.retire_rotation()
    assert [line["action"] for line in audit(directory)] == [
        *("create-ca", "issue", "issue", "issue", "sign", "renew", "revoke"),
        *("rotate-prepare", "rotate-activate", "renew", "revoke", "revoke", "rotate-retire"),
    ]
    assert all({"time", "uid", "pid"} <= line.keys() for line in audit(directory))
    for name in ("audit.jsonl", "issued.json"):
        path = directory / name
        assert b"PRIVATE" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_lines_are_only_added_to_the_log_and_a_cut_off_line_is_closed(
    ca: CertificateAuthority,
) -> None:
    path = ca.directory / "audit.jsonl"
    ca.issue("node-1", key_type=P256)
    torn = path.read_bytes() + b'{"time":"20'
    path.write_bytes(torn)
    ca.issue("node-2", key_type=P256)
    assert path.read_bytes().startswith(torn + b"\n")
    assert json.loads(path.read_bytes().splitlines()[-1])["certificate"]["id"] == "node-2"


@pytest.mark.parametrize(
    "content",
    [
        *(None, b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"version": 0, "certificates": []}'),
        *(b'{"version": true}', b'{"version": 1}', b'{"version": 1, "certificates": [{}]}'),
        b"[" * 100_000,
    ],
    ids=lambda content: str(content)[:30],
)
def test_a_lost_damaged_or_old_inventory_is_rebuilt(
    ca: CertificateAuthority, content: bytes | None
) -> None:
    for node_id in ("node-1", "node-2", "node-1"):
        ca.issue(node_id, key_type=P256, hosts=[f"{node_id}.example"])
    before = serials(ca.directory)
    path = ca.directory / "issued.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert sorted(serials(ca.directory)) == sorted(before)
    assert {entry.id: str(entry.state) for entry in list_certificates(ca.directory)}.keys() == {
        *("ca", "node-1", "node-2"),
    }
    new = ca.issue("node-3", key_type=P256)
    assert len(serials(ca.directory)) == 4
    assert json.loads(path.read_text())["version"] == 2
    assert f"{new.certificate.serial_number:x}" in path.read_text()


def test_without_the_log_the_inventory_is_rebuilt_from_the_certificates(
    ca: CertificateAuthority,
) -> None:
    ca.issue("node-1", key_type=P256, hosts=["a.example"])
    for name in ("issued.json", "audit.jsonl"):
        (ca.directory / name).unlink()
    (entry,) = Inventory.load(Store(ca.directory))
    assert (entry.id, entry.hosts) == ("node-1", ("a.example",))


def test_an_inventory_of_a_newer_version_is_not_changed(ca: CertificateAuthority) -> None:
    path = ca.directory / "issued.json"
    path.write_text('{"version": 3}')
    with pytest.raises(InventoryError, match="newer"):
        ca.issue("node-1", key_type=P256)
    assert path.read_text() == '{"version": 3}'


def test_names_of_replaced_certificates_are_reserved_until_they_expire_or_are_revoked(
    ca: CertificateAuthority,
) -> None:
    ca.issue("node-1", key_type=P256, hosts=["node-2"], days=10, at=NOW)
    ca.issue("node-1", key_type=P256, days=10, at=NOW)
    with pytest.raises(InvalidRequestError, match="node-1"):
        ca.issue("node-2", key_type=P256, at=NOW)
    ca.issue("node-2", key_type=P256, at=NOW + 11 * DAY)
    ca.issue_in_memory("node-5", hosts=["node-6"], days=10, at=NOW)
    ca.revoke("node-5", at=NOW)
    ca.issue("node-6", key_type=P256, at=NOW)


def test_a_node_with_its_key_elsewhere_is_in_the_inventory_too(ca: CertificateAuthority) -> None:
    ca.issue_in_memory("node-1")
    with pytest.raises(InvalidRequestError, match="node-1"):
        ca.issue("node-2", hosts=["node-1"], key_type=P256)


@pytest.fixture
def brought_back(ca: CertificateAuthority, tmp_path: Path) -> TLSConfig:
    """A certificate of node-1 that was issued in a copy of the directory, and put here."""
    ca.issue("node-1", key_type=P256)
    copy = tmp_path / "copy"
    shutil.copytree(ca.directory, copy)
    tls = CertificateAuthority.load(copy).issue("node-1", hosts=["a.example"], key_type=P256)
    for name in ("node-1-cert.pem", "node-1-key.pem"):
        shutil.copy(copy / name, ca.directory)
    return tls


@pytest.mark.parametrize("by", ["id", "serial"])
def test_a_certificate_that_was_issued_in_a_copy_of_the_directory_can_be_revoked(
    ca: CertificateAuthority, brought_back: TLSConfig, by: str
) -> None:
    serial = f"{brought_back.certificate.serial_number:x}"
    assert serial not in serials(ca.directory)
    revoked = ca.revoke("node-1" if by == "id" else serial)
    assert serial in {one.serial for one in revoked}
    assert len(revoked) == (2 if by == "id" else 1)
    assert [line["action"] for line in audit(ca.directory)].count("adopt") == 1
    (entry,) = (one for one in Inventory.load(Store(ca.directory)) if one.serial == serial)
    assert entry.hosts == ("a.example",)
    states = {one.serial: str(one.state) for one in list_certificates(ca.directory)}
    assert states[serial] == "revoked"


def test_a_certificate_of_a_copied_directory_is_recorded_before_it_is_replaced(
    ca: CertificateAuthority, brought_back: TLSConfig
) -> None:
    ca.renew("node-1")
    assert f"{brought_back.certificate.serial_number:x}" in serials(ca.directory)
    assert len(ca.revoke("node-1")) == 3


def test_a_certificate_of_a_copied_directory_counts_in_a_rotation(
    ca: CertificateAuthority, brought_back: TLSConfig
) -> None:
    (ca.directory / "issued.json").write_text('{"version": 1, "certificates": []}')
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    with pytest.raises(StillUsedError) as caught:
        ca.retire_rotation()
    assert caught.value.node_ids == ("node-1",)


def test_a_certificate_of_another_ca_or_node_is_not_adopted(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    ca.issue("node-1", key_type=P256)
    other = CertificateAuthority.create(tmp_path / "other", key_type=P256)
    other.issue("node-2", key_type=P256)
    shutil.copy(other.directory / "node-2-cert.pem", ca.directory)
    shutil.copy(ca.directory / "node-1-cert.pem", ca.directory / "node-3-cert.pem")
    for node_id in ("node-2", "node-3", "../node-1"):
        with pytest.raises(NotFoundError):
            ca.revoke(node_id)
    assert len(serials(ca.directory)) == 1


def test_an_old_expired_certificate_with_a_successor_is_dropped(ca: CertificateAuthority) -> None:
    ca.issue("node-1", key_type=P256, days=1, at=NOW)
    ca.issue("node-1", key_type=P256, days=2, at=NOW)
    ca.issue("node-2", key_type=P256, at=NOW + 40 * DAY)
    assert len(serials(ca.directory)) == 2
    assert sum("certificate" in line for line in audit(ca.directory)) == 3


def test_the_list_has_all_issued_certificates_the_installed_one_first(
    ca: CertificateAuthority,
) -> None:
    ca.issue("node-1", key_type=P256)
    ca.issue("node-1", key_type=P256)
    ca.issue("node-2", key_type=P256)
    ca.issue("node-0", key_type=P256, days=1, at=NOW)
    ca.issue_in_memory("node-3")
    ca.revoke("node-2")
    entries = list_certificates(ca.directory, at=NOW + 2 * DAY)
    assert [(entry.id, str(entry.state), entry.path is not None) for entry in entries] == [
        ("ca", "valid", True),
        ("node-0", "expired", True),
        ("node-1", "valid", True),
        ("node-1", "replaced", False),
        ("node-2", "revoked", True),
        ("node-3", "valid", False),
    ]


def test_the_list_names_both_cas_of_a_rotation(ca: CertificateAuthority) -> None:
    ca.prepare_rotation()
    assert [entry.id for entry in list_certificates(ca.directory)] == ["ca", "ca_next"]
    ca.activate_rotation()
    assert [entry.id for entry in list_certificates(ca.directory)] == ["ca", "ca_old"]


def test_certificates_of_a_retired_ca_are_listed_as_untrusted(ca: CertificateAuthority) -> None:
    ca.issue("node-1", key_type=P256)
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    ca.renew("node-1")
    ca.retire_rotation()
    states = [str(entry.state) for entry in list_certificates(ca.directory)]
    assert states == ["valid", "valid", "untrusted"]
