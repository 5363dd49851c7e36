"""What other programs read: SPIFFE bundles, Kubernetes secrets and PKCS#12 files."""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import json
import os
import shutil
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    InvalidPemError,
    InvalidRequestError,
    KeyType,
    NotFoundError,
    PassphraseError,
    kubernetes_secret,
    pkcs12,
    spiffe_bundle,
)
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

DAY = dt.timedelta(days=1)
PASSPHRASE = "correct horse"


def tls_of(ca: CertificateAuthority) -> Any:
    return ca.issue("orders-1", key_type=KeyType.P256)


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def certificates_of(bundle: dict[str, Any]) -> list[x509.Certificate]:
    encoded = [key["x5c"] for key in bundle["keys"]]
    assert all(len(one) == 1 for one in encoded)
    return [x509.load_der_x509_certificate(base64.b64decode(one[0])) for one in encoded]


@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.P384, KeyType.RSA_2048])
def test_a_spiffe_bundle_has_each_root_with_the_members_of_its_key(
    directory: Path, key_type: KeyType
) -> None:
    ca = CertificateAuthority.create(directory, key_type=key_type)
    bundle = spiffe_bundle(directory, refresh_hint=60)
    assert bundle["spiffe_refresh_hint"] == 60
    (key,) = bundle["keys"]
    assert key["use"] == "x509-svid"
    assert certificates_of(bundle) == [ca.certificate]
    public = ca.certificate.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        assert key["kty"] == "RSA"
        numbers = public.public_numbers()
        assert (number(key["n"]), number(key["e"])) == (numbers.n, numbers.e)
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert (key["kty"], key["crv"]) == ("EC", {"p256": "P-256", "p384": "P-384"}[key_type])
        point = public.public_numbers()
        assert (number(key["x"]), number(key["y"])) == (point.x, point.y)
        assert len(base64.urlsafe_b64decode(key["x"] + "==")) == public.key_size // 8


def test_the_sequence_grows_with_each_step_of_a_rotation_and_with_nothing_else(
    ca: CertificateAuthority, directory: Path
) -> None:
    found = [spiffe_bundle(directory)]
    steps: list[Callable[[], object]] = [
        lambda: ca.issue("orders-1", key_type=KeyType.P256),
        ca.prepare_rotation,
        lambda: ca.renew("orders-1"),
        lambda: ca.activate_rotation(confirm=True),
        ca.renew_due,
        ca.retire_rotation,
    ]
    for step in steps:
        step()
        found.append(spiffe_bundle(directory))
    sequences = [bundle["spiffe_sequence"] for bundle in found]
    roots = [len(bundle["keys"]) for bundle in found]
    assert roots == [1, 1, 2, 2, 2, 2, 1]
    grew = [after > before for before, after in itertools.pairwise(sequences)]
    assert grew == [False, True, False, True, False, True]
    assert spiffe_bundle(directory)["spiffe_sequence"] == sequences[-1]


def test_the_sequence_grows_if_clock_log_or_file_times_go_back(
    ca: CertificateAuthority, directory: Path
) -> None:
    bundle = directory / "ca-cert.pem"
    ahead = dt.datetime.now(dt.UTC) + DAY
    ca.prepare_rotation(at=ahead)
    first = spiffe_bundle(directory)["spiffe_sequence"]
    assert first >= int(ahead.timestamp()) * 1000  # the log counts
    ca.activate_rotation(confirm=True)  # the clock is right again
    second = spiffe_bundle(directory)["spiffe_sequence"]
    assert second > first
    # A file from a backup keeps its time of modification.
    (directory / "audit.jsonl").unlink()
    before = spiffe_bundle(directory)["spiffe_sequence"]
    content = bundle.read_bytes()
    bundle.unlink()
    bundle.write_bytes(content)
    os.utime(bundle, (0, 0))
    assert spiffe_bundle(directory)["spiffe_sequence"] >= before
    assert spiffe_bundle(directory)["spiffe_sequence"] > int((ahead - 2 * DAY).timestamp()) * 1000


def test_a_spiffe_bundle_leaves_out_intermediates_and_damaged_lines(directory: Path) -> None:
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256, intermediate=True)
    with (directory / "audit.jsonl").open("a") as log:
        log.write('{"action":"create-ca"}\n{"action":"create-ca","time":7}\nnothing\n')
    assert certificates_of(spiffe_bundle(directory)) == [ca.bundle.certificates[-1]]


def test_what_is_no_spiffe_bundle_is_refused(
    directory: Path, make_certificate: Callable[..., Any]
) -> None:
    with pytest.raises(NotFoundError, match="trust bundle"):
        spiffe_bundle(directory)
    directory.mkdir(mode=0o700)
    made = make_certificate("Edwards", ca=True)
    (directory / "ca-cert.pem").write_bytes(made.pem)
    with pytest.raises(InvalidRequestError, match="refresh hint"):
        spiffe_bundle(directory, refresh_hint=0)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Edwards")])
    key = ed25519.Ed25519PrivateKey.generate()
    odd = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(made.certificate.not_valid_before_utc)
        .not_valid_after(made.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None)
    )
    (directory / "ca-cert.pem").write_bytes(odd.public_bytes(Encoding.PEM))
    with pytest.raises(InvalidPemError, match="Edwards"):
        spiffe_bundle(directory)


