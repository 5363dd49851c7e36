from __future__ import annotations

import string

import pytest
from aegis_certs import (
    MAX_WORKERS,
    CertificateAuthority,
    CertsError,
    InvalidNodeIdError,
    InvalidRequestError,
    owner_of,
    parse_worker_id,
    validate_node_id,
)
from aegis_certs._x509.names import ip_of_address, parse_host, validate_trust_domain
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "node_id", ["a", "orders-1", "node-1.eu.acme.example", "0a", "x" * 63, "xn--bcher-kva", "7up"]
)
def test_lower_case_dns_names_are_node_ids(node_id: str) -> None:
    assert validate_node_id(node_id) == node_id


@pytest.mark.parametrize(
    "node_id",
    [
        "",
        "x" * 64,
        "Orders",
        "under_score",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a.",
        "a b",
        "a\n",
        "ä",
        "a\x00",
        "../x",
        "..",
        ".",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "10.0.0.1",
        "1",
        "127.1",
        "0x7f.0.0.0x1",
        "::1",
        "[::1]",
        "localhost",
        "x.localhost",
        "ca",
        "*",
    ],
)
def test_a_node_id_that_is_not_a_dns_name_or_could_be_an_ip_is_refused(node_id: str) -> None:
    with pytest.raises(InvalidNodeIdError) as caught:
        validate_node_id(node_id)
    assert caught.value.node_id == node_id
    assert caught.value.reason


@pytest.mark.parametrize("value", [None, 7, b"a", ["a"]])
def test_a_node_id_that_is_not_a_string_is_refused(value: object) -> None:
    with pytest.raises(InvalidNodeIdError):
        validate_node_id(value)  # type: ignore[arg-type]  # the point of the test


@given(st.text(max_size=80) | st.text(string.ascii_lowercase + string.digits + "-./_", max_size=70))
def test_an_accepted_node_id_is_always_a_safe_file_name_and_dns_name(text: str) -> None:
    try:
        node_id = validate_node_id(text)
    except CertsError:
        return
    assert node_id == text
    assert 0 < len(node_id) <= 63
    assert set(node_id) <= set(string.ascii_lowercase + string.digits + "-.")
    assert "/" not in node_id
    assert ".." not in node_id
    assert not node_id.startswith((".", "-"))


@pytest.mark.parametrize("domain", ["aegis.internal", "a_b", "x" * 255])
def test_trust_domains_follow_the_spiffe_standard(domain: str) -> None:
    assert validate_trust_domain(domain) == domain


@pytest.mark.parametrize(
    "domain", ["", "Acme", "a/b", "a:1", "x" * 256, "a@b", "a\n", ".", "a.", "a..b"]
)
def test_other_trust_domains_are_refused(domain: str) -> None:
    with pytest.raises(InvalidRequestError):
        validate_trust_domain(domain)


def test_hosts_are_dns_names_or_ip_addresses() -> None:
    assert parse_host("API.Acme.Example") == "api.acme.example"
    assert str(parse_host("10.0.0.1")) == "10.0.0.1"
    assert str(parse_host("[::1]")) == "::1"


@pytest.mark.parametrize("host", ["", "*.acme.example", "a b", "a_b", "10.0.0", "http://x", "x/y"])
def test_wildcards_and_invalid_hosts_are_refused(host: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_host(host)
    assert caught.value.option == "host"
    assert caught.value.value == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "fe80::1%eth0", "[fe80::1%eth0]"])  # noqa: S104 - nothing is bound
def test_addresses_that_a_certificate_cannot_hold_are_refused(host: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"no machine|zone"):
        parse_host(host)


@pytest.mark.parametrize(
    ("address", "ip"),
    [
        ("[fe80::1%eth0]:7000", "None"),
        ("127.0.0.1:7000", "127.0.0.1"),
        ("[::1]:7000", "::1"),
        ("10.0.0.7", "10.0.0.7"),
        ("orders.acme.example:7000", "None"),
        ("0.0.0.0:7000", "None"),
        ("[::]:7000", "None"),
        ("localhost:7000", "None"),
        ("", "None"),
    ],
)
def test_only_a_specified_ip_of_the_own_address_is_used(address: str, ip: str) -> None:
    assert str(ip_of_address(address)) == ip


def test_a_worker_has_the_identity_before_its_number() -> None:
    for number in range(MAX_WORKERS):
        assert parse_worker_id(f"orders-1#{number}") == ("orders-1", number)
    assert parse_worker_id("orders-1") == ("orders-1", None)
    assert [owner_of("orders-1#63"), owner_of("orders-1")] == ["orders-1"] * 2


@pytest.mark.parametrize(
    "node_id",
    [
        "a#64",
        "a#-1",
        "a#07",
        "a#",
        "a#1#2",
        "a# 1",
        "a#\u0661",
        "a#+1",
        "#1",
        "A#1",
        "ca#1",
        "a#1\n",
    ],
)
def test_every_other_number_is_refused(node_id: str) -> None:
    with pytest.raises(InvalidNodeIdError):
        parse_worker_id(node_id)


def test_a_certificate_never_names_a_worker(ca: CertificateAuthority) -> None:
    with pytest.raises(InvalidNodeIdError, match="not a lower-case DNS name"):
        validate_node_id("orders-1#2")
    with pytest.raises(InvalidNodeIdError):
        ca.issue_in_memory("orders-1#2")
