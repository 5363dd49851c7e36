"""Roots in the stores of a system and of browsers, with the real tools of Debian and of NSS."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    KeyType,
    TrustStep,
    TrustStoreError,
    browser_trust_stores,
    system_trust_store,
)
from click.testing import Result

HOST = "wiki.acme.example"
TOOLS = f"{os.environ['PATH']}:/usr/sbin"
needs_debian = pytest.mark.skipif(
    not (shutil.which("update-ca-certificates", path=TOOLS) and shutil.which("curl")),
    reason="needs ca-certificates and curl",
)
needs_nss = pytest.mark.skipif(not shutil.which("certutil"), reason="needs libnss3-tools")


def apply(steps: Sequence[TrustStep]) -> list[str]:
    for step in steps:
        step.apply()
    return [step.text for step in steps]


@pytest.fixture
def debian(tmp_path: Path, make_certificate: Callable[..., Any]) -> Path:
    """The root of a Debian system that trusts one CA of its own."""
    root = tmp_path / "debian"
    for folder in (
        "usr/local/share/ca-certificates",
        "usr/share/ca-certificates/mozilla",
        "etc/ssl/certs",
        "etc/ca-certificates/update.d",
    ):
        (root / folder).mkdir(parents=True)
    (root / "etc/ca-certificates.conf").write_text("mozilla/public.crt\n")
    public = make_certificate("Public", ca=True).pem
    (root / "usr/share/ca-certificates/mozilla/public.crt").write_bytes(public)
    return root


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the databases of Firefox and Chromium."""
    home = tmp_path / "home"
    for folder in (".mozilla/firefox/abc.my profile", ".pki/nssdb"):
        (home / folder).mkdir(parents=True)
        command = ["certutil", "-N", "--empty-password", "-d", f"sql:{home / folder}"]
        subprocess.run(command, check=True, capture_output=True)
    return home


@contextlib.contextmanager
def web_server(directory: Path, node_id: str) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / f"{node_id}-cert.pem", directory / f"{node_id}-key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with (
                        contextlib.suppress(OSError),
                        connection,
                        context.wrap_socket(connection, server_side=True) as tls,
                    ):
                        tls.recv(65536)
                        tls.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def curl(port: int, *options: str) -> int:
    resolve = ("--resolve", f"{HOST}:{port}:127.0.0.1")
    command = ("curl", "-sS", "--noproxy", "*", *resolve, *options, f"https://{HOST}:{port}/")
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode == 0) == (done.stdout == b"hello"), done.stderr
    return done.returncode


