"""`token` makes, lists and cancels tokens, and the other commands know them."""

from __future__ import annotations

import datetime as dt
import json
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    IssuerAddress,
    Token,
    new_enrolment_key_and_csr,
    write_issuer_address,
)
from click.testing import Result
from cryptography import x509

Run = Callable[..., Result]
MINUTE = dt.timedelta(minutes=1)
WIDTHS = (80, 120)


@pytest.fixture
def issuer(run: Run, directory: Path) -> Run:
    """The commands on the directory of an issuer."""
    for arguments in (("init",), ("issue", "ca-1")):
        assert run(*arguments, "--key-type", "p256").exit_code == 0
    write_issuer_address(directory, "ca-1", "10.0.0.5:50051")
    return run


def enroll(directory: Path, text: str, issuer_id: str = "ca-1") -> x509.Certificate:
    token = Token.parse(text)
    request = new_enrolment_key_and_csr(token.node_id, key_type="p256")
    ca = CertificateAuthority.load(directory)
    chain = ca.enroll(request.csr, token.certificate, issuer_id=issuer_id).chain
    return x509.load_der_x509_certificate(chain[0])


def tokens(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("token", "--list", "--json").stdout)["tokens"]
    return found


def test_only_the_token_is_printed(issuer: Run) -> None:
    options = ("--host", "api.acme.example", "--days", "7", "--ttl", "1h", "--client-only")
    made = issuer("token", "orders-1", *options)
    assert (made.exit_code, made.stderr) == (0, "")
    assert re.fullmatch(r"aegis1\.[A-Za-z0-9_-]+\n", made.stdout)
    token = Token.parse(made.stdout)
    assert token.issuers == (IssuerAddress("ca-1", "10.0.0.5:50051"),)
    left = token.not_after - dt.datetime.now(dt.UTC)
    assert 59 * MINUTE < left <= 60 * MINUTE
    (listed,) = tokens(issuer)
    assert (listed["id"], listed["state"], listed["days"]) == ("orders-1", "unused", 7)
    assert (listed["hosts"], listed["server"]) == (["api.acme.example"], False)


def test_a_second_open_token_of_a_node_is_a_warning(
    issuer: Run, caplog: pytest.LogCaptureFixture
) -> None:
    first = Token.parse(issuer("token", "orders-1").stdout)
    issuer("token", "orders-2")
    assert caplog.messages == []
    again = issuer("token", "orders-1")
    assert re.fullmatch(r"aegis1\.[A-Za-z0-9_-]+\n", again.stdout)
    (warning,) = caplog.messages
    assert "orders-1 has another unused token until" in warning
    assert f"--cancel {first.serial}" in warning
    listed = issuer("token", "--list").stdout
    assert first.serial[:8] in listed  # which is enough to name it
    assert issuer("token", "--cancel", first.serial[:7]).exit_code == 7
    cancelled = issuer("token", "--cancel", first.serial[:8])
    assert f"Cancelled the token {first.serial} of orders-1" in cancelled.stdout
    assert issuer("token", "--cancel", Token.parse(again.stdout).serial).exit_code == 0
    issuer("token", "orders-1")
    assert caplog.messages == [warning]


