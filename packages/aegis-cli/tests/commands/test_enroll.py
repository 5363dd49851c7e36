"""`aegis enroll`, and renewal through a node of the mesh, as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, IssuerAddress, KeyType, Token


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CertificateAuthority]:
    """The CA of an issuer that runs as a command."""
    ca = CertificateAuthority.create(tmp_path_factory.mktemp("home"), key_type=KeyType.P256)
    ca.issue("ca-1", key_type=KeyType.P256, address="127.0.0.1:0")
    command = [sys.executable, "-m", "aegis_cli", "node", "run", "--id", "ca-1", "--issuer"]
    with subprocess.Popen(
        [*command, "--cert-dir", ca.directory], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "ca-1 serves at" in process.stdout.readline()
        yield ca
        process.terminate()


def _address(ca: CertificateAuthority) -> str:
    return ca.create_token("x").issuers[0].address


def test_a_token_from_a_file_the_environment_or_standard_input(
    aegis: Any, issuer: CertificateAuthority, tmp_path: Path
) -> None:
    def token(node_id: str) -> str:
        return str(issuer.create_token(node_id))

    (tmp_path / "token").write_text(token("a"))
    options = ("--key-type", "p256", "--cert-dir", str(tmp_path / "certs"))
    done = aegis.invoke("enroll", "--token-file", str(tmp_path / "token"), *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a has enrolled\n")
    assert "Next: aegis node run --id a --join 127.0.0.1:" in done.stdout
    client = str(issuer.create_token("b", client_only=True))
    done = aegis.run("enroll", *options, given=client + "\n")
    assert done.stdout.startswith("b has enrolled\n")
    assert "cannot serve" in done.stdout
    assert "aegis node run" not in done.stdout
    done = aegis.invoke("enroll", *options, "--json", AEGIS_ENROLL_TOKEN=token("c"))
    facts = json.loads(done.stdout)
    assert (facts["id"], facts["enrolled"]) == ("c", True)
    done = aegis.invoke("enroll", "--token-file", str(tmp_path / "token"), *options)
    assert "has a valid identity already; the token was not used" in done.stdout


def test_errors_are_one_sentence_and_show_nothing_of_a_token(
    aegis: Any, issuer: CertificateAuthority, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    text = str(issuer.create_token("a"))
    for arguments, given, message in (
        (["other"], text, "it is for a, not for other"),
        ([], text[:-9], "damaged"),
        ([], "", "it is empty"),
        ([], "a token", "begins with aegis1."),
        (["--token-file", str(tmp_path / "none")], "", "cannot read"),
        # Nobody would find an identity that stays in memory, so the token is not used.
        (["--cert-dir", str(tmp_path / "file" / "below")], text, "not a directory"),
    ):
        done = aegis.invoke("enroll", "--cert-dir", str(tmp_path / "x"), *arguments, given=given)
        assert done.returncode != 0
        assert message in done.stderr.replace("\n", " "), done.stderr
        assert "Traceback" not in done.stderr
        assert text[20:40] not in done.stdout + done.stderr


def test_why_there_is_no_certificate_yet_is_said_once_while_it_asks_again(
    aegis: Any, issuer: CertificateAuthority, tmp_path: Path
) -> None:
    token = issuer.create_token("a", issuers=[IssuerAddress("ca-1", "127.0.0.1:1")])
    only = Token(token.key_pem, token.certificate, token.bundle, token.issuers[:1])
    options = ("--cert-dir", str(tmp_path), "--key-type", "p256", "--timeout", "1.5")
    done = aegis.invoke("enroll", *options, given=str(only))
    assert done.returncode == 1
    warning, error = done.stderr.splitlines()
    assert warning.startswith("Warning: no certificate from ca-1@127.0.0.1:1 yet (it refused the c")
    assert "trying again for" in warning
    assert error.startswith("Error: no issuer gave a certificate (ca-1@127.0.0.1:1")


def test_an_identity_is_renewed_through_a_node(
    aegis: Any, issuer: CertificateAuthority, tmp_path: Path
) -> None:
    options = ("--key-type", "p256", "--cert-dir", str(tmp_path))
    aegis.invoke("enroll", *options, given=str(issuer.create_token("a")))
    before = (tmp_path / "a-cert.pem").read_bytes()
    at = ("--dir", str(tmp_path), "--via", _address(issuer))
    done = aegis.invoke("certs", "renew", *at)
    assert (done.returncode, done.stdout) == (0, f"No certificate in {tmp_path} is due.\n")
    done = aegis.invoke("certs", "renew", "a", *at)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Renewed a, until ")
    assert (tmp_path / "a-cert.pem").read_bytes() != before


def test_the_command_without_grpc_says_what_to_install(aegis: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from aegis_certs.cli import certs; certs()",
            "renew",
            "--via",
            "127.0.0.1:1",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "aegis certs renew --via" in " ".join(done.stderr.split())