@needs_debian
def test_curl_believes_the_ca_while_debian_trusts_it(
    ca: CertificateAuthority, directory: Path, debian: Path
) -> None:
    ca.issue("wiki", hosts=[HOST], key_type=KeyType.P256)
    store, roots = system_trust_store(debian), ca.bundle.roots
    certs = debian / "etc/ssl/certs"
    # `nowhere` is no folder: curl must not look into the store of this machine.
    bundle = ("--cacert", str(certs / "ca-certificates.crt"), "--capath", str(debian / "nowhere"))
    with web_server(directory, "wiki") as port:
        taken = apply(store.plan_trust(roots))
        assert [step.split()[0] for step in taken] == ["write", "run"]
        assert curl(port, *bundle) == 0
        assert store.plan_trust(roots) == ()
        taken = apply(store.plan_removal(roots))
        assert [step.split()[0] for step in taken] == ["delete", "run"]
        assert curl(port, *bundle) == 60  # the certificate cannot be verified
        assert store.plan_removal(roots) == ()
    assert (
        "Public"
        in subprocess.run(
            ["openssl", "x509", "-in", certs / "ca-certificates.crt", "-noout", "-subject"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    )
    assert not [link for link in certs.iterdir() if not link.exists()]  # no link hangs


@needs_debian
def test_a_change_that_was_interrupted_is_finished_by_the_next(
    ca: CertificateAuthority, debian: Path
) -> None:
    store, roots = system_trust_store(debian), ca.bundle.roots
    write, run = store.plan_trust(roots)
    write.apply()
    (again,) = store.plan_trust(roots)
    assert again.text == run.text
    apply([again])
    (anchor,) = (debian / "usr/local/share/ca-certificates").iterdir()
    assert anchor.stat().st_mode & 0o777 == 0o644
    anchor.unlink()
    (rebuild,) = store.plan_removal(roots)
    apply([rebuild])
    assert store.plan_removal(roots) == ()
    anchor.write_text("damaged")
    assert [step.text.split()[0] for step in store.plan_trust(roots)] == ["write", "run"]


@needs_debian
def test_roots_of_replaced_cas_are_removed_with_all_others_of_ours(
    ca: CertificateAuthority, debian: Path
) -> None:
    store = system_trust_store(debian)
    foreign = debian / "usr/local/share/ca-certificates/aegis-of-somebody.crt"
    foreign.write_bytes((debian / "usr/share/ca-certificates/mozilla/public.crt").read_bytes())
    ca.prepare_rotation()
    apply(store.plan_trust(ca.bundle.roots))
    ca.activate_rotation(confirm=True)
    ca.retire_rotation()
    assert len(store.plan_removal(ca.bundle.roots)) == 2
    assert len(apply(store.plan_removal(None))) == 3
    assert [path.name for path in foreign.parent.iterdir()] == [foreign.name]


def test_fedora_gets_its_anchors_and_its_command(
    ca: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in writes what `update-ca-trust` would, since only Fedora has that program."""
    root, tools = tmp_path / "fedora", tmp_path / "tools"
    anchors, extracted = (
        root / "etc/pki/ca-trust" / d for d in ("source/anchors", "extracted/pem")
    )
    for folder in (anchors, extracted, tools):
        folder.mkdir(parents=True)
    program = tools / "chroot"
    program.write_text(
        '#!/bin/sh -e\ntest "$2 $3" = "update-ca-trust extract"\ncd "$1/etc/pki/ca-trust"\n'
        "cat /dev/null source/anchors/*.crt > extracted/pem/tls-ca-bundle.pem || true\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    store, roots = system_trust_store(root), ca.bundle.roots
    assert apply(store.plan_trust(roots))[-1] == f"run chroot {root} update-ca-trust extract"
    assert (extracted / "tls-ca-bundle.pem").read_bytes() == ca.bundle.pem
    assert store.plan_trust(roots) == ()
    apply(store.plan_removal(roots))
    assert store.plan_removal(roots) == ()
    assert list(anchors.iterdir()) == []
    program.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    with pytest.raises(TrustStoreError, match=r"chroot .* exit code 3: no such luck"):
        apply(store.plan_trust(roots))


def test_a_system_without_a_store_and_without_its_tool_is_an_error_with_advice(
    ca: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrustStoreError, match="install the package `ca-certificates`"):
        system_trust_store(tmp_path)
    (tmp_path / "etc/pki/ca-trust/source/anchors").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("aegis_certs._export.trust_store._SYSTEM_PATH", str(tmp_path))
    with pytest.raises(TrustStoreError, match="not installed"):
        system_trust_store(tmp_path).plan_trust(ca.bundle.roots)


@needs_nss
def test_nss_believes_the_ca_while_a_browser_trusts_it(
    ca: CertificateAuthority, directory: Path, home: Path, tmp_path: Path
) -> None:
    ca.issue("wiki", hosts=[HOST], key_type=KeyType.P256)
    roots, stores = ca.bundle.roots, browser_trust_stores(home)
    assert [store.name.partition("'")[0] for store in stores] == ["Firefox", "Chromium"]
    database = tmp_path / "database"
    for store in stores:
        apply(store.plan_trust(roots))
        assert store.plan_trust(roots) == ()

        def verify() -> bool:
            # In a copy, because the leaf has to be in it.
            shutil.rmtree(database, ignore_errors=True)
            shutil.copytree(home / store.name.rpartition(f"{home}/")[2], database)  # noqa: B023
            at = ("-d", f"sql:{database}", "-n", "wiki")
            leaf = directory / "wiki-cert.pem"
            subprocess.run(["certutil", "-A", *at, "-t", ",,", "-a", "-i", leaf], check=True)
            done = subprocess.run(["certutil", "-V", *at, "-u", "V"], capture_output=True)
            return done.returncode == 0

        assert verify()
        apply(store.plan_removal(roots))
        assert not verify()
        assert store.plan_removal(roots) == ()


@needs_nss
def test_the_command_says_what_it_does_to_browsers_and_does_it_once(
    acme: Callable[..., Result], home: Path
) -> None:
    def trust(*options: str) -> Result:
        result = acme("trust", "--store", "browsers", *options, HOME=str(home))
        assert result.exit_code == 0, result.stderr
        return result

    assert "certutil -A" in trust("--dry-run").stdout
    assert "certutil -A" in trust("--dry-run").stdout  # nothing was done
    assert "impersonate" in trust().stdout
    assert trust().stdout.count("Nothing to do") == 2
    assert '"steps": []' in trust("--json").stdout
    assert trust("--remove").stdout.count("certutil -D") == 2
    assert "certutil" not in trust("--remove", "--all").stdout


@needs_nss
def test_a_browser_whose_passphrase_is_unknown_is_an_error_and_no_question(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    profile, secret = tmp_path / ".pki/nssdb", tmp_path / "secret"
    profile.mkdir(parents=True)
    secret.write_text("secret\n")
    command = ["certutil", "-N", "-f", secret, "-d", f"sql:{profile}"]
    subprocess.run(command, check=True, capture_output=True)
    (store,) = browser_trust_stores(tmp_path)
    with pytest.raises(TrustStoreError, match="certutil"):
        apply(store.plan_trust(ca.bundle.roots))


def test_trust_says_where_there_is_nothing_to_trust(
    acme: Callable[..., Result], tmp_path: Path
) -> None:
    nothing = acme("trust", "--store", "browsers", HOME=str(tmp_path))
    assert nothing.exit_code == 1
    assert "start the browser once" in nothing.stderr
    assert acme("trust", "--all").exit_code == 2
    assert acme("trust", "--dir", str(tmp_path / "nowhere")).exit_code == 7