def test_the_token_is_in_no_file_and_no_log(issuer: Run, directory: Path) -> None:
    token = Token.parse(issuer("token", "orders-1").stdout)
    secret = token.key_pem.splitlines()[2]  # the first line of each P-256 key begins alike
    for path in directory.iterdir():
        assert secret not in path.read_bytes(), path
    for name in ("issued.json", "audit.jsonl", "issuers.json"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_json_has_the_token_and_what_it_says(issuer: Run) -> None:
    made = json.loads(issuer("token", "orders-1", "--json").stdout)
    assert Token.parse(made["token"]).serial == made["serial"]
    assert made["issuers"] == [{"node_id": "ca-1", "address": "10.0.0.5:50051"}]


def test_a_terminal_gets_a_hint_on_standard_error_too(
    issuer: Run, directory: Path, terminal: Callable[..., Any]
) -> None:
    assert issuer("token", "--list").exit_code == 0
    output, code = terminal("token", "orders-1", "--dir", str(directory)).end()
    assert code == 0
    assert "aegis1." in output
    assert "aegis enroll --token-file FILE" in output
    assert "Treat it as a password" in output


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ((), ["ca-1 10.0.0.5:50051"]),
        (("--at", "ca.example:1"), ["ca-1 ca.example:1", "ca-1 10.0.0.5:50051"]),
        (
            ("--at", "[fd00::1]:2", "--at", "b:3", "--issuer-id", "ca-9"),
            ["ca-9 [fd00::1]:2", "ca-9 b:3", "ca-1 10.0.0.5:50051"],
        ),
    ],
)
def test_a_token_names_the_given_issuers_and_then_those_of_the_directory(
    issuer: Run, given: tuple[str, ...], found: list[str]
) -> None:
    token = Token.parse(issuer("token", "orders-1", *given).stdout)
    assert [" ".join(one) for one in token.issuers] == found


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "give one of"),
        (("orders-1", "--list"), 2, "give one of"),
        (("--list", "--cancel", "orders-1"), 2, "give one of"),
        (("Orders_1",), 2, "cannot be a node id"),
        (("orders-1", "--ttl", "15"), 2, "such as 15m"),
        (("orders-1", "--ttl", "0s"), 2, "at least a second"),
        (("orders-1", "--ttl", "31d"), 2, "at most 30 days"),
        (("orders-1", "--ttl", "999999999d"), 2, "at most 30 days"),
        (("orders-1", "--days", "0"), 2, "days"),
        (("orders-1", "--server-only"), 2, "No such option"),  # it could not renew itself
        (("orders-1", "--host", "ca-1"), 2, "could impersonate"),
        (("orders-1", "--host", "localhost"), 2, "every machine is localhost"),
        (("orders-1", "--at", "ca.example"), 2, "host:port"),
        (("orders-1", "--at", "ca.example:0"), 2, "1 to 65535"),
        (("orders-1", "--at", "ca example:1"), 2, "DNS name"),
        (("orders-1", "--issuer-id", "ca-1"), 2, "--at"),
        (("--cancel", "orders-1"), 7, "no unused token"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    issuer: Run, arguments: tuple[str, ...], code: int, says: str
) -> None:
    result = issuer("token", *arguments)
    assert result.exit_code == code
    assert says in " ".join(result.stderr.split())
    assert "unexpected" not in result.stderr
    assert result.stdout == ""
    assert tokens(issuer) == []


def test_an_issuer_must_be_known(run: Run, directory: Path) -> None:
    assert run("init", "--key-type", "p256").exit_code == 0
    nobody = run("token", "orders-1")
    assert nobody.exit_code == 7
    assert "aegis node run --id ca-1 --issuer" in nobody.stderr
    assert "--issuer-id" in run("token", "orders-1", "--at", "h:1").stderr
    run("issue", "ca-1", "--key-type", "p256")  # the only node that the directory knows
    token = Token.parse(run("token", "orders-1", "--at", "h:1").stdout)
    assert token.issuers == (IssuerAddress("ca-1", "h:1"),)
    run("issue", "ca-2", "--key-type", "p256")
    assert run("token", "orders-1", "--at", "h:1").exit_code == 2
    (directory / "issuers.json").write_text("junk")
    assert run("token", "orders-1").exit_code == 7
    for _ in range(2):  # an issuer that starts makes it good again
        write_issuer_address(directory, "ca-2", "10.0.0.6:1")
        assert Token.parse(run("token", "orders-1").stdout).issuers[0].node_id == "ca-2"
    write_issuer_address(directory, "ca-2", None)
    assert run("token", "orders-1").exit_code == 7