def test_a_kubernetes_secret_has_the_parts_of_an_identity(ca: CertificateAuthority) -> None:
    tls = tls_of(ca)
    secret = kubernetes_secret(tls)
    assert (secret["apiVersion"], secret["kind"], secret["type"]) == (
        *("v1", "Secret", "kubernetes.io/tls"),
    )
    assert secret["metadata"] == {"name": "orders-1"}
    assert {name: base64.b64decode(data) for name, data in secret["data"].items()} == {
        "tls.crt": tls.certificate_chain,
        "tls.key": tls.private_key,
        "ca.crt": tls.trust_bundle,
    }
    assert kubernetes_secret(tls, name="a.b-1")["metadata"] == {"name": "a.b-1"}
    for name in ("", "A", "a_b", "-a", "a..b", "a\n", "x: y", "a" * 254):
        with pytest.raises(InvalidRequestError):
            kubernetes_secret(tls, name=name)


def test_the_command_writes_a_manifest_as_yaml_or_json(acme: Callable[..., Result]) -> None:
    manifest = acme("export", "orders-1", "--kubernetes-secret", "--name", "7").stdout
    found = json.loads(acme("export", "orders-1", "--kubernetes-secret", "--json").stdout)
    data = "".join(f"  {name}: {value}\n" for name, value in found["data"].items())
    assert manifest == (
        'apiVersion: v1\nkind: Secret\nmetadata:\n  name: "7"\ntype: kubernetes.io/tls\n'
        f"data:\n{data}"
    )


def test_openssl_and_java_read_a_pkcs12_file(
    ca: CertificateAuthority, tmp_path: Path, directory: Path
) -> None:
    tls, path, read = tls_of(ca), tmp_path / "orders-1.p12", tmp_path / "read.pem"
    path.write_bytes(pkcs12(tls, PASSPHRASE))
    secret = {**os.environ, "P": PASSPHRASE}
    command = ["openssl", "pkcs12", "-in", path, "-passin", "env:P", "-nodes", "-out", read]
    subprocess.run(command, env=secret, check=True, capture_output=True)
    text = read.read_text()
    assert [text.count(f"BEGIN {what}") for what in ("PRIVATE KEY", "CERTIFICATE")] == [1, 2]
    assert "friendlyName: orders-1" in text
    verify = ["openssl", "verify", "-CAfile", directory / "ca-cert.pem", read]
    assert b"OK" in subprocess.run(verify, check=True, capture_output=True).stdout
    wrong = subprocess.run(command, env={**secret, "P": "other"}, check=False, capture_output=True)
    assert wrong.returncode != 0
    if shutil.which("keytool"):
        listing = ["keytool", "-list", "-v", "-keystore", path, "-storepass:env", "P"]
        shown = subprocess.run(listing, env=secret, check=True, capture_output=True).stdout.decode()
        assert "PrivateKeyEntry" in shown
        assert "Certificate chain length: 2" in shown


def test_a_passphrase_that_some_program_would_refuse_is_refused(ca: CertificateAuthority) -> None:
    tls = tls_of(ca)
    for passphrase in ("", "x" * 1024, b"\xff"):
        with pytest.raises(PassphraseError):
            pkcs12(tls, passphrase)


def test_the_command_writes_a_private_pkcs12_file_and_none_onto_a_terminal(
    acme: Callable[..., Result], directory: Path, tmp_path: Path, terminal: Any
) -> None:
    out, secret = tmp_path / "x.p12", tmp_path / "secret"
    secret.write_text(PASSPHRASE)
    arguments = ("export", "orders-1", "--pkcs12")
    in_file = acme(*arguments, "--passphrase-file", str(secret), "--out", str(out))
    assert (in_file.exit_code, in_file.stdout) == (0, "")
    assert out.stat().st_mode & 0o777 == 0o600
    piped = acme(*arguments, AEGIS_PKCS12_PASSPHRASE=PASSPHRASE)
    assert piped.stdout_bytes[:1] == b"\x30"  # a sequence in DER
    assert acme(*arguments).exit_code == 2  # nobody can be asked
    output, code = terminal(*arguments, AEGIS_CERT_DIR=str(directory)).end()
    assert code == 2
    assert "--out" in output
    asked = terminal(*arguments, "--out", str(out), "--force", AEGIS_CERT_DIR=str(directory))
    for prompt in ("Passphrase for the PKCS#12 file:", "Repeat for confirmation:"):
        # What is typed before the echo is off is thrown away.
        asked.read_until(
            lambda output, prompt=prompt: (
                prompt in output and not termios.tcgetattr(asked.fd)[3] & termios.ECHO
            )
        )
        os.write(asked.fd, b"typed\n")
    assert asked.end()[1] == 0
    command = ["openssl", "pkcs12", "-in", out, "-passin", "pass:typed", "-nokeys"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--pkcs12",),
        ("--kubernetes-secret",),
        ("orders-1", "--spiffe-bundle"),
        ("orders-1", "--env", "--pkcs12"),
        ("orders-1", "--name", "x"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    acme: Callable[..., Result], arguments: tuple[str, ...]
) -> None:
    assert acme("export", *arguments).exit_code == 2


def test_the_command_writes_a_spiffe_bundle(acme: Callable[..., Result], directory: Path) -> None:
    assert json.loads(acme("export", "--spiffe-bundle").stdout) == spiffe_bundle(directory)
    assert acme("export", "--spiffe-bundle", "--dir", "nowhere").exit_code == 7
