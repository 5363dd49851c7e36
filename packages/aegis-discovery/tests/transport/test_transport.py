from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, Identity, KeyType, TLSConfig
from aegis_discovery.errors import ConnectError, InvalidAddressError, PeerIdentityError
from aegis_discovery.transport import (
    SeedPeer,
    describe_call_error,
    open_channel,
    parse_seed,
    probe_identity,
)
from aegis_discovery.transport._shared import FEED_OPTIONS, channel_options

WAIT = 10.0

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """A CA that is old enough to have issued certificates that have expired."""
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=3)
    return CertificateAuthority.create(
        tmp_path_factory.mktemp("ca"), key_type=KeyType.P256, at=past
    )


@pytest.fixture(scope="module")
def tls(ca: CertificateAuthority) -> TLSConfig:
    return ca.issue_in_memory("caller")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens but does not accept."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def expired(ca: CertificateAuthority, node_id: str) -> TLSConfig:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    return ca.issue_in_memory(node_id, days=1, at=past)


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("node-1.example:50051", SeedPeer("node-1.example:50051")),
        ("127.0.0.1:1", SeedPeer("127.0.0.1:1")),
        ("[::1]:50051", SeedPeer("[::1]:50051")),
        ("node-1@10.0.0.7:50051", SeedPeer("10.0.0.7:50051", "node-1")),
        ("node-1@[fe80::1%eth0]:65535", SeedPeer("[fe80::1%eth0]:65535", "node-1")),
        (" padded:7 ", SeedPeer("padded:7")),
    ],
)
def test_a_seed_peer_is_an_address_with_or_without_a_node_id(text: str, seed: SeedPeer) -> None:
    assert parse_seed(text) == seed
    assert str(seed) == text.strip()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no port"),
        ("host", "no port"),
        (":50051", "no host"),
        ("host:", "no port"),
        ("host:http", "no port"),
        ("host:0", "no port"),
        ("host:65536", "no port"),
        ("host:-1", "no port"),
        ("host:\uff15", "no port"),
        ("::1:50051", "brackets"),
        ("dns:///host:1", "brackets"),
        ("http://host", "no port"),
        ("a b:1", "no host"),
        ("Node@host:1", "not a lower-case DNS name"),
        ("127.0.0.1@host:1", "IP address"),
        ("@host:1", "empty"),
        ("a@b@host:1", "not a lower-case DNS name"),
    ],
)
def test_a_malformed_seed_peer_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidAddressError, match=reason):
        parse_seed(text)


def test_a_channel_checks_the_node_id_and_connects_directly() -> None:
    options = dict(channel_options("node-1"))
    assert options["grpc.ssl_target_name_override"] == "node-1"
    assert options["grpc.enable_http_proxy"] == 0


def test_only_a_feed_gives_up_long_windows() -> None:
    assert "grpc.http2.bdp_probe" not in dict(channel_options("node-1"))
    assert dict(channel_options("node-1", FEED_OPTIONS))["grpc.http2.bdp_probe"] == 0


