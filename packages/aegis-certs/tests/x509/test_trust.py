from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from aegis_certs import (
    CertificateAuthority,
    ExpiredError,
    Identity,
    IdentityError,
    InvalidPemError,
    KeyType,
    NotYetValidError,
    TrustBundle,
    UntrustedError,
    UsageError,
)
from aegis_certs._x509 import trust
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

Make = Callable[..., Any]
NOW = dt.datetime.now(dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def root(make_certificate: Make) -> Any:
    return make_certificate("Root", ca=True)


@pytest.fixture
def bundle(root: Any) -> TrustBundle:
    return TrustBundle([root.certificate])


@pytest.mark.parametrize("usage", ["server", "client", None])
def test_a_leaf_of_our_own_ca_is_trusted_for_both_sides(
    ca: CertificateAuthority, usage: Any
) -> None:
    tls = ca.issue("node-1")
    assert tls.bundle.verify(tls.chain, usage) == Identity("node-1", "aegis.internal")


@pytest.mark.parametrize("usage", ["server", "client"])
def test_a_certificate_of_a_go_node_is_trusted(
    go_node: Make, root: Any, bundle: TrustBundle, usage: Any
) -> None:
    assert bundle.verify([go_node("node-1", root).certificate], usage) == Identity("node-1")


def test_extensions_that_old_tools_omit_may_be_absent(make_certificate: Make) -> None:
    old_ca = make_certificate("Old CA", ca=True, extensions=False)
    leaf = make_certificate("node-1", issuer=old_ca, extensions=False)
    assert TrustBundle([old_ca.certificate]).verify([leaf.certificate], "server").node_id


def test_a_leaf_of_another_ca_is_not_trusted(
    go_node: Make, make_certificate: Make, bundle: TrustBundle
) -> None:
    other = make_certificate("Other", ca=True)
    with pytest.raises(
        UntrustedError, match=r"issuer Other is not in the trust bundle \(Root\); use the ca-cert"
    ):
        bundle.verify([go_node("node-1", other).certificate], "server")


def test_a_ca_of_the_same_name_with_another_key_is_not_trusted(
    go_node: Make, make_certificate: Make, bundle: TrustBundle
) -> None:
    impostor = make_certificate("Root", ca=True)
    with pytest.raises(UntrustedError, match="Root with another key"):
        bundle.verify([go_node("node-1", impostor).certificate], "server")


def test_a_leaf_cannot_sign_for_another_node(
    go_node: Make, make_certificate: Make, root: Any, bundle: TrustBundle
) -> None:
    leaf = go_node("node-1", root)
    forged = go_node("node-2", leaf)
    with pytest.raises(UntrustedError):
        bundle.verify([forged.certificate, leaf.certificate], "server")


def test_a_ca_certificate_is_not_accepted_as_a_leaf(
    make_certificate: Make, root: Any, bundle: TrustBundle
) -> None:
    ca = make_certificate("node-1", issuer=root, ca=True)
    with pytest.raises(UntrustedError):
        bundle.verify([ca.certificate], "server")


def test_an_intermediate_must_be_sent_or_known(
    go_node: Make, make_certificate: Make, root: Any, bundle: TrustBundle
) -> None:
    middle = make_certificate("Middle", issuer=root, ca=True, path_length=0)
    leaf = go_node("node-1", middle)
    assert bundle.verify([leaf.certificate, middle.certificate], "server").node_id == "node-1"
    with pytest.raises(UntrustedError, match="issuer Middle is not in"):
        bundle.verify([leaf.certificate], "server")
    both = TrustBundle([middle.certificate, root.certificate])
    assert both.verify([leaf.certificate], "server").node_id == "node-1"


def test_the_path_length_of_a_ca_is_enforced(go_node: Make, make_certificate: Make) -> None:
    root = make_certificate("Root", ca=True, path_length=0)
    middle = make_certificate("Middle", issuer=root, ca=True)
    leaf = go_node("node-1", middle)
    with pytest.raises(UntrustedError, match="path length"):
        TrustBundle([root.certificate]).verify([leaf.certificate, middle.certificate], "server")


def test_a_ca_whose_key_usage_does_not_cover_signing_is_not_trusted(
    go_node: Make, make_certificate: Make
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    plain = make_certificate("Root", ca=True, key=key, extensions=False)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = (
        x509.CertificateBuilder(extensions=[])
        .subject_name(plain.certificate.subject)
        .issuer_name(plain.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - HOUR)
        .not_valid_after(NOW + HOUR)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(usage, critical=True)
    )
    root = builder.sign(key, plain.certificate.signature_hash_algorithm)
    with pytest.raises(UntrustedError, match="does not cover signing"):
        TrustBundle([root]).verify([go_node("node-1", plain).certificate], "server")


def test_an_expired_leaf_is_refused_with_its_end(
    go_node: Make, root: Any, bundle: TrustBundle
) -> None:
    leaf = go_node("node-1", root, end=NOW - HOUR / 2)
    with pytest.raises(ExpiredError) as caught:
        bundle.verify([leaf.certificate], "client")
    assert caught.value.subject == "node-1"
    assert caught.value.not_after == leaf.certificate.not_valid_after_utc
    assert bundle.verify([leaf.certificate], "client", at=NOW - 0.6 * HOUR)


def test_the_error_for_a_leaf_that_is_not_valid_yet_mentions_the_clock(
    go_node: Make, root: Any, bundle: TrustBundle
) -> None:
    leaf = go_node("node-1", root, start=NOW + HOUR / 2)
    with pytest.raises(NotYetValidError, match="clock"):
        bundle.verify([leaf.certificate], "client")


def test_an_expired_ca_is_named(go_node: Make, make_certificate: Make) -> None:
    root = make_certificate("Root", ca=True, end=NOW - HOUR / 2)
    leaf = go_node("node-1", root)
    with pytest.raises(ExpiredError, match="the CA Root expired") as caught:
        TrustBundle([root.certificate]).verify([leaf.certificate], "server")
    assert caught.value.subject == "the CA Root"


def test_an_expired_intermediate_is_named(
    go_node: Make, make_certificate: Make, root: Any, bundle: TrustBundle
) -> None:
    middle = make_certificate("Middle", issuer=root, ca=True, end=NOW - HOUR / 2)
    leaf = go_node("node-1", middle)
    with pytest.raises(ExpiredError, match="the CA Middle expired"):
        bundle.verify([leaf.certificate, middle.certificate], "server")


def test_usages_are_kept_apart(ca: CertificateAuthority) -> None:
    client = ca.issue_in_memory("client-1", client_only=True)
    server = ca.issue_in_memory("server-1", server_only=True)
    assert ca.bundle.verify(client.chain, "client").node_id == "client-1"
    assert ca.bundle.verify(server.chain, "server").node_id == "server-1"
    assert ca.bundle.verify(server.chain, None).node_id == "server-1"
    with pytest.raises(UsageError) as caught:
        ca.bundle.verify(client.chain, "server")
    assert caught.value.usage == "server"
    with pytest.raises(UsageError):
        ca.bundle.verify(server.chain, "client")


def test_an_intermediate_may_narrow_the_usage(
    go_node: Make, make_certificate: Make, root: Any, bundle: TrustBundle
) -> None:
    middle = make_certificate(
        "Middle", issuer=root, ca=True, usages=[ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    chain = [go_node("node-1", middle).certificate, middle.certificate]
    assert bundle.verify(chain, "client").node_id == "node-1"
    with pytest.raises(UntrustedError, match="does not cover a server"):
        bundle.verify(chain, "server")


def test_a_ca_signs_only_for_its_own_trust_domain(make_certificate: Make) -> None:
    uri = x509.UniformResourceIdentifier
    root = make_certificate("Root", ca=True, sans=[uri("spiffe://acme")])
    bundle = TrustBundle([root.certificate])
    ours = make_certificate("n", issuer=root, sans=[uri("spiffe://acme/node/n")])
    theirs = make_certificate("n", issuer=root, sans=[uri("spiffe://other/node/n")])
    assert bundle.trust_domain == "acme"
    assert bundle.verify([ours.certificate], "server").trust_domain == "acme"
    with pytest.raises(IdentityError, match="signs only for acme"):
        bundle.verify([theirs.certificate], "server")


def test_an_empty_chain_is_not_trusted(bundle: TrustBundle) -> None:
    with pytest.raises(UntrustedError):
        bundle.verify([], "server")


def test_a_time_without_a_zone_counts_as_utc(go_node: Make, root: Any, bundle: TrustBundle) -> None:
    leaf = go_node("node-1", root).certificate
    assert bundle.verify([leaf], "server", at=NOW.replace(tzinfo=None))
    in_new_york = NOW.astimezone(dt.timezone(dt.timedelta(hours=-5)))
    assert bundle.verify([leaf], "server", at=in_new_york)


def test_the_same_text_gives_the_same_bundle(ca: CertificateAuthority) -> None:
    assert TrustBundle.from_pem(ca.bundle.pem) is TrustBundle.from_pem(ca.bundle.pem)
    assert repr(ca.bundle) == "TrustBundle(Test CA)"


def test_a_bundle_trusts_the_leaves_of_all_its_cas(tmp_path: Any) -> None:
    old, new = (
        CertificateAuthority.create(tmp_path / name, key_type=KeyType.P256, name="Twin")
        for name in ("old", "new")
    )
    both = TrustBundle.from_pem(new.bundle.pem + old.bundle.pem)
    for ca in (old, new):
        assert both.verify(ca.issue("node-1").chain, "server").node_id == "node-1"


@pytest.mark.parametrize("data", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\n"])
def test_text_without_a_certificate_is_refused_as_a_bundle(data: bytes) -> None:
    with pytest.raises(InvalidPemError):
        TrustBundle.from_pem(data)


def test_the_path_from_a_leaf_to_the_bundle_is_found_in_order(
    go_node: Make, make_certificate: Make, root: Any, bundle: TrustBundle
) -> None:
    upper = make_certificate("Upper", issuer=root, ca=True)
    lower = make_certificate("Lower", issuer=upper, ca=True)
    beside = make_certificate("Beside", issuer=root, ca=True)
    stranger = make_certificate("Stranger", ca=True)
    leaf = go_node("node-1", lower)
    path = [made.certificate for made in (leaf, lower, upper, root)]
    junk = [beside.certificate, stranger.certificate]
    assert bundle.path_of(path) == tuple(path)
    assert bundle.path_of([path[0], junk[0], *path[:0:-1], junk[1]]) == tuple(path)
    assert bundle.path_of(path[:3]) == tuple(path[:3])
    below = TrustBundle([lower.certificate])
    assert below.path_of([*path[:2], *junk]) == tuple(path[:2])
    assert below.path_of(path[:1]) == tuple(path[:1])


def test_without_a_ca_of_the_bundle_there_is_no_path(
    go_node: Make, make_certificate: Make, root: Any, bundle: TrustBundle
) -> None:
    impostor = make_certificate("Root", ca=True)
    middle = make_certificate("Middle", issuer=root, ca=True)
    other_middle = make_certificate("Middle", issuer=root, ca=True)
    node = go_node("node-1", root)
    for chain in (
        [go_node("node-2", impostor), impostor],
        [go_node("node-2", impostor), impostor, root],
        [go_node("node-2", middle), other_middle],
        [go_node("node-2", middle)],
        [go_node("node-2", node), node],
    ):
        assert bundle.path_of([made.certificate for made in chain]) == ()


@pytest.mark.parametrize(("name", "checks"), [("Stranger", 0), ("Root", 8)])
def test_the_search_for_a_path_checks_each_certificate_at_most_once(
    make_certificate: Make,
    bundle: TrustBundle,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    checks: int,
) -> None:
    keys: list[x509.Certificate] = []
    signed_by = trust.signed_by

    def counted(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
        keys.append(ca)
        return signed_by(certificate, ca)

    monkeypatch.setattr(trust, "signed_by", counted)
    first = make_certificate(name, ca=True)
    chain = [make_certificate(name, ca=True, key=first.key).certificate for _ in range(8)]
    assert bundle.path_of(chain) == ()
    assert keys == [*bundle.certificates] * checks, "never with a key that the peer sent"


def test_a_leaf_that_signs_certificates_cannot_lengthen_a_path(
    go_node: Make, make_certificate: Make, root: Any, bundle: TrustBundle
) -> None:
    node = go_node("node-1", root)
    below = [make_certificate("node-1", issuer=node, ca=True, key=node.key) for _ in range(6)]
    assert bundle.path_of([made.certificate for made in (*below, node)]) == ()
