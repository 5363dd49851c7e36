"""The files of the deployment guides, tried as far as it goes without their engines."""

import email
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_core._node.settings import CONFIG, VARIABLES

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "examples" / "deploy"
SECONDS = 60


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def volume(tmp_path):
    """A directory like the volume of a Secret: links to files that their group can read."""
    ca = CertificateAuthority.create(tmp_path / "ca", key_type=KeyType.P256)
    ca.issue("orders-0", key_type=KeyType.P256)
    data = tmp_path / "certs" / "..2026"
    data.mkdir(parents=True)
    (data.parent / "..data").symlink_to(data.name)
    for name in ("ca-cert.pem", "orders-0-cert.pem", "orders-0-key.pem"):
        (data / name).write_bytes((tmp_path / "ca" / name).read_bytes())
        (data / name).chmod(0o440)
        (data.parent / name).symlink_to(f"..data/{name}")
    data.parent.chmod(0o3777)
    return data.parent


@contextmanager
def running(command, environment, directory=DEPLOY):
    """Runs a node until the block ends; enters when it serves."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("AEGIS_")}
    with subprocess.Popen(
        command, cwd=directory, env=own | environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert any(" serves at " in line for line in process.stderr)
            yield process
        finally:
            process.kill()


def probe(environment):
    return subprocess.run(
        [sys.executable, DEPLOY / "probe.py"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def wait_until_ready(environment):
    """Returns when the probe answers: a node first finds out which seed peers it has."""
    end = time.monotonic() + SECONDS
    while probe(environment).returncode:
        assert time.monotonic() < end


def test_the_node_serves_answers_its_probe_and_stops(volume, address) -> None:
    environment = {
        "AEGIS_NODE_ID": "orders-0",
        "AEGIS_ADDRESS": f"0.0.0.0:{address.rpartition(':')[2]}",
        "AEGIS_ADVERTISE": address,
        "AEGIS_SERVICES": "orders/v1",
        "AEGIS_JOIN": address,
        "AEGIS_CERT_DIR": str(volume),
    }
    before = probe(environment)
    assert (before.returncode, "does not answer" in before.stderr) == (1, True)
    with running([sys.executable, "orders.py"], environment) as node:
        wait_until_ready(environment)
        node.send_signal(signal.SIGTERM)
        node.stderr.read()
        assert node.wait(SECONDS) == 0
    assert probe(environment).returncode == 1


def test_the_node_takes_its_settings_from_the_file_of_the_unit(volume, address, tmp_path) -> None:
    settings = (DEPLOY / "orders.toml").read_text()
    for example, here in {
        "orders-1": "orders-0",
        "10.0.0.7:50051": address,
        "0.0.0.0:50051": address,
        "10.0.0.5:50051": address,
        "/etc/aegis/orders": str(volume),
    }.items():
        assert f'"{example}"' in settings
        settings = settings.replace(f'"{example}"', f'"{here}"')
    (tmp_path / "orders.toml").write_text(settings)
    with running([sys.executable, "orders.py"], {CONFIG: str(tmp_path / "orders.toml")}) as node:
        node.send_signal(signal.SIGTERM)
        node.stderr.read()
        assert node.wait(SECONDS) == 0


@pytest.mark.parametrize(
    "file", ["Dockerfile", "compose.yaml", "kubernetes.yaml", "aegis-orders.service"]
)
def test_a_file_sets_only_variables_that_a_node_reads(file) -> None:
    text = (DEPLOY / file).read_text()
    assert set(re.findall(r"AEGIS_\w+", text)) <= {*VARIABLES.values(), CONFIG}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path) -> None:
    # It wants the program to exist, and no directory below /dev, where those of tests may be.
    unit = (DEPLOY / "aegis-orders.service").read_text()
    python = "/opt/orders/env/bin/python"
    assert python in unit
    file = tmp_path / "aegis-orders.service"
    file.write_text(unit.replace(python, sys.executable).replace("/opt/orders", sys.prefix))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.soak  # it installs the validators from the real index
@pytest.mark.parametrize(
    "command",
    [
        ("check-jsonschema==0.38.*", "--builtin-schema", "vendor.compose-spec", "compose.yaml"),
        ("kubernetes-validate==1.37.*", "--strict", "kubernetes.yaml"),
    ],
    ids=lambda command: command[-1],
)
def test_a_file_has_the_schema_of_its_engine(command) -> None:
    tool, *arguments = command
    subprocess.run(
        ["uv", "tool", "run", "--quiet", tool, *arguments], cwd=DEPLOY, check=True, timeout=SECONDS
    )


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.mark.timeout(600)
@pytest.mark.soak  # it builds the wheels and installs from the real index
def test_the_steps_of_the_dockerfile_make_a_node(volume, address, tmp_path) -> None:
    folder, app = tmp_path / "folder", tmp_path / "app"
    folder.mkdir()
    app.mkdir()
    url = "https://example.com/aegis"
    build = [sys.executable, ROOT / "scripts" / "build_release.py", "--out", folder / "wheels"]
    subprocess.run([*build, "--url", url], check=True, timeout=300)
    wheels = sorted((folder / "wheels").glob("*.whl"))
    for wheel in wheels:
        metadata = _metadata(wheel)
        links = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
        assert links["Repository"] == url
        readme = metadata.get_payload()
        assert set(re.findall(r"\]\((https://example\.com/[^)]+)\)", readme)) == {*links.values()}
        for link in links.values():
            file = link.removeprefix(f"{url}/blob/main/")
            assert file == link or (ROOT / file).is_file()
    assert len(wheels) == 4
    for file in ("orders.py", "probe.py"):
        shutil.copy(DEPLOY / file, folder)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "image"], check=True, timeout=SECONDS)
    binaries = tmp_path / "image" / "bin"
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        instruction, _, arguments = line.partition(" ")
        if instruction == "COPY":
            *sources, target = arguments.split()
            for source in sources:
                subprocess.run(["cp", "-r", folder / source, app / target], check=True)
        elif instruction == "RUN":
            subprocess.run(f"{binaries}/{arguments}", shell=True, cwd=app, check=True, timeout=300)  # noqa: S602 - as Docker does
    environment = {
        "AEGIS_NODE_ID": "orders-0",
        "AEGIS_ADDRESS": address,
        "AEGIS_CERT_DIR": str(volume),
    }
    with running([binaries / "python", "orders.py"], environment, app):
        assert (
            subprocess.run(
                [binaries / "python", "probe.py"],
                cwd=app,
                env=os.environ | environment,
                timeout=SECONDS,
                check=False,
            ).returncode
            == 0
        )
