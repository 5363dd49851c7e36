"""Enrolment between a machine with a token and issuers."""

from __future__ import annotations

import asyncio
import struct
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    InvalidPemError,
    InvalidTokenError,
    IssuerAddress,
    KeyType,
    Token,
    identity_of,
    load_or_generate_tls,
)
from aegis_core import aio
from aegis_discovery import ConnectError, EnrolmentError, TokenError, enroll
from aegis_discovery.aio import connect
from aegis_discovery.aio import enroll as enroll_async

P256 = KeyType.P256


def _unused_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def test_a_machine_enrols_then_serves_then_calls(
    both: Any, home: Any, token_for: Any, tmp_path: Path, until: Any
) -> None:
    first = await both("ca-1", cert_dir=home.directory, issuer=True)
    token = token_for("orders-1", days=7, hosts=["orders.example"])
    there = tmp_path / "there"
    tls = await enroll_async(token, there, key_type=P256)
    assert identity_of(tls.certificate).node_id == "orders-1"
    assert tls.not_after - datetime.now(UTC) < timedelta(days=8)
    names = {path.name for path in there.iterdir()}
    assert {"ca-cert.pem", "orders-1-cert.pem", "orders-1-key.pem"} <= names
    assert "ca-key.pem" not in names
    assert (there / "orders-1-key.pem").stat().st_mode & 0o777 == 0o600
    assert load_or_generate_tls("orders-1", there).certificate == tls.certificate
    second = await both("orders-1", cert_dir=there, seed_peers=[first.address])
    await until(
        lambda: set(first.topology.nodes) == set(second.topology.nodes) == {"ca-1", "orders-1"}
    )


