"""The commands, from the first CA to the rotation to the next one."""

from __future__ import annotations

import codecs
import contextlib
import datetime as dt
import json
import os
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    CertificateSource,
    KeyType,
    TLSOptions,
    list_certificates,
    load_tls,
)
from aegis_certs.cli import certs
from click.testing import Result

DAY = dt.timedelta(days=1)
EC = ("--key-type", "p256")


SEQUENCE = """
    0 init --key-type p256 --name Acme
    1 init
    0 issue orders-1 --key-type p256 --host a.example
    0 issue laptop --key-type p256 --client-only
    0 issue old --key-type p256
    2 issue ../x
    0 csr billing-1 --key-type p256 --host b.example
    0 show {dir}/billing-1_csr.pem
    0 sign {dir}/billing-1_csr.pem --out {dir}/signed
    0 install {dir}/signed
    0 list
    7 list --dir {dir}/nowhere
    0 show orders-1
    0 show {dir}/ca-cert.pem
    2 show 127.0.0.1:99999
    0 verify orders-1
    0 verify ca
    5 verify laptop --usage server
    7 verify nobody
    0 renew
    0 renew orders-1
    0 revoke old --reason superseded
    0 revoke old
    7 revoke nobody
    6 verify old
    1 remove orders-1
    7 remove nobody
    2 remove ca
    0 show {dir}/crl.pem
    0 rotate-ca status
    0 rotate-ca prepare
    1 rotate-ca activate
    0 rotate-ca activate --confirm
    1 rotate-ca retire
    0 list
    0 renew
    0 rotate-ca retire
    0 export
    0 export orders-1
    5 doctor
    0 remove old
    0 doctor
"""


