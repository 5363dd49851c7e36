from __future__ import annotations

import datetime as dt
import ipaddress
import os
import pty
import select
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_certs.cli import certs
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
HOUR = dt.timedelta(hours=1)

COMMAND = Path(sysconfig.get_path("scripts")) / "aegis-certs"
EC = ("--key-type", "p256")
# Before click 8.2 an option was needed to separate the two streams.
SEPARATE_STREAMS = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
BOTH_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@pytest.fixture(autouse=True)
def fresh_now(request: pytest.FixtureRequest) -> None:
    """Sets a test module's NOW when a test starts, which is minutes after the import."""
    if hasattr(request.module, "NOW"):
        request.module.NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Made:
    """A certificate with any content, built directly."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def traditional_key_pem(self) -> bytes:
        return self.key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )


def make(
    *names: str,
    issuer: Made | None = None,
    ca: bool = False,
    path_length: int | None = None,
    sans: Sequence[x509.GeneralName] = (),
    usages: Sequence[x509.ObjectIdentifier] = (),
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    start: dt.datetime = NOW - HOUR,
    end: dt.datetime = NOW + HOUR,
    extensions: bool = True,
) -> Made:
    """Builds a certificate with these common names; old tools use `extensions=False`."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    signer = issuer.key if issuer else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    )
    if extensions:
        usage = x509.KeyUsage(True, False, False, False, False, ca, ca, False, False)
        ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(ski, critical=False).add_extension(aki, critical=False)
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return Made(builder.sign(signer, hashes.SHA256()), key)


def make_go_node(node_id: str, issuer: Made, **changes: object) -> Made:
    """Builds a leaf as a Go node of this mesh does."""
    loopback = [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ("127.0.0.1", "::1")]
    shape: dict[str, object] = {
        "issuer": issuer,
        "sans": [x509.DNSName(node_id), x509.DNSName("localhost"), *loopback],
        "usages": BOTH_USAGES,
    }
    return make(node_id, **(shape | changes))  # type: ignore[arg-type]  # tests may change any


@pytest.fixture
def make_certificate() -> Callable[..., Made]:
    return make


@pytest.fixture
def go_node() -> Callable[..., Made]:
    return make_go_node


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "certs"


@pytest.fixture
def ca(directory: Path) -> CertificateAuthority:
    return CertificateAuthority.create(directory, key_type=KeyType.P256, name="Test CA")


@pytest.fixture
def run(directory: Path) -> Callable[..., Result]:
    def run(*arguments: str, **environment: str) -> Result:
        settings = {"AEGIS_CERT_DIR": str(directory), "COLUMNS": None} | environment
        return CliRunner(env=settings, **SEPARATE_STREAMS).invoke(
            certs, arguments, prog_name="aegis-certs"
        )

    return run


@pytest.fixture
def acme(run: Callable[..., Result]) -> Callable[..., Result]:
    """The commands on a directory with a CA and two nodes."""
    for arguments in (
        ("init", *EC, "--name", "Acme"),
        ("issue", "orders-1", *EC),
        ("issue", "laptop", *EC, "--client-only", "--days", "7"),
    ):
        assert run(*arguments).exit_code == 0
    return run


class Terminal:
    """A command on its own terminal; a test reads until some output appears.

    The terminal drops input that is typed before a hidden prompt was printed completely.
    """

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.output = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            inherited = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
            settings = {**inherited, "COLUMNS": "80", "TERM": "xterm", **environment}
            command = ["aegis-certs", *arguments]
            os.execve(COMMAND, command, settings)  # noqa: S606 - in the child of a pty

    def read_until(self, seen: Callable[[str], bool], seconds: float = 30) -> str:
        deadline = time.monotonic() + seconds
        while not seen(self.output) and time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self.fd, 65536).decode()
                except OSError:  # the command has ended
                    break
        return self.output

    def end(self) -> tuple[str, int]:
        self.read_until(lambda _: False)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return self.output, os.waitstatus_to_exitcode(status)


@pytest.fixture
def terminal() -> type[Terminal]:
    return Terminal