async def test_a_node_enrols_when_it_starts(
    both: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    first = await both("ca-1", cert_dir=home.directory, issuer=True)
    there, file = tmp_path / "there", tmp_path / "token"
    file.write_text(f"{token_for('orders-1')}\n")
    node = await both("orders-1", cert_dir=there, token=file, seed_peers=[first.address])
    serial = node.tls.certificate.serial_number
    await both.stop(node)
    # The file of the token is not needed any more, nor is an issuer.
    file.unlink()
    await both.stop(first)
    again = await both("orders-1", cert_dir=there, token=file)
    assert again.tls.certificate.serial_number == serial


async def test_a_client_enrols_when_it_connects(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    first = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    text = str(token_for("web-1", client_only=True))
    options = {"node_id": "web-1", "cert_dir": tmp_path / "web", "token": text}
    async with connect(first.address, **options) as mesh:
        assert set(mesh.topology.nodes) == {"ca-1"}
    assert (tmp_path / "web" / "web-1-key.pem").exists()
    token = token_for("web-2", client_only=True)
    async with connect(first.address, cert_dir=None, token=token) as mesh:
        assert set(mesh.topology.nodes) == {"ca-1"}


def _issued(home: CertificateAuthority, there: Path, node_id: str, **options: Any) -> Any:
    """Issues an identity, and moves it to another directory."""
    tls = home.issue(node_id, key_type=P256, **options)
    there.mkdir(mode=0o700)
    for name in (f"{node_id}-cert.pem", f"{node_id}-key.pem"):
        (home.directory / name).rename(there / name)
    (there / "ca-cert.pem").write_bytes((home.directory / "ca-cert.pem").read_bytes())
    return tls


async def test_a_valid_identity_is_kept_and_the_token_not_used(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    await nodes("ca-1", cert_dir=home.directory, issuer=True)
    there = tmp_path / "there"
    old = _issued(home, there, "orders-1")
    token = token_for("orders-1")
    assert (await enroll_async(token, there)).certificate == old.certificate
    # It can still be used.
    assert (await enroll_async(token, tmp_path / "other", key_type=P256)).node_id == "orders-1"


async def test_files_that_cannot_be_read_are_replaced_for_a_token(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody has a copy of a key that was made here."""
    await nodes("ca-1", cert_dir=home.directory, issuer=True)
    there = tmp_path / "there"
    last = _issued(home, there, "orders-1")
    for name, left in (
        ("orders-1-cert.pem", 300),
        ("orders-1-key.pem", 0),
        ("orders-1-key.pem", None),
        ("ca-cert.pem", None),
    ):
        path = there / name
        path.unlink() if left is None else path.write_bytes(path.read_bytes()[:left])
        with pytest.raises(TokenError):
            await enroll_async(tmp_path / "none", there, node_id="orders-1")
        tls = await enroll_async(token_for("orders-1"), there, node_id="orders-1", key_type=P256)
        assert tls.certificate != last.certificate
        assert load_or_generate_tls("orders-1", there).certificate == tls.certificate
        assert name in caplog.messages[-1]
        last = tls
    (there / "ca-cert.pem").write_bytes(b"")
    with pytest.raises(InvalidPemError, match="remove the file and enrol with a new token"):
        await enroll_async(token_for("orders-1"), there)


async def test_a_machine_that_was_off_while_the_ca_was_replaced_needs_a_token(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    first = await nodes("ca-1", cert_dir=home.directory, issuer=True, rotate="manual")
    there, old_token = tmp_path / "there", token_for("orders-1")
    old = await enroll_async(old_token, there, key_type=P256)
    address = first.address
    await nodes.stop(first)
    home.prepare_rotation()
    home.activate_rotation(confirm=True)
    home.renew("ca-1")
    await nodes("ca-1", cert_dir=home.directory, issuer=True, address=address, rotate="manual")
    with pytest.raises(ConnectError, match=r"replaced while this.* from `aegis certs token orders"):
        await connect(address, node_id="orders-1", cert_dir=there, timeout=2)
    # The token of the first time knows no more than the directory.
    assert await enroll_async(old_token, there, key_type=P256) == old
    new = await enroll_async(token_for("orders-1"), there, key_type=P256)
    assert new.certificate != old.certificate
    assert home.certificate in new.bundle.certificates
    async with await connect(address, node_id="orders-1", cert_dir=there) as mesh:
        assert list(mesh.topology.nodes) == ["ca-1"]


async def test_an_expired_identity_is_replaced(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    await nodes("ca-1", cert_dir=home.directory, issuer=True)
    there, past = tmp_path / "there", datetime.now(UTC) - timedelta(hours=20)
    old = _issued(home, there, "orders-1", at=past, days=0.1)
    assert old.not_after < datetime.now(UTC)
    await nodes("orders-1", cert_dir=there, token=str(token_for("orders-1")))
    found = load_or_generate_tls("orders-1", there)
    assert found.not_after > datetime.now(UTC) + timedelta(days=80)
    # A revoked one is replaced too, if the CA made another token.
    home.revoke("orders-1")
    (there / "crl.pem").write_bytes((home.directory / "crl.pem").read_bytes())
    again = await enroll_async(token_for("orders-1"), there, key_type=P256)
    assert again.certificate != found.certificate


async def test_a_token_for_another_id_is_refused(token_for: Any, tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="it is for orders-1, not for orders-2"):
        enroll(token_for("orders-1"), tmp_path / "there", node_id="orders-2")


def test_an_expired_token_says_so_at_once(token_for: Any, tmp_path: Path) -> None:
    token = token_for("orders-1", at=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(TokenError, match=r"has expired at .*`aegis certs token orders-1`"):
        enroll(token, tmp_path / "there")


def test_a_clock_that_is_behind_is_named(token_for: Any, tmp_path: Path) -> None:
    token = token_for("orders-1", at=datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(TokenError, match="set the clock of this machine"):
        enroll(token, tmp_path / "there")


def test_a_token_without_issuers_says_what_to_do(token_for: Any, tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="--at HOST:PORT"):
        enroll(token_for("orders-1"), tmp_path / "there")


def test_text_that_is_no_token_shows_nothing_of_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidTokenError) as error:
        enroll("aegis1.c2VjcmV0", tmp_path / "there")
    assert "c2VjcmV0" not in str(error.value)


def test_an_issuer_that_does_not_run_is_named(token_for: Any, tmp_path: Path) -> None:
    at = IssuerAddress("ca-1", f"127.0.0.1:{_unused_port()}")
    with pytest.raises(EnrolmentError, match="refused the connection; is it running") as error:
        enroll(token_for("orders-1", issuers=[at]), tmp_path / "there", timeout=0.5)
    assert list(error.value.causes) == [f"ca-1@{at.address}"]
    assert not error.value.is_refused


@pytest.mark.parametrize("resets", [False, True])
def test_an_issuer_that_closes_the_connection_is_named_with_what_to_look_at(
    token_for: Any, tmp_path: Path, resets: bool
) -> None:
    """As one does whose clock is so far behind or ahead that the token is not valid there."""
    import socket

    linger = struct.pack("ii", resets, 0)  # closed without a wait, a connection is reset

    def close_all(server: socket.socket) -> None:
        with suppress(OSError):  # it is shut down at the end
            while True:
                with server.accept()[0] as connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=close_all, args=(server,))
        thread.start()
        at = IssuerAddress("ca-1", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(EnrolmentError, match="one of the two clocks is wrong"):
            enroll(token_for("orders-1", issuers=[at]), tmp_path / "there", timeout=0.5)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


async def test_a_member_that_poses_as_an_issuer_gets_no_request(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    home.issue("mallory", key_type=P256)
    mallory = await nodes("mallory", cert_dir=home.directory, issuer=True)
    token = token_for("orders-1", issuers=[IssuerAddress("ca-1", mallory.address)])
    token = Token(token.key_pem, token.certificate, token.bundle, token.issuers[:1])
    with pytest.raises(EnrolmentError, match="another node answers there, not ca-1"):
        await enroll_async(token, tmp_path / "there", key_type=P256, timeout=1)


async def test_the_others_are_asked_if_one_is_not_reachable(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    dead = IssuerAddress("ca-2", f"127.0.0.1:{_unused_port()}")
    first = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    token = token_for("orders-1", issuers=[dead])
    assert token.issuers == (dead, IssuerAddress("ca-1", first.address))
    assert (await enroll_async(token, tmp_path / "there", key_type=P256)).node_id == "orders-1"


async def test_a_token_made_before_the_issuer_ran_works_at_its_address(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    at = IssuerAddress("ca-1", f"127.0.0.1:{_unused_port()}")
    token = token_for("orders-1", issuers=[at])
    enrolling = asyncio.create_task(enroll_async(token, tmp_path / "there", key_type=P256))
    await nodes("ca-1", cert_dir=home.directory, issuer=True, address=at.address)
    assert (await enrolling).node_id == "orders-1"


async def test_a_lost_answer_costs_nothing(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nodes("ca-1", cert_dir=home.directory, issuer=True)
    token, there = token_for("orders-1"), tmp_path / "there"
    from aegis_certs import RequestedIdentity

    with monkeypatch.context() as patch:

        def die(*_: object, **__: object) -> Any:
            raise SystemExit

        patch.setattr(RequestedIdentity, "install", die)
        with pytest.raises(SystemExit):
            await asyncio.to_thread(enroll, token, there, key_type=P256)
    assert (there / "orders-1_csr-key.pem").stat().st_mode & 0o777 == 0o600
    tls = await enroll_async(token, there, key_type=P256)
    assert not (there / "orders-1_csr-key.pem").exists()
    log = (home.directory / "audit.jsonl").read_text()
    assert log.count('"enroll"') == 1
    assert f"{tls.certificate.serial_number:x}" in log


async def test_a_full_disk_costs_no_token(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from aegis_certs import DirectoryError
    from aegis_certs._store.directory import Store
    from aegis_discovery.enrolment import enroll_until_cancelled

    await nodes("ca-1", cert_dir=home.directory, issuer=True)
    token, there = token_for("orders-1"), tmp_path / "there"

    def fail(*_: object) -> Any:
        raise DirectoryError(there, "no space left on device", errno.ENOSPC)

    def work() -> Any:
        return enroll_until_cancelled(token, there, key_type=P256, must_write=True)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", fail)
        with pytest.raises(DirectoryError, match="no space left"):
            await asyncio.to_thread(work)
    assert not (there / "orders-1-cert.pem").exists()
    tls, is_new = await asyncio.to_thread(work)
    assert is_new
    assert load_or_generate_tls("orders-1", there).certificate == tls.certificate
    assert (home.directory / "audit.jsonl").read_text().count('"enroll"') == 1


async def test_a_stolen_token_is_useless_after_the_owner_and_the_log_names_it(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await nodes("ca-1", cert_dir=home.directory, issuer=True)
    token = token_for("orders-1")
    await enroll_async(token, tmp_path / "owner", key_type=P256)
    with pytest.raises(EnrolmentError, match="make another token") as error:
        await enroll_async(token, tmp_path / "thief", key_type=P256, timeout=10)
    assert error.value.is_refused
    assert any("thief" in record.message for record in caplog.records)


async def test_processes_that_start_together_enrol_once(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    await nodes("ca-1", cert_dir=home.directory, issuer=True)
    token, there = token_for("orders-1"), tmp_path / "there"
    found = await asyncio.gather(*(enroll_async(token, there, key_type=P256) for _ in range(4)))
    assert len({tls.certificate_chain for tls in found}) == 1


async def test_a_directory_that_cannot_be_written_keeps_the_identity_in_memory(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    occupied = tmp_path / "file"
    occupied.write_text("")  # root may write into any directory, but not below a file
    node = await nodes(
        "orders-1", cert_dir=occupied, token=token_for("orders-1"), seed_peers=[first.address]
    )
    assert node.tls.node_id == "orders-1"
    assert any("in memory only" in record.message for record in caplog.records)


async def test_a_cancelled_enrolment_stops_asking(token_for: Any, tmp_path: Path) -> None:
    at = IssuerAddress("ca-1", f"127.0.0.1:{_unused_port()}")
    token = token_for("orders-1", issuers=[at])
    task = asyncio.create_task(enroll_async(token, tmp_path / "there", key_type=P256))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    names = [thread.name for thread in threading.enumerate()]
    assert not any("grpc" in name for name in names)


async def test_an_issuer_without_the_key_of_a_ca_says_so(home: Any, tmp_path: Path) -> None:
    (home.directory / "ca-key.pem").unlink()
    node = aio.Node("ca-1", address="127.0.0.1:0", cert_dir=home.directory, issuer=True)
    with pytest.raises(Exception, match="an issuer needs the CA's key"):
        await node.start()


async def test_issuers_may_share_one_directory(
    nodes: Any, home: Any, token_for: Any, tmp_path: Path
) -> None:
    home.issue("ca-2", key_type=P256, address="127.0.0.1:1")
    first = await nodes("ca-1", cert_dir=home.directory, issuer=True)
    await nodes("ca-2", cert_dir=home.directory, issuer=True, seed_peers=[first.address])
    token, lost = token_for("orders-1"), token_for("billing-1")
    assert {issuer.node_id for issuer in token.issuers} == {"ca-1", "ca-2"}
    await nodes.stop(first)
    for one in (token, lost):
        tls = await enroll_async(one, tmp_path / one.node_id, key_type=P256)
        assert tls.node_id == one.node_id
    log = (home.directory / "audit.jsonl").read_text()
    assert log.count('"through":"ca-2"') >= 2


async def test_issuers_with_intermediate_cas_honour_only_tokens_of_their_own(
    nodes: Any, tmp_path: Path, until: Any
) -> None:
    homes = [
        CertificateAuthority.create(
            tmp_path / name, key_type=P256, intermediate=True, root_directory=tmp_path / "root"
        )
        for name in ("one", "two")
    ]
    addresses: list[IssuerAddress] = []
    for number, home in enumerate(homes, 1):
        node_id = f"ca-{number}"
        home.issue(node_id, key_type=P256, address="127.0.0.1:1")
        seeds = [one.address for one in addresses]
        node = await nodes(node_id, cert_dir=home.directory, issuer=True, seed_peers=seeds)
        addresses.append(IssuerAddress(node_id, node.address))
    for number, home in enumerate(homes, 1):
        token = home.create_token(f"orders-{number}", issuers=addresses)
        tls = await enroll_async(token, tmp_path / token.node_id, key_type=P256)
        assert tls.node_id == token.node_id
    elsewhere = homes[0].create_token("edge", issuers=addresses[1:])
    elsewhere = Token(
        elsewhere.key_pem, elsewhere.certificate, elsewhere.bundle, tuple(addresses[1:])
    )
    with pytest.raises(EnrolmentError) as error:
        await enroll_async(elsewhere, tmp_path / "edge", key_type=P256, timeout=10)
    assert error.value.is_refused


async def test_a_stop_while_an_issuer_is_silent_ends_the_start(
    nodes: Any, token_for: Any, tmp_path: Path
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = IssuerAddress("ca-1", f"127.0.0.1:{silent.getsockname()[1]}")
        token = token_for("orders-1", issuers=[at])
        node = aio.Node("orders-1", address="127.0.0.1:0", cert_dir=tmp_path / "a", token=token)
        starting = asyncio.create_task(node.start())
        await asyncio.to_thread(silent.accept)
        await node.stop()
        with pytest.raises(Exception, match="stopped while it started"):
            await starting
        names = [thread.name for thread in threading.enumerate() if thread.is_alive()]
        assert names
