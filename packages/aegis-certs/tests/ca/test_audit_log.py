"""A long audit log is divided, and its last part alone says what counts."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    EnrolmentRefusedError,
    KeyType,
    Revocation,
    RevocationList,
    RevocationReason,
    TokenState,
    new_enrolment_key_and_csr,
    spiffe_bundle,
)
from aegis_certs._ca import audit_log
from aegis_certs._ca.inventory import Inventory
from aegis_certs._inspect.doctor import examine
from aegis_certs._store import files
from aegis_certs._store.directory import Store

P256 = KeyType.P256
DAY = dt.timedelta(days=1)
PART = 2048
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture
def ca(directory: Path) -> CertificateAuthority:
    return CertificateAuthority.create(directory, key_type=P256, at=NOW - 60 * DAY)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of some three lines, of which three are kept."""
    monkeypatch.setattr(audit_log, "PART", PART)
    monkeypatch.setattr(audit_log, "KEPT", 3)


def renew_often(ca: CertificateAuthority, first: dt.datetime, count: int = 20) -> None:
    """Issues certificates of an hour, which are forgotten soon after the next ones."""
    for number in range(count):
        at = first + number * DAY / 8
        ca.issue("node-2", key_type=P256, days=1 / 24, at=at)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def parts(directory: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in directory.glob("audit-*.jsonl"))


def revocations(ca: CertificateAuthority) -> set[Revocation]:
    return {*RevocationList.from_pem((ca.directory / "crl.pem").read_bytes(), ca.bundle)}


def revoked(ca: CertificateAuthority) -> set[str]:
    return {one.serial for one in revocations(ca)}


@pytest.mark.usefixtures("short")
def test_many_renewals_leave_a_short_log_and_a_bounded_number_of_parts(
    ca: CertificateAuthority,
) -> None:
    first = ca.issue("node-1", key_type=P256).certificate.serial_number
    renew_often(ca, NOW - 30 * DAY)
    found = parts(ca.directory)
    assert len(found) == 3
    assert found[-1] > 4
    log = lines(ca.directory / "audit.jsonl")
    assert (log[0]["action"], log[0]["part"]) == ("continue", found[-1] + 1)
    carried = (ca.directory / "audit.jsonl").read_bytes().split(b"\n", 1)[1][: log[0]["carried"]]
    assert carried.endswith(b"\n")
    assert {json.loads(line)["action"] for line in carried.splitlines()} == {"create-ca", "keep"}
    assert (ca.directory / "audit.jsonl").stat().st_size < 4 * PART
    for number in found:
        assert (ca.directory / f"audit-{number}.jsonl").stat().st_mode & 0o777 == 0o600
    (ca.directory / "issued.json").unlink()
    assert Inventory.load(Store(ca.directory)).get(f"{first:x}") is not None


@pytest.mark.usefixtures("short")
def test_revocations_outlast_every_file_but_the_last_part(ca: CertificateAuthority) -> None:
    ca.issue("node-1", key_type=P256)
    ca.revoke("node-1")
    ca.issue("brief", key_type=P256, days=1, at=NOW - DAY / 2)
    ca.revoke("brief", at=NOW - DAY / 4)
    before = revoked(ca)
    assert len(before) == 2
    renew_often(ca, NOW - 30 * DAY)
    for path in ca.directory.glob("audit-*.jsonl"):
        path.unlink()
    for name in ("crl.pem", "issued.json"):
        (ca.directory / name).unlink()
    finding = next(one for one in examine(ca.directory) if one.topic == "revocations")
    assert finding.level == "problem"
    assert "audit.jsonl has revocations" in finding.text
    ca.renew_due()
    assert revoked(ca) == before
    renew_often(ca, NOW + 70 * DAY, 8)  # one of the two still counts, and `brief` ended long ago
    actions = [line["id"] for line in lines(ca.directory / "audit.jsonl") if "reason" in line]
    assert actions == ["node-1"]


@pytest.mark.usefixtures("short")
def test_a_token_and_a_certificate_stay_used_when_the_inventory_is_lost(
    ca: CertificateAuthority,
) -> None:
    token = ca.create_token("orders-1")
    unused = ca.create_token("orders-2")
    csr, other = (new_enrolment_key_and_csr("orders-1", key_type=P256).csr for _ in range(2))
    ca.enroll(csr, token.certificate, issuer_id="ca-1")
    renew_often(ca, NOW - 30 * DAY)
    (ca.directory / "issued.json").unlink()
    states = {one.serial: one.state for one in ca.tokens()}
    assert states == {token.serial: TokenState.USED, unused.serial: TokenState.UNUSED}
    with pytest.raises(EnrolmentRefusedError, match="another key") as caught:
        ca.enroll(other, token.certificate, issuer_id="ca-1")
    assert caught.value.is_theft