@contextlib.contextmanager
def serving(directory: Path, node_id: str) -> Iterator[int]:
    """A TLS server that requires a client certificate, and greets a client that has one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory / "ca-cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(directory / f"{node_id}-cert.pem", directory / f"{node_id}-key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with (
                        contextlib.suppress(OSError),
                        connection,
                        context.wrap_socket(connection, server_side=True) as tls,
                    ):
                        tls.sendall(b"hello")
                        tls.recv(1)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def as_json(result: Result) -> Any:
    assert result.stderr == ""
    return json.loads(result.stdout)


def as_json_of_failure(result: Result, code: int) -> Any:
    assert result.exit_code == code
    return json.loads(result.stdout)


def test_a_request_is_signed_elsewhere_and_installed(
    acme: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    away, signed = tmp_path / "away", tmp_path / "signed.pem"
    away.mkdir()
    shutil.copy(directory / "ca-cert.pem", away)
    host = ("--host", "a.example")
    made = as_json(acme("csr", "n1", *EC, *host, "--dir", str(away), "--json"))
    request = made["request"]
    assert acme("sign", request, "--id", "n2").exit_code == 2
    answer = as_json(acme("sign", request, "--out", str(signed), "--json"))
    assert answer["dropped"] == ["DNS name a.example"]
    assert acme("sign", request, "--out", str(signed)).exit_code == 1
    again = acme("sign", request, "--out", str(signed), "--force")
    assert "DNS name a.example" in again.stdout
    assert (
        as_json(acme("install", str(signed), "--dir", str(away), "--json"))["trust_bundle"]
        == f"{away}/ca-cert.pem"
    )
    assert acme("verify", "n1", "--dir", str(away)).exit_code == 0


def test_next_steps_have_the_directory_that_was_given(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    at = ("--dir", str(tmp_path / "my certs"))
    named = f"--dir '{tmp_path}/my certs'"
    for arguments, hint in {
        ("init", *EC): f"issue NODE-ID {named}",
        ("issue", "n1", *EC): f"list {named}",
        ("csr", "n2", *EC): f"install n2_signed.pem {named}",
        ("revoke", "n1"): f"remove ID {named}",
        ("rotate-ca", "prepare"): f"activate --confirm {named}, once",
        ("rotate-ca", "activate"): f"rotate-ca retire {named}",
        ("rotate-ca", "retire"): f"rotate-ca prepare {named}",
    }.items():
        assert hint in run(*arguments, *at).stdout
    assert run("rotate-ca", "status", AEGIS_CERT_DIR=at[1]).stdout.endswith("does by itself\n")


def test_verify_shows_which_check_failed_and_ends_with_its_code(
    acme: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    assert acme("verify", "orders-1", "--usage", "server").exit_code == 0
    wrong = acme("verify", "laptop", "--usage", "server", "--name", "api.example")
    assert wrong.exit_code == 5
    lines = {line.split()[1]: line[0] for line in wrong.stdout.splitlines()}
    assert lines == {
        **dict.fromkeys(("dates", "chain", "key"), "✓"),
        **dict.fromkeys(("usage", "name"), "✗"),
        "revocation": "-",
    }
    other = CertificateAuthority.create(tmp_path / "o", key_type=KeyType.P256)
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(other.issue_in_memory("orders-1").certificate_chain)
    found = as_json_of_failure(acme("verify", str(stranger), "--json"), 5)
    assert [name for name, check in found["checks"].items() if check["ok"] is False] == ["chain"]
    shutil.copy(directory / "laptop-key.pem", directory / "orders-1-key.pem")
    output = acme("verify", "orders-1").stdout
    assert re.search(
        r"key in \S+/orders-1-key.pem does not belong .* in \S+/orders-1-cert.pem", output
    )
    assert acme("verify", "orders-1").exit_code == 5
    assert acme("verify", "nobody").exit_code == 7


@pytest.mark.parametrize(("days", "age", "code"), [(90, 10, 0), (90, 70, 3), (90, 100, 4)])
def test_verify_and_doctor_have_exit_codes_for_dates(
    run: Callable[..., Result], directory: Path, days: int, age: int, code: int
) -> None:
    past = dt.datetime.now(dt.UTC) - age * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    ca.issue("n", key_type=KeyType.P256, days=days, at=past)
    assert run("verify", "n").exit_code == code
    doctor = run("doctor")
    assert doctor.exit_code == code
    marks = {line[0] for line in doctor.stdout.splitlines() if line.split()[1] == "expiry"}
    assert marks == {{0: "✓", 3: "!", 4: "✗"}[code], "✓"}
    assert ("of the rest, next is ca" in doctor.stdout) == (code != 0)


def test_list_verify_and_doctor_show_a_revoked_node_as_revoked(
    acme: Callable[..., Result],
) -> None:
    found = as_json(acme("revoke", "orders-1", "--reason", "key-compromise", "--json"))
    assert found["reason"] == "key-compromise"
    states = {e["id"]: e["state"] for e in as_json(acme("list", "--json"))["certificates"]}
    assert states == {"ca": "valid", "laptop": "valid", "orders-1": "revoked"}
    for command in (("verify", "orders-1"), ("doctor",), ("renew", "orders-1")):
        assert acme(*command).exit_code == 6
    assert acme("revoke", "orders-9").exit_code == 7
    assert "Revoked laptop" in acme("revoke", "laptop").stdout


def test_revoking_again_says_so_and_changes_nothing(
    acme: Callable[..., Result], directory: Path
) -> None:
    acme("revoke", "orders-1", "--reason", "key-compromise")
    files = {name: (directory / name).read_bytes() for name in ("crl.pem", "audit.jsonl")}
    again = acme("revoke", "orders-1", "--reason", "superseded")
    assert again.exit_code == 0
    assert re.search(r"already revoked on \S+ \S+ UTC \(reason key-compromise\)", again.stdout)
    assert {name: (directory / name).read_bytes() for name in files} == files


@pytest.mark.parametrize("state", ["lost", "older", "damaged"])
def test_a_revoked_certificate_stays_revoked_without_the_newest_list(
    acme: Callable[..., Result], directory: Path, state: str
) -> None:
    crl = directory / "crl.pem"
    assert acme("revoke", "laptop").exit_code == 0
    older = crl.read_bytes()
    assert acme("revoke", "orders-1").exit_code == 0
    listed = as_json(acme("show", str(crl), "--json"))[0]["revoked"]

    def spoil() -> None:
        if state == "lost":
            crl.unlink()
        else:
            crl.write_bytes(older if state == "older" else b"junk")

    spoil()
    assert acme("verify", "orders-1").exit_code == 6
    states = {
        e["id"]: e["state"] for e in json.loads(acme("list", "--json").stdout)["certificates"]
    }
    assert (states["laptop"], states["orders-1"]) == ("revoked", "revoked")
    found = json.loads(acme("doctor", "--json").stdout)["findings"]
    problem = next(one for one in found if one["topic"] == "revocations")
    assert problem["level"] == "problem"
    for command in (("renew", "orders-1"), ("renew",), ("issue", "n2", *EC), ("revoke", "laptop")):
        acme(*command)
        again = as_json(acme("show", str(crl), "--json"))[0]["revoked"]
        assert sorted(again) == sorted(listed), command
        spoil()
    acme("renew")
    found = json.loads(acme("doctor", "--json").stdout)["findings"]
    assert {one["topic"] for one in found if one["level"] != "ok"} == {"certificates"}


def test_a_revoked_node_can_be_forgotten_and_stays_revoked(
    acme: Callable[..., Result], directory: Path
) -> None:
    key = directory / "orders-1-key.pem"
    refused = acme("remove", "orders-1")
    assert refused.exit_code == 1
    assert "`aegis-certs revoke orders-1`" in refused.stderr
    leaf = (directory / "orders-1-cert.pem").read_bytes()
    assert acme("revoke", "orders-1").exit_code == 0
    told = acme("doctor")
    assert told.exit_code == 6
    assert "`aegis-certs remove orders-1`" in told.stdout
    removed = as_json(acme("remove", "orders-1", "--json"))
    assert removed == {"id": "orders-1", "removed": [str(key), f"{directory}/orders-1-cert.pem"]}
    assert acme("doctor").exit_code == 0
    assert acme("remove", "orders-1").exit_code == 7
    for name in ("crl.pem", "issued.json"):  # both are made again from the audit log
        (directory / name).unlink()
        ids = {one["id"] for one in json.loads(acme("list", "--json").stdout)["certificates"]}
        assert ids == {"ca", "laptop"}
    assert acme("renew").exit_code == 0
    (directory / "copy.pem").write_bytes(leaf)
    assert acme("verify", str(directory / "copy.pem")).exit_code == 6


def test_a_node_of_a_retired_ca_can_be_forgotten(
    acme: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    assert acme("revoke", "orders-1").exit_code == 0
    for step in ("prepare", "activate --confirm", "", "retire"):
        command = ("rotate-ca", *step.split()) if step else ("renew",)
        assert acme(*command).exit_code == 0, command
    told = acme("doctor")
    assert told.exit_code == 5
    assert "its CA was retired" in told.stdout
    assert "`aegis-certs remove orders-1`" in told.stdout
    assert acme("remove", "orders-1").exit_code == 0
    assert acme("doctor").exit_code == 0
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    foreign = directory / "n9-cert.pem"
    foreign.write_bytes(other.issue_in_memory("n9").certificate_chain)
    assert acme("remove", "n9").exit_code == 5
    assert foreign.exists()


def test_an_expired_or_damaged_node_can_be_forgotten(
    run: Callable[..., Result], directory: Path
) -> None:
    past = dt.datetime.now(dt.UTC) - 20 * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    ca.issue("gone", key_type=KeyType.P256, days=10, at=past)
    ca.issue("damaged", key_type=KeyType.P256)
    assert "`aegis-certs remove gone`" in run("doctor").stdout
    assert run("remove", "gone").exit_code == 0
    (directory / "damaged-cert.pem").write_text("junk")
    assert run("remove", "damaged").exit_code == 1
    assert run("revoke", "damaged").exit_code == 0
    assert run("remove", "damaged").exit_code == 0
    (directory / "unknown-cert.pem").write_text("junk")
    assert run("remove", "unknown").exit_code == 1
    (directory / "unknown-cert.pem").unlink()
    assert run("doctor").exit_code == 0


def test_renew_renews_one_certificate_or_all_that_are_due(
    run: Callable[..., Result], directory: Path
) -> None:
    past = dt.datetime.now(dt.UTC) - 70 * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, at=past)
    for node_id, days in (("due", 90), ("fresh", 300)):
        ca.issue(node_id, key_type=KeyType.P256, days=days, at=past)
    renewed = as_json(run("renew", "--json"))["renewed"]
    assert [one["id"] for one in renewed] == ["due"]
    assert "is due" in run("renew").stdout
    assert "Renewed fresh" in run("renew", "fresh").stdout
    assert run("renew", "nobody").exit_code == 7
    assert run("renew", "fresh", "--watch").exit_code == 2


@pytest.mark.parametrize(
    ("file", "content", "code", "reason"),
    [
        ("orders-1-key.pem", None, 7, "there is no key for"),
        ("orders-1-cert.pem", None, 7, "there is no certificate for"),
        ("orders-1-key.pem", b"junk", 1, "has no private key"),
        ("orders-1-cert.pem", b"junk", 1, "has no certificate"),
        ("orders-1-key.pem", "laptop-key.pem", 5, "does not belong"),
    ],
)
def test_renew_and_doctor_fail_while_a_file_is_missing_or_damaged(
    acme: Callable[..., Result],
    directory: Path,
    file: str,
    content: bytes | str | None,
    code: int,
    reason: str,
) -> None:
    path = directory / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(
            content if isinstance(content, bytes) else (directory / content).read_bytes()
        )
    renewed = acme("renew", "--json")
    assert renewed.exit_code == code
    (failed,) = json.loads(renewed.stdout)["renewed"]
    assert failed["id"] == "orders-1"
    assert reason in failed["error"]
    assert "1 of 1 certificates could not be renewed" in renewed.stderr
    assert acme("doctor").exit_code != 0
    assert acme("revoke", "orders-1").exit_code == 0


def test_renew_watch_reports_a_failure_once_and_again_when_it_returns(
    acme: Callable[..., Result], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = directory / "orders-1-key.pem"
    good = key.read_bytes()
    rounds = iter([b"junk", b"junk", good, b"junk"])

    def next_round(_: float) -> None:
        if (content := next(rounds, None)) is None:
            raise KeyboardInterrupt
        key.write_bytes(content)

    monkeypatch.setattr(time, "sleep", next_round)
    watched = acme("renew", "--watch")
    assert watched.exit_code == 130
    assert watched.stdout.count("orders-1: ") == 2


def test_renew_does_not_ask_for_keys_that_were_never_here(
    acme: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    assert acme("csr", "n1", *EC, "--dir", str(tmp_path)).exit_code == 0
    request = str(tmp_path / "n1_csr.pem")
    assert acme("sign", request, "--out", str(directory / "n1-cert.pem")).exit_code == 0
    (directory / "n2-cert.pem").write_bytes(other.issue_in_memory("n2").certificate_chain)
    (directory / "web-key.pem").write_text("of another tool")
    assert acme("renew").exit_code == 0


def test_renew_fails_if_the_ca_ends_too_soon(run: Callable[..., Result], directory: Path) -> None:
    past = dt.datetime.now(dt.UTC) - 80 * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, days=100, at=past)
    for node_id, days in (("cut", 365), ("short", 30)):
        ca.issue(node_id, key_type=KeyType.P256, days=days, at=past)
    renewed = run("renew")
    assert renewed.exit_code == 3
    assert "Renewed short" in renewed.stdout
    assert re.search(r"cut: .* ends with its CA, .*`aegis-certs rotate-ca prepare`", renewed.stdout)


def test_an_expired_ca_is_replaced_as_renew_and_doctor_say(
    run: Callable[..., Result], directory: Path
) -> None:
    past = dt.datetime.now(dt.UTC) - 20 * DAY
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, days=10, at=past)
    for node_id in ("n1", "n2"):
        ca.issue(node_id, key_type=KeyType.P256, days=60, at=past)
    commands = (("renew",), ("renew", "n1"), ("issue", "n3", *EC), ("verify", "n1"), ("doctor",))
    for command in commands:
        refused = run(*command)
        assert refused.exit_code == 4, command
        assert "`aegis-certs rotate-ca prepare`" in refused.stdout + refused.stderr, command
    for step in (
        ("rotate-ca", "prepare", "--days", "365"),
        ("rotate-ca", "activate"),
        ("renew",),
        ("rotate-ca", "retire"),
        ("verify", "n1"),
        ("doctor",),
    ):
        done = run(*step)
        assert done.exit_code == 0, (step, done.output)
    assert {one.days_left for one in list_certificates(directory) if one.id == "n2"} >= {59}


def test_a_ca_is_rotated_in_three_steps(acme: Callable[..., Result], directory: Path) -> None:
    status = as_json(acme("rotate-ca", "status", "--json"))
    assert (status["phase"], status["next_step"]) == ("none", "prepare")
    ends, due = (dt.datetime.fromisoformat(status[name]) for name in ("old_ends", "due"))
    assert 121 * DAY < ends - due < 122 * DAY  # a third of its life
    assert "Acme G2" in acme("rotate-ca", "prepare").stdout
    asked = acme("rotate-ca", "activate", AEGIS_CONFIRM="1")
    assert asked.exit_code == 1
    assert "laptop, orders-1" in asked.stderr
    assert "`--confirm`" in asked.stderr
    assert "Next: aegis-certs rotate-ca activate --confirm" in acme("rotate-ca", "status").stdout
    assert acme("rotate-ca", "activate", "--confirm").exit_code == 0
    assert "laptop, orders-1" in acme("rotate-ca", "retire").stderr
    assert "Renewed laptop" in acme("renew").stdout
    retired = as_json(acme("rotate-ca", "retire", "--json"))
    assert (retired["phase"], retired["issuing"]) == ("none", "Acme G2")
    steps = ("created_at", "prepared_at", "activated_at", "retired_at")
    times = [dt.datetime.fromisoformat(retired[step]) for step in steps]
    assert times == sorted(times)
    shown = acme("rotate-ca", "status").stdout
    assert "  retired at" in shown
    assert re.search(
        r"Next: aegis-certs rotate-ca prepare, not before \d{4}-\d\d-\d\d, which", shown
    )
    assert acme("doctor").exit_code == 0


def test_export_gives_the_bundle_or_an_identity_for_files_and_environments(
    acme: Callable[..., Result], directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert acme("export").stdout == (directory / "ca-cert.pem").read_text()
    whole = acme("export", "orders-1").stdout
    assert [whole.count(f"BEGIN {what}") for what in ("PRIVATE KEY", "CERTIFICATE")] == [1, 2]
    out = tmp_path / "orders-1.env"
    assert acme("export", "orders-1", "--env", "--out", str(out)).stdout == ""
    assert out.stat().st_mode & 0o077 == 0
    for line in out.read_text().splitlines():
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    assert load_tls(TLSOptions(source=CertificateSource.ENV)).node_id == "orders-1"
    assert as_json(acme("export", "orders-1", "--json")).keys() == {
        *("key", "certificate", "trust_bundle"),
    }
    assert acme("export", "nobody").exit_code == 7
    refused = acme("export", "--out", str(out))
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert (
        acme("export", "--out", os.devnull, "--force").exit_code == 1
    )  # a device is never replaced
    assert acme("export", "--out", str(out), "--force").exit_code == 0
    assert out.read_text() == (directory / "ca-cert.pem").read_text()


def test_a_ca_is_verified_as_a_ca(acme: Callable[..., Result], tmp_path: Path) -> None:
    found = as_json(acme("verify", "ca", "--json"))
    assert found["ok"]
    assert found["checks"]["chain"]["detail"] == "it is in the trust bundle"
    assert found["checks"]["usage"]["ok"] is None
    for asked in (("--usage", "server"), ("--name", "ca.example")):
        assert acme("verify", "ca", *asked).exit_code == 5
    other = CertificateAuthority.create(tmp_path / "o", key_type=KeyType.P256, passphrase="p")
    wrong = acme("verify", str(other.directory / "ca-cert.pem"))
    assert wrong.exit_code == 5
    assert "this CA is not in the trust bundle" in wrong.stdout
    assert "its key has a passphrase" in wrong.stdout


def test_a_serial_of_a_retired_ca_needs_no_revocation(
    acme: Callable[..., Result],
) -> None:
    serial = as_json(acme("list", "--json"))["certificates"][-1]["serial"]
    for step in (
        ("rotate-ca", "prepare"),
        ("rotate-ca", "activate", "--confirm"),
        ("renew",),
        ("rotate-ca", "retire"),
    ):
        assert acme(*step).exit_code == 0
    refused = acme("revoke", serial)
    assert refused.exit_code == 5
    assert "nothing to revoke" in refused.stderr


def test_list_leaves_out_certificates_that_serve_a_command(
    acme: Callable[..., Result], directory: Path
) -> None:
    ca = CertificateAuthority.load(directory)
    ca.issue_in_memory("brief", days=1 / 24)
    ca.issue_in_memory("longer", days=1 / 12)
    ca.issue("placed", key_type=KeyType.P256, days=1 / 24)
    usual = ["ca", "laptop", "longer", "orders-1", "placed"]
    for arguments, expected in (((), usual), (("--all",), ["brief", *usual])):
        found = as_json(acme("list", *arguments, "--json"))["certificates"]
        assert sorted(one["id"] for one in found) == sorted(expected)


def test_show_prints_what_is_in_a_file(acme: Callable[..., Result], directory: Path) -> None:
    acme("revoke", "laptop")
    acme("csr", "n1", *EC)
    for what, word in {
        "orders-1": "certificate of orders-1",
        "ca": "certificate of Acme",
        str(directory / "crl.pem"): "revocation list of Acme",
        str(directory / "n1_csr.pem"): "request for n1",
        str(directory / "orders-1-key.pem"): "not shown",
    }.items():
        shown = acme("show", what)
        assert word in shown.stdout
        assert "PRIVATE" not in shown.stdout
        assert as_json(acme("show", what, "--json"))
    CertificateAuthority.load(directory).document_signer()
    for what, usage in {
        "ca": "CA",
        str(directory / "ca_documents-cert.pem"): "document signing",
    }.items():
        assert f"usages         {usage}\n" in acme("show", what).stdout
    assert acme("show", "nobody").exit_code == 7
    assert acme("show", "../x").exit_code == 7
    for port in ("0", "65536", "99999", "9999999"):
        wrong = acme("show", f"127.0.0.1:{port}")
        assert (wrong.exit_code, "from 1 to 65535" in wrong.stderr) == (2, True)


def test_show_connects_to_a_live_server_with_and_without_a_certificate(
    acme: Callable[..., Result], directory: Path
) -> None:
    with serving(directory, "orders-1") as port:
        place = f"127.0.0.1:{port}"
        server, leaf, *_ = as_json(acme("show", place, "--json"))
        assert (server["its_answer"], server["trusted"]) == ("refused", "yes, as orders-1")
        assert leaf["subject"] == "CN=orders-1"
        server, *_ = as_json(acme("show", place, "--identity", "laptop", "--json"))
        assert (server["its_answer"], server["protocol"]) == ("accepted", "TLSv1.3")
    assert acme("show", place).exit_code == 7


def test_doctor_finds_problems(acme: Callable[..., Result], directory: Path) -> None:
    assert acme("doctor").exit_code == 0
    (directory / "orders-1-key.pem").chmod(0o644)
    (directory / "issued.json").unlink()
    future = time.time() + 86_400
    os.utime(directory / "laptop-cert.pem", (future, future))
    (directory / "crl.pem").write_text("junk")
    found = as_json_of_failure(acme("doctor", "--json"), 1)["findings"]
    wrong = {finding["topic"] for finding in found if finding["level"] != "ok"}
    assert wrong == {"permissions", "clock", "inventory", "revocations"}
    assert "chmod go-rwx" in acme("doctor").stdout


@pytest.mark.parametrize("name", ["billing-1-key.pem", "billing-1.next.pem", "server.key"])
def test_doctor_reports_a_copied_key_that_others_can_read(
    acme: Callable[..., Result], directory: Path, name: str
) -> None:
    assert acme("issue", "billing-1", *EC).exit_code == 0
    key, leaf = directory / "billing-1-key.pem", directory / "billing-1-cert.pem"
    (directory / name).write_bytes(key.read_bytes() + leaf.read_bytes())
    (directory / name).chmod(0o644)
    (directory / "gone.pem").symlink_to(directory / "nowhere")
    findings = as_json_of_failure(acme("doctor", "--json"), 1)["findings"]
    problems = [finding["text"] for finding in findings if finding["level"] == "problem"]
    path = directory / name
    assert problems == [f"others can use {path}; run `chmod go-rwx {path}`"]


def test_doctor_examines_every_topic_that_it_names(
    acme: Callable[..., Result], directory: Path
) -> None:
    def levels() -> dict[str, str]:
        found = json.loads(acme("doctor", "--json").stdout)["findings"]
        return {finding["topic"]: finding["level"] for finding in reversed(found)}

    assert set(levels()) == {
        *("permissions", "clock", "CA", "certificates", "keys", "installs", "inventory"),
        *("revocations", "rotation", "expiry"),
    }
    assert set(levels().values()) == {"ok"}
    shutil.copy(directory / "laptop-key.pem", directory / "orders-1-key.pem")
    (directory / ".orders-1-key.pem.0123.tmp").write_text("half of")
    (directory / "laptop-cert.pem").write_text("junk")
    changed = {topic: level for topic, level in levels().items() if level != "ok"}
    assert changed == {"installs": "warning", "keys": "problem", "certificates": "problem"}
    (directory / "ca-cert.pem").unlink()
    assert levels()["CA"] == "problem"


def test_a_passphrase_is_read_from_a_file_the_environment_or_a_terminal(
    terminal: Callable[..., Any], run: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim\n")
    file = ("--passphrase-file", str(secret))
    assert run("init", *EC, *file).exit_code == 0
    assert b"ENCRYPTED" in (directory / "ca-key.pem").read_bytes()
    none = run("issue", "n1", *EC)
    assert none.exit_code == 1
    assert "no passphrase" in none.stderr
    assert run("issue", "n1", *EC, AEGIS_CA_PASSPHRASE="wrong").exit_code == 1
    assert run("issue", "n1", *EC, *file).exit_code == 0
    assert run("issue", "n1", *EC, AEGIS_CA_PASSPHRASE="geheim").exit_code == 0
    assert run("issue", "n1", *EC, "--passphrase-file", "nowhere").exit_code == 7
    secret.write_text("\n")
    assert run("issue", "n1", *EC, *file).exit_code == 2
    env = str(tmp_path / "env")
    assert run("init", *EC, "--dir", env, AEGIS_CA_PASSPHRASE="geheim").exit_code == 0
    assert CertificateAuthority.load(env, passphrase="geheim")
    assert run("init", *EC, "--passphrase", "--dir", str(tmp_path / "x")).exit_code == 2
    started = terminal("issue", "n2", *EC, "--dir", str(directory))
    started.read_until(lambda output: "the CA's key: " in output)
    os.write(started.fd, b"geheim\n")
    output, code = started.end()
    assert code == 0
    assert "geheim" not in output


def test_a_passphrase_file_may_begin_with_a_bom(
    run: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(codecs.BOM_UTF8 + "gehäim\r\n".encode())
    assert run("init", *EC, "--passphrase-file", str(secret)).exit_code == 0
    assert CertificateAuthority.load(directory, passphrase="gehäim")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x" * 1024 + b"\n", "at most 1023"),
        ("\ufeffgeheim\n".encode("utf-16"), "not a text in UTF-8"),
        (None, "more than"),  # a device without an end
    ],
    ids=["long", "utf-16", "/dev/zero"],
)
def test_a_passphrase_that_cannot_be_used_is_one_sentence(
    run: Callable[..., Result],
    directory: Path,
    tmp_path: Path,
    content: bytes | None,
    reason: str,
) -> None:
    secret = Path("/dev/zero") if content is None else tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    refused = run("init", *EC, "--passphrase-file", str(secret))
    assert refused.exit_code in (1, 2)
    assert reason in refused.stderr
    assert "unexpected" not in refused.stderr
    assert not directory.exists()


@pytest.mark.parametrize("days", ["1e-9", "0", "-1", "nan", "inf", "36501"])
def test_a_certificate_that_would_end_at_once_or_never_is_refused(
    acme: Callable[..., Result], days: str
) -> None:
    refused = acme("issue", "n1", *EC, "--days", days)
    assert refused.exit_code == 2
    assert "at least a second" in refused.stderr


def test_hosts_that_are_refused_now_do_not_stop_the_renewal_of_a_certificate_that_has_them(
    acme: Callable[..., Result], directory: Path
) -> None:
    assert acme("issue", "n1", *EC, "--host", "10.0.0.7").exit_code == 0
    inventory = directory / "issued.json"
    inventory.write_text(inventory.read_text().replace('"hosts": ["10.0.0.7"]', '"hosts": ["::"]'))
    assert acme("renew", "n1").exit_code == 0


def test_show_and_sign_of_an_unreadable_place_name_the_file(
    acme: Callable[..., Result], tmp_path: Path
) -> None:
    name = "x" * 300  # too long for any file system, so even root gets an error
    for command in (("show", name), ("verify", name), ("export", "--out", name)):
        refused = acme(*command)
        assert refused.exit_code == 1
        assert name in refused.stderr
        assert "unexpected" not in refused.stderr


def test_doctor_does_not_name_a_revoked_certificate_as_the_next_to_expire(
    acme: Callable[..., Result],
) -> None:
    acme("revoke", "laptop")
    findings = as_json_of_failure(acme("doctor", "--json"), 6)["findings"]
    texts = [finding["text"] for finding in findings if finding["topic"] == "expiry"]
    assert texts == ["next is orders-1, in 89 days"]


def test_the_root_of_an_intermediate_is_in_another_directory(
    run: Callable[..., Result], directory: Path, tmp_path: Path
) -> None:
    root = tmp_path / "usb"
    made = as_json(run("init", *EC, "--intermediate", "--root-dir", str(root), "--json"))
    assert made["root"] == str(root)
    assert (root / "ca-key.pem").exists()
    shutil.rmtree(root)  # as if it was moved away
    assert run("issue", "n1", *EC).exit_code == 0
    assert run("verify", "n1").exit_code == 0
    assert run("rotate-ca", "prepare").exit_code == 7


@pytest.mark.parametrize("json_flag", [(), ("--json",)], ids=["text", "json"])
def test_all_commands_in_a_pipe_print_plain_text_or_json_and_end_with_their_codes(
    run: Callable[..., Result], directory: Path, json_flag: tuple[str, ...]
) -> None:
    for line in SEQUENCE.strip().splitlines():
        code, *arguments = line.format(dir=directory).split()
        done = run(*arguments, *json_flag)
        assert done.exit_code == int(code), line
        assert "\x1b" not in done.output
        assert all(text == text.rstrip() for text in done.stdout.splitlines()), line
        assert bool(done.stderr) == (not done.stdout), line  # all output is on one of them
        if json_flag and done.stdout:
            json.loads(done.stdout)


def test_the_examples_of_a_request_work_one_after_the_other(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", *EC, AEGIS_CERT_DIR="certs").exit_code == 0
    for name in ("csr", "sign", "install", "verify"):
        for line in (certs.commands[name].epilog or "").splitlines():
            if line.startswith("  aegis-certs "):
                done = run(*line.split()[1:], AEGIS_CERT_DIR="certs")
                assert done.exit_code == 0, (line, done.output)