def test_the_list_says_who_used_which_token_when_and_where(issuer: Run, directory: Path) -> None:
    assert "There is no token" in issuer("token", "--list").stdout
    text = issuer("token", "orders-1").stdout
    leaf = enroll(directory, text, "ca-7")
    issuer("token", "laptop")
    issuer("token", "--cancel", "laptop")
    used, cancelled = tokens(issuer)
    assert (used["state"], used["issuer"]) == ("used", "ca-7")
    assert used["certificate"] == f"{leaf.serial_number:x}"
    assert re.fullmatch(r"[0-9a-f]{64}", used["used_by"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", used["used_at"])
    assert (cancelled["state"], cancelled["used_at"]) == ("cancelled", None)
    for width in WIDTHS:
        table = issuer("token", "--list", COLUMNS=str(width)).stdout
        assert max(map(len, table.splitlines())) <= width
        assert all(word in table for word in ("orders-1", "used", "ca-7", "cancelled", "90 days"))
    piped = issuer("token", "--list").stdout.splitlines()
    assert len(piped) == 3
    assert re.search(r"^orders-1 .* used .* ca-7$", piped[1])


def test_the_list_needs_neither_the_key_of_the_ca_nor_its_passphrase(
    issuer: Run, directory: Path
) -> None:
    issuer("token", "orders-1")
    (directory / "ca-key.pem").unlink()
    assert [one["id"] for one in tokens(issuer)] == ["orders-1"]


def test_a_token_is_cancelled_by_its_serial_number_in_any_form(issuer: Run) -> None:
    issuer("token", "orders-1")
    serial = tokens(issuer)[0]["serial"]
    issuer("token", "orders-1")
    done = issuer("token", "--cancel", f"00:{serial.upper()}")
    assert done.exit_code == 0
    assert serial in done.stdout
    assert [one["state"] for one in tokens(issuer)] == ["cancelled", "unused"]


def test_list_shows_who_enrolled_by_which_token_through_which_issuer(
    issuer: Run, directory: Path
) -> None:
    first = enroll(directory, issuer("token", "orders-1").stdout, "ca-7")
    ca = CertificateAuthority.load(directory)
    request = new_enrolment_key_and_csr("orders-1", key_type="p256")
    ca.renew_for(request.csr, first, issuer_id="ca-8")
    listed = json.loads(issuer("list", "--json").stdout)["certificates"]
    found = {one["state"]: one for one in listed if one["id"] == "orders-1"}
    assert (found["valid"]["through"], found["replaced"]["through"]) == ("ca-8", "ca-7")
    for one in found.values():
        assert one["enrolled"]["token"] == tokens(issuer)[0]["serial"]
        assert one["enrolled"]["through"] == "ca-7"
    others = [one for one in listed if one["id"] != "orders-1"]
    assert {(one["through"], one["enrolled"]) for one in others} == {("", None)}
    for width in WIDTHS:
        table = issuer("list", COLUMNS=str(width)).stdout
        assert max(map(len, table.splitlines())) <= width
        words = " ".join(table.split())
        assert "orders-1: enrolled at" in words
        assert "through ca-7 with the token" in words
        assert "its certificate is from ca-8" in words
    piped = issuer("list").stdout.splitlines()
    assert piped[0].split()[-3:] == ["THROUGH", "ENROLLED", "TOKEN"]
    assert re.search(r"^orders-1 .* valid +ca-8 +\d{4}-\d\d-\d\d +[0-9a-f]{8}…$", piped[3])


def test_a_node_with_a_life_of_an_hour_is_listed_with_its_newest_certificate(
    issuer: Run, directory: Path
) -> None:
    leaf = enroll(directory, issuer("token", "hourly", "--days", "0.04").stdout)
    request = new_enrolment_key_and_csr("hourly", key_type="p256")
    CertificateAuthority.load(directory).renew_for(request.csr, leaf, issuer_id="ca-1")
    listed = json.loads(issuer("list", "--json").stdout)["certificates"]
    assert [one["state"] for one in listed if one["id"] == "hourly"] == ["valid"]
    every = json.loads(issuer("list", "--all", "--json").stdout)["certificates"]
    assert [one["state"] for one in every if one["id"] == "hourly"] == ["valid", "replaced"]


def test_the_other_commands_know_tokens(issuer: Run, directory: Path) -> None:
    def topic(name: str) -> str:
        found = json.loads(issuer("doctor", "--json").stdout)["findings"]
        return " ".join(one["text"] for one in found if one["topic"] == name)

    for node_id in ("orders-1", "orders-2", "orders-3"):
        issuer("token", node_id)
    assert "tokens that wait for their machines: 3" in topic("inventory")
    revoked = json.loads(issuer("revoke", "orders-1", "--json").stdout)
    assert [one["serial"] for one in revoked["revoked"]] == [tokens(issuer)[0]["serial"]]
    serial = tokens(issuer)[1]["serial"]
    assert issuer("revoke", serial).exit_code == 0
    assert [one["state"] for one in tokens(issuer)] == ["cancelled", "cancelled", "unused"]
    assert "tokens that wait for their machines: 1" in topic("inventory")
    assert issuer("renew").exit_code == 0
    assert issuer("remove", "orders-1").exit_code == 0
    assert issuer("remove", "orders-1").exit_code == 7
    assert [one["id"] for one in tokens(issuer)] == ["orders-2", "orders-3"]
    (directory / "issued.json").unlink()  # and so says the log
    assert [one["id"] for one in tokens(issuer)] == ["orders-2", "orders-3"]
    assert issuer("doctor").exit_code == 0


def test_tokens_do_not_stop_a_rotation(issuer: Run) -> None:
    issuer("token", "orders-1")
    issuer("rotate-ca", "prepare")
    issuer("token", "orders-2")
    assert issuer("rotate-ca", "activate", "--confirm").exit_code == 0
    assert issuer("renew").exit_code == 0
    retired = issuer("rotate-ca", "retire")
    assert retired.exit_code == 0, retired.stderr
    assert [one["state"] for one in tokens(issuer)] == ["expired", "expired"]
    assert issuer("token", "--cancel", "orders-1").exit_code == 7