@pytest.mark.usefixtures("short")
def test_a_crash_or_a_full_disk_between_the_two_files_loses_and_doubles_nothing(
    ca: CertificateAuthority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(ca.directory)
    while not audit_log.is_part_over(store.audit_path):
        renew_often(ca, NOW - 30 * DAY, 1)
    before = store.audit_path.read_bytes()
    write = files.write

    def refuse(path: Path, data: bytes, mode: int) -> None:
        if path == store.audit_path:
            raise files.DirectoryError(path, "no space left on device", 28)
        write(path, data, mode)

    monkeypatch.setattr(files, "write", refuse)
    ca.tokens()
    assert "goes on as it is" in caplog.text
    assert store.audit_path.read_bytes() == before
    assert parts(ca.directory) == [1]
    ca.issue("node-3", key_type=P256)
    monkeypatch.undo()
    monkeypatch.setattr(audit_log, "PART", PART)
    ca.tokens()
    assert parts(ca.directory) == [1]
    assert (ca.directory / "audit-1.jsonl").read_bytes().startswith(before)
    assert b'"id":"node-3"' in (ca.directory / "audit-1.jsonl").read_bytes()
    assert lines(store.audit_path)[0]["part"] == 2


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("first", [b"", b"{", b'{"part":-1,"carried":0}', b'{"part":true}', b"[]"])
def test_a_part_without_its_first_line_gets_the_next_number(
    ca: CertificateAuthority, first: bytes
) -> None:
    path = ca.directory / "audit.jsonl"
    (ca.directory / "audit-7.jsonl").write_text("")
    (ca.directory / "audit-x.jsonl").write_text("")
    filler = json.dumps({"action": "issue", "text": "x" * 5000}).encode()
    path.write_bytes(b"\n".join([first, path.read_bytes() + filler]))
    ca.tokens()
    assert (ca.directory / "audit-8.jsonl").exists()
    assert lines(path)[0]["part"] == 9


@pytest.mark.usefixtures("short")
def test_the_sequence_of_a_spiffe_bundle_never_falls(ca: CertificateAuthority) -> None:
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    before = spiffe_bundle(ca.directory)["spiffe_sequence"]
    renew_often(ca, NOW, 8)
    assert parts(ca.directory)
    assert spiffe_bundle(ca.directory)["spiffe_sequence"] >= before


def test_a_session_reads_little_after_100_000_actions(ca: CertificateAuthority) -> None:
    """The log as an earlier version left it: in one piece."""
    ca.issue("node-1", key_type=P256)
    ca.revoke("node-1")
    (ca.directory / "crl.pem").unlink()
    ca.issue("old", key_type=P256, days=1, at=NOW - 30 * DAY)
    path = ca.directory / "audit.jsonl"
    entry = path.read_bytes().splitlines()[-1]
    with path.open("ab") as log:
        log.write((entry + b"\n") * 100_000)
    before = path.stat().st_size
    ca.tokens()
    assert path.stat().st_size < 10_000 < before
    assert (ca.directory / "audit-1.jsonl").stat().st_size == before
    ca.renew_due()
    assert len(revoked(ca)) == 1


def test_a_lost_log_begins_anew_with_what_the_inventory_and_the_list_say(
    ca: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    ca.issue("node-1", key_type=P256)
    token = ca.create_token("orders-1")
    ca.revoke("node-1", RevocationReason.KEY_COMPROMISE)
    ca.revoke(token.serial)
    (ca.directory / "audit.jsonl").unlink()
    before = revocations(ca)
    ca.tokens()
    assert "audit.jsonl was lost" in caplog.text
    log = lines(ca.directory / "audit.jsonl")
    assert [line["action"] for line in log] == ["continue", "revoke", "revoke", "keep", "keep"]
    caplog.clear()
    ca.tokens()
    assert caplog.messages == []
    for name in ("crl.pem", "issued.json"):
        (ca.directory / name).unlink()
    ca.renew_due()
    assert revocations(ca) == before
    assert ca.tokens()[0].state is TokenState.CANCELLED
