"""Callers whose chains TLS accepts, and the mesh does not."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from aegis_certs import RevocationList, TLSConfig, TrustBundle
from aegis_certs._ca.builder import Issuer, build_ca, build_crl, build_leaf
from aegis_certs._x509.identity import Identity
from aegis_certs._x509.validity import Validity
from aegis_core import CallRule, NoCertificateError, Policy
from aegis_core._access import caller as callers
from aegis_core._access.authorization import (
    MAX_DECISIONS,
    REFUSED_FOR,
    CallerVerifier,
)
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

OURS = "acme.example"
NOW = datetime.now(UTC).replace(microsecond=0)
VALID = Validity(NOW - timedelta(minutes=5), NOW + timedelta(days=2))
HOSTS = [ipaddress.ip_address("127.0.0.1")]
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def root_without_a_trust_domain(path_length: int | None = None) -> Issuer:
    """A company's root, which signs the CAs of several trust domains."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Company Root")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(VALID.not_before)
        .not_valid_after(VALID.not_after)
        .add_extension(x509.BasicConstraints(True, path_length), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Issuer(certificate, key)


def issuer(name: str, domain: str, above: Issuer | None, path_length: int = 0) -> Issuer:
    key = new_key()
    certificate = build_ca(
        name, key, VALID, trust_domain=domain, issuer=above, path_length=path_length
    )
    return Issuer(certificate, key)


@dataclass
class Chain:
    """An identity below any CAs; the trust bundle is the root alone."""

    leaf: x509.Certificate
    key: Key
    above: Sequence[x509.Certificate]
    root: x509.Certificate

    @classmethod
    def of(
        cls, node_id: str, domain: str | None, cas: Sequence[Issuer], key: Key | None = None
    ) -> Chain:
        """Issues a leaf by the first CA; the last one is the root."""
        key = key or new_key()
        identity = Identity(node_id, domain)
        leaf = build_leaf(identity, key.public_key(), VALID, cas[0], hosts=HOSTS)
        certificates = [ca.certificate for ca in cas]
        return cls(leaf, key, certificates[:-1], certificates[-1])

    @property
    def tls(self) -> TLSConfig:
        pem = Encoding.PEM
        return TLSConfig(
            "any",
            b"".join(one.public_bytes(pem) for one in (self.leaf, *self.above)),
            self.key.private_bytes(pem, PrivateFormat.PKCS8, NoEncryption()),
            self.root.public_bytes(pem),
        )


async def say(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return request


async def stay(
    request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
) -> AsyncIterator[bytes]:
    yield request
    await asyncio.Event().wait()


def register(server: Any) -> None:
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Stay": grpc.unary_stream_rpc_method_handler(stay),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))


def node_of(chain: Chain, **options: Any) -> Node:
    node_id = "node"
    tls = TLSConfig(
        node_id, chain.tls.certificate_chain, chain.tls.private_key, chain.tls.trust_bundle
    )
    return Node(node_id, address="127.0.0.1:0", grace=0, tls=tls, registrars=[register], **options)


async def outcome(node: Node, caller: Chain) -> str:
    """Returns `ok`, or why the call was refused."""
    async with open_channel(caller.tls, "node", node.address) as channel:
        call = channel.unary_unary("/t/Say")(b"ok", timeout=10)
        if await call.code() is grpc.StatusCode.OK:
            return str((await call).decode())
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        return str(await call.details())


async def test_a_partners_ca_cannot_name_a_caller_of_our_trust_domain() -> None:
    root = root_without_a_trust_domain()
    our_ca, partners_ca = issuer("Ours", OURS, root), issuer("Partner", "partner.example", root)
    policy = Policy(call=[CallRule(ids=["ops"], services=["t"])])
    async with node_of(Chain.of("node", OURS, [our_ca, root]), policy=policy) as node:
        assert await outcome(node, Chain.of("ops", OURS, [our_ca, root])) == "ok"
        forged = await outcome(node, Chain.of("ops", OURS, [partners_ca, root]))
        assert "its CA signs only for partner.example" in forged
        # Without a SPIFFE id a leaf is of the trust domain of its CA.
        unnamed = await outcome(node, Chain.of("ops", None, [partners_ca, root]))
        assert "from a CA of trust domain partner.example, not of acme.example" in unnamed
        assert await outcome(node, Chain.of("ops", None, [our_ca, root])) == "ok"
        # The partner sends our CA's certificate too, which has signed nothing of its chain.
        both = Chain.of("ops", OURS, [partners_ca, root])
        both.above = [our_ca.certificate, partners_ca.certificate]
        assert "its CA signs only for partner.example" in await outcome(node, both)


async def test_a_caller_passes_the_same_checks_as_a_record() -> None:
    root = issuer("Root", OURS, None)  # its path length is 0
    below = issuer("Below", OURS, root)
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the point of this test
    async with node_of(Chain.of("node", OURS, [root])) as node:
        assert await outcome(node, Chain.of("a", OURS, [root])) == "ok"
        assert "path length" in await outcome(node, Chain.of("a", OURS, [below, root]))
        weak_key = await outcome(node, Chain.of("a", OURS, [root], weak))
        assert "use RSA from 2048" in weak_key


async def test_a_caller_below_a_revoked_ca_that_only_the_caller_shows_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_core._server.call_checks.REVALIDATION_INTERVAL", 0.05)
    root = root_without_a_trust_domain()
    ours, revoked = issuer("Ours", OURS, root), issuer("Revoked", OURS, root)
    crl = build_crl(
        root,
        [(revoked.certificate.serial_number, NOW, x509.ReasonFlags.ca_compromise)],
        1,
        NOW - timedelta(minutes=1),
        NOW + timedelta(days=1),
    )
    listed = RevocationList.from_pem(
        crl.public_bytes(Encoding.PEM), TrustBundle([root.certificate])
    )
    caller = Chain.of("a", OURS, [revoked, root])
    async with (
        node_of(Chain.of("node", OURS, [ours, root])) as node,
        open_channel(caller.tls, "node", node.address) as channel,
    ):
        stream = channel.unary_stream("/t/Stay")(b"", timeout=30)
        assert await stream.read() == b""
        node._running.state.apply_revocations(listed)
        assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "is revoked" in await outcome(node, caller)
        assert await outcome(node, Chain.of("a", OURS, [ours, root])) == "ok"


def shown(chain: Chain, junk: bytes = b"") -> callers.Caller:
    """The caller that shows a chain and other certificates."""
    leaf, *above = (one.public_bytes(Encoding.PEM) for one in (chain.leaf, *chain.above))
    auth = {
        "x509_pem_cert": [leaf],
        "x509_pem_cert_chain": [b"".join(above) + junk],
        "ssl_tls_version": [b"TLSv1.3"],
    }
    return callers.caller_from_context(Mock(auth_context=lambda: auth, peer=lambda: "a peer"))


class CountingBundle(TrustBundle):
    """A trust bundle that counts the chains that it verifies."""

    verified = 0

    def verify(self, *arguments: Any, **options: Any) -> Identity:
        self.verified += 1
        return super().verify(*arguments, **options)


def test_an_accepted_chain_is_verified_once_and_a_refused_one_again_after_a_while() -> None:
    now = 1.0
    root = root_without_a_trust_domain()
    bundle = CountingBundle([root.certificate])
    verifier = CallerVerifier(bundle, OURS, clock=lambda: now)
    good, bad = shown(Chain.of("a", OURS, [root])), shown(Chain.of("a", "b.example", [root]))
    stranger = shown(Chain.of("a", OURS, [issuer("Elsewhere", OURS, None)]))
    for _ in range(3):
        assert verifier.check(good) is None
        assert "trust domain b.example" in str(verifier.check(bad))
        assert "not in the trust bundle" in str(verifier.check(stranger))
    assert bundle.verified == 2, "once for each certificate of our trust domain"
    now += REFUSED_FOR
    assert [verifier.check(good), bool(verifier.check(stranger))] == [None, True]
    assert bundle.verified == 3
    verifier.change_bundle(TrustBundle([issuer("Next", OURS, None).certificate]))
    assert verifier.check(good) is None, "a rotation of the CA ends no connection"
    late = shown(Chain.of("late", OURS, [root]))
    assert "not in the trust bundle" in str(verifier.check(late))
    for number in range(MAX_DECISIONS):
        verifier._remember(number.to_bytes(4), ())
    assert len(verifier._accepted) == MAX_DECISIONS
    assert "not in the trust bundle" in str(verifier.check(good)), "it was forgotten"


def test_other_certificates_beside_a_chain_neither_help_nor_fill_the_memory() -> None:
    root = root_without_a_trust_domain()
    verifier = CallerVerifier(TrustBundle([root.certificate]), OURS)
    chain = Chain.of("a", OURS, [issuer("Ours", OURS, root), root])
    stranger = issuer("Stranger", OURS, None).certificate.public_bytes(Encoding.PEM)
    before = len(callers._callers)
    for number in range(5):
        caller = shown(chain, stranger * number)
        assert verifier.check(caller) is None
        assert len(caller.intermediates) == 1 + number
    assert len(callers._callers) == before + 1, "one entry for each certificate"
    assert shown(chain) is shown(chain)
    with pytest.raises(NoCertificateError, match="the limit is"):
        shown(chain, stranger * 100)


def test_a_leaf_without_usages_may_call_and_a_server_only_one_may_not() -> None:
    root = issuer("Root", OURS, None)
    key = new_key()
    leaf = build_leaf(Identity("a", OURS), key.public_key(), VALID, root, hosts=HOSTS, client=False)
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    verifier = CallerVerifier(TrustBundle([root.certificate]), OURS)
    refusal = verifier.check(shown(Chain(leaf, key, [], root.certificate)))
    assert "client" in str(refusal)


def test_the_names_of_a_caller_are_compared_at_each_call() -> None:
    root = issuer("Root", OURS, None)
    key = new_key()
    hosts = ["b", *HOSTS]
    leaf = build_leaf(Identity("a", OURS), key.public_key(), VALID, root, hosts=hosts)
    caller = shown(Chain(leaf, key, [], root.certificate))
    assert caller.hosts == ("b",)
    known: set[str] = set()
    verifier = CallerVerifier(
        TrustBundle([root.certificate]),
        OURS,
        find_signed=lambda names: next((name for name in names if name in known), None),
    )
    assert verifier.check(caller) is None
    known.add("b")
    assert "a is also valid for 'b'" in str(verifier.check(caller))
    known.clear()
    assert verifier.check(caller) is None