def test_options_of_the_user_override_ours_except_for_the_check_of_the_name(
    tls: TLSConfig, start_provider: Start
) -> None:
    provider = start_provider("a")
    options = [
        ("grpc.max_receive_message_length", 8),
        ("grpc.ssl_target_name_override", "a"),
    ]
    with open_channel(tls, "a", provider.address, options=options) as channel:
        stub = channel.unary_unary("/t/Echo")
        assert stub(b"x", timeout=WAIT) == b"x"
        with pytest.raises(grpc.RpcError) as caught:
            stub(b"much too long", timeout=WAIT)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with open_channel(tls, "b", provider.address, options=options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t/Echo")(b"", timeout=WAIT)
        assert "Verification" in str(caught.value.details())


def test_the_proxy_of_the_environment_is_not_used(
    tls: TLSConfig,
    start_provider: Start,
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", f"http://{address_of(listener)}")
    monkeypatch.setenv("http_proxy", f"http://{address_of(listener)}")
    provider = start_provider("a")
    with open_channel(tls, "a", provider.address) as channel:
        assert channel.unary_unary("/t/Echo")(b"x", timeout=WAIT) == b"x"


def test_a_probe_returns_the_identity_of_the_node(
    tls: TLSConfig, ca: CertificateAuthority, start_provider: Start
) -> None:
    provider = start_provider("somebody")
    assert probe_identity(provider.address, tls) == Identity("somebody", ca.trust_domain)
    address = provider.address.replace("127.0.0.1", "localhost")
    assert probe_identity(address, tls).node_id == "somebody"


def test_a_probe_leaves_no_key_and_no_descriptor_behind(
    tls: TLSConfig, start_provider: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    provider = start_provider("a")
    probe_identity(provider.address, tls)
    descriptors = Path("/proc/self/fd")
    before = sorted(str(link.readlink()) for link in descriptors.iterdir() if link.is_symlink())
    assert not any("aegis-identity" in target for target in before)
    assert list(tmp_path.iterdir()) == []


def test_a_platform_other_than_linux_reads_the_key_from_a_private_file(
    tls: TLSConfig, start_provider: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    provider = start_provider("a")
    assert probe_identity(provider.address, tls).node_id == "a"
    assert list(tmp_path.iterdir()) == []


def test_the_error_says_that_no_server_listens(tls: TLSConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address_of(server)
    with pytest.raises(ConnectError, match="refused the connection") as caught:
        probe_identity(address, tls)
    assert str(caught.value).startswith(f"{address} ")
    assert list(caught.value.causes) == [address]


def test_the_error_says_that_a_host_does_not_exist(tls: TLSConfig) -> None:
    with pytest.raises(ConnectError, match="cannot be resolved"):
        probe_identity("no-such-host.invalid:50051", tls)


def test_a_probe_without_an_answer_times_out(tls: TLSConfig, listener: socket.socket) -> None:
    with pytest.raises(ConnectError, match=r"did not answer within 0\.1 s"):
        probe_identity(address_of(listener), tls, timeout=0.1)


def answer_once(listener: socket.socket, answer: bytes) -> threading.Thread:
    def run() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not with TLS"),
        (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", "not with TLS"),
        (b"", "it may be stopping or trust another CA, or one of the two clocks is wrong"),
    ],
)
def test_the_error_says_that_a_server_does_not_speak_tls(
    tls: TLSConfig, listener: socket.socket, answer: bytes, reason: str
) -> None:
    thread = answer_once(listener, answer)
    with pytest.raises(ConnectError, match=reason):
        probe_identity(address_of(listener), tls)
    thread.join(WAIT)


def test_a_server_that_resets_the_connection_is_not_said_to_refuse_a_certificate(
    tls: TLSConfig, ca: CertificateAuthority, listener: socket.socket
) -> None:
    """As one that stops does; after the handshake, OpenSSL calls it an unknown error."""
    ca.issue("somebody", key_type=KeyType.P256)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(*(ca.directory / f"somebody-{name}.pem" for name in ("cert", "key")))

    def reset() -> None:
        raw, _ = listener.accept()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        context.wrap_socket(raw, server_side=True).close()

    thread = threading.Thread(target=reset)
    thread.start()
    with pytest.raises(ConnectError, match=r":\d+ closed the connection before it answered"):
        probe_identity(address_of(listener), tls)
    thread.join(WAIT)


def test_the_error_says_that_a_grpc_server_has_no_tls(tls: TLSConfig) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(ConnectError, match=f"127.0.0.1:{port} answers, but not with TLS"):
        probe_identity(f"127.0.0.1:{port}", tls)
    server.stop(None)


def test_a_peer_of_another_ca_is_refused(
    tls: TLSConfig, other_ca: CertificateAuthority, make_provider: Start
) -> None:
    stranger = make_provider(other_ca.issue_in_memory("somebody"))
    with pytest.raises(PeerIdentityError, match="both sides need certificates of one CA") as caught:
        probe_identity(stranger.address, tls)
    assert caught.value.address == stranger.address


def test_a_peer_with_an_expired_certificate_is_refused(
    tls: TLSConfig, ca: CertificateAuthority, make_provider: Start
) -> None:
    with pytest.raises(PeerIdentityError, match="has expired; renew it there"):
        probe_identity(make_provider(expired(ca, "somebody")).address, tls)


def test_a_peer_with_a_client_only_certificate_is_refused(
    tls: TLSConfig, ca: CertificateAuthority, make_provider: Start
) -> None:
    provider = make_provider(ca.issue_in_memory("somebody", client_only=True))
    with pytest.raises(PeerIdentityError, match="not trusted"):
        probe_identity(provider.address, tls)


def test_a_peer_of_another_trust_domain_is_refused(
    tls: TLSConfig, tmp_path: Path, ca: CertificateAuthority, make_provider: Start
) -> None:
    foreign = CertificateAuthority.create(
        tmp_path, key_type=KeyType.P256, trust_domain="elsewhere.example"
    )
    both = tls.trust_bundle + foreign.issue_in_memory("x").trust_bundle
    theirs = foreign.issue_in_memory("somebody")
    provider = make_provider(
        TLSConfig("somebody", theirs.certificate_chain, theirs.private_key, both)
    )
    ours = TLSConfig(tls.node_id, tls.certificate_chain, tls.private_key, both)
    with pytest.raises(PeerIdentityError, match=r"is of trust domain elsewhere\.example"):
        probe_identity(provider.address, ours)


def test_the_error_explains_why_our_own_certificate_is_refused(
    ca: CertificateAuthority, other_ca: CertificateAuthority, tls: TLSConfig, start_provider: Start
) -> None:
    provider = start_provider("somebody")
    with pytest.raises(ConnectError, match=r"did not accept our certificate.*caller expired at"):
        probe_identity(provider.address, expired(ca, "caller"))
    stranger = other_ca.issue_in_memory("caller")
    trusting = TLSConfig(
        "caller", stranger.certificate_chain, stranger.private_key, tls.trust_bundle
    )
    with pytest.raises(ConnectError, match=r"did not accept our certificate.*not trusted"):
        probe_identity(provider.address, trusting)


def failure_of(tls: TLSConfig, node_id: str, address: str) -> grpc.RpcError:
    with open_channel(tls, node_id, address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t/Echo")(b"", timeout=WAIT)
        return caught.value


def test_a_refused_certificate_is_described_where_grpc_says_socket_closed(
    ca: CertificateAuthority, start_provider: Start
) -> None:
    provider = start_provider("somebody")
    identity = expired(ca, "caller")
    error = failure_of(identity, "somebody", provider.address)
    assert "expired" not in str(error.details())
    assert "our own identity is not accepted: the certificate of caller expired at" in (
        describe_call_error(error, identity)
    )


def test_a_wrong_name_is_described_as_another_node(tls: TLSConfig, start_provider: Start) -> None:
    error = failure_of(tls, "expected", start_provider("somebody").address)
    assert describe_call_error(error, tls).startswith("another node than the expected one answered")


def test_a_call_error_says_that_no_server_listens(tls: TLSConfig, start_provider: Start) -> None:
    provider = start_provider("somebody")
    provider.stop()
    error = failure_of(tls, "somebody", provider.address)
    refused = "it refused the connection; is a node listening there?"
    assert describe_call_error(error, tls) == refused


def test_any_other_call_error_is_returned_unchanged(tls: TLSConfig, start_provider: Start) -> None:
    provider = start_provider("somebody")
    with open_channel(tls, "somebody", provider.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t/Fail")(b"ABORTED", timeout=WAIT)
        assert describe_call_error(caught.value, tls) == "as you wish"
    assert describe_call_error(ValueError("no idea"), tls) == "no idea"


def test_the_text_of_a_call_error_is_one_short_line(tls: TLSConfig) -> None:
    forged = "no\n2026-11-27 WARNING b failed\x1b[31m" + "x" * 5000
    said = describe_call_error(ValueError(forged), tls)
    assert said.startswith("no 2026-11-27 WARNING b failed [31mxxx")
    assert said.isprintable()
    assert len(said) < 400


def test_a_server_that_trusts_another_ca_is_described(
    ca: CertificateAuthority, other_ca: CertificateAuthority, tls: TLSConfig, tmp_path: Path
) -> None:
    shown, trusted = ca.issue_in_memory("somebody"), other_ca.issue_in_memory("x").trust_bundle
    (tmp_path / "pair.pem").write_bytes(shown.private_key + shown.certificate_chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    context.load_verify_locations(cadata=trusted.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            with suppress(OSError):  # the socket is closed at the end of the test
                while True:
                    connection, _ = server.accept()
                    with suppress(OSError):
                        context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=refuse)
        thread.start()
        error = failure_of(tls, "somebody", address_of(server))
        server.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT)
    assert "etcd may trust another CA" in describe_call_error(error, tls, of="etcd")
