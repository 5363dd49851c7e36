"""The policy is applied before every kind of handler runs, and may change at any time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import CallDeniedError, CallRule, Policy, PolicyError, ServiceInfo
from aegis_core import Node as SyncNode
from aegis_core._access.authorization import MAX_DECISIONS, CallAuthorizer, CallerVerifier
from aegis_core._access.caller import Caller, caller_from_context
from aegis_core._access.policy_file import PolicySource
from aegis_core._server.admission import AdmissionControl
from aegis_core._server.call_checks import CallChecks
from aegis_core._server.rejections import CallRejectedError
from aegis_core.aio import Node
from aegis_discovery import connect
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.policy import OPEN_SERVICES, load_policy, parse_policy
from aegis_discovery.proto import aegis_pb2, issuer_pb2, mesh_pb2, stats_pb2
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1 import health_pb2

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
DENIED = grpc.StatusCode.PERMISSION_DENIED


async def uu(request: bytes, context: Any) -> bytes:
    return request


async def us(request: bytes, context: Any) -> AsyncIterator[bytes]:
    while True:
        yield request
        await asyncio.sleep(0.02)


async def su(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([request async for request in requests])


async def ss(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def sync_uu(request: bytes, context: Any) -> bytes:
    return request


def sync_us(request: bytes, context: Any) -> Iterator[bytes]:
    yield request


def sync_su(requests: Iterator[bytes], context: Any) -> bytes:
    return b"".join(requests)


def sync_ss(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from requests


KINDS = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}
HANDLERS = [uu, us, su, ss, sync_uu, sync_us, sync_su, sync_ss]


def register(server: Any) -> None:
    handlers = {
        handler.__name__: getattr(grpc, f"{KINDS[handler.__name__[-2:]]}_rpc_method_handler")(
            handler
        )
        for handler in HANDLERS
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("shop.Orders", handlers),)
    )


async def begin(channel: grpc.aio.Channel, method: str, path: str = "/shop.Orders/") -> Any:
    """Makes a call of any kind, and waits for its first message or its end."""
    kind = KINDS[method[-2:]]
    call: Any = getattr(channel, kind)(path + method)(
        *([b"x"] if kind.startswith("unary") else [iter([b"x"])]), timeout=10
    )
    if kind.endswith("stream"):
        await call.read()
    else:
        await call
    return call


async def code_of(channel: grpc.aio.Channel, method: str) -> grpc.StatusCode:
    try:
        call = await begin(channel, method)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.INTERNAL:
            # The aio client (1.78 to 1.85) sometimes reports it if a call ends while it writes.
            return await code_of(channel, method)
        return error.code()
    call.cancel()
    return grpc.StatusCode.OK


def node_with(identity: MakeIdentity, policy: Any, **options: Any) -> Node:
    return Node(
        "node",
        address="127.0.0.1:0",
        tls=identity("node"),
        grace=0,
        registrars=[register],
        policy=policy,
        **options,
    )


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis_core._node.runtime.POLL_INTERVAL", 0.02)
    monkeypatch.setattr("aegis_core._server.call_checks.REVALIDATION_INTERVAL", 0.05)


@pytest.mark.parametrize("server", ["aio", "blocking", "public"], indirect=True)
async def test_only_callers_that_a_rule_names_are_allowed_on_every_kind_of_call(
    identity: MakeIdentity, server: str
) -> None:
    policy = Policy(call=[CallRule(ids=["friend-*"], services=["shop.*"])])
    async with (
        node_with(identity, policy) as node,
        open_channel(identity("friend-1"), "node", node.address) as friend,
        open_channel(identity("stranger"), "node", node.address) as stranger,
    ):
        names = [handler.__name__ for handler in HANDLERS]
        assert [await code_of(friend, name) for name in names] == [grpc.StatusCode.OK] * 8
        assert [await code_of(stranger, name) for name in names] == [DENIED] * 8
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await begin(stranger, "uu")
        assert denied.value.details() == "stranger may not call /shop.Orders/uu"


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_every_member_may_call_the_mesh_and_health_but_not_reflection(
    identity: MakeIdentity, server: str
) -> None:
    async with (
        node_with(identity, Policy()) as node,
        open_channel(identity("stranger"), "node", node.address) as channel,
    ):
        for path in ("/grpc.health.v1.Health/Check", "/aegis.MeshService/Ping"):
            assert isinstance(await channel.unary_unary(path)(b"", timeout=10), bytes)
        for version in ("v1", "v1alpha"):
            reflection = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            # If the server ends the call before a request is sent, grpc.aio may report INTERNAL.
            call = channel.stream_stream(reflection)(timeout=10)
            assert await call.code() is DENIED
        # No policy applies to a method that does not exist.
        missing = channel.unary_unary("/no.Such/Method")(b"", timeout=10)
        assert await missing.code() is grpc.StatusCode.UNIMPLEMENTED


class _AnyMethod(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            return b"mine"

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
@pytest.mark.parametrize("service", sorted(OPEN_SERVICES))
async def test_open_services_are_never_served_by_a_handler_of_the_users_that_takes_any_call(
    identity: MakeIdentity, service: str, server: str
) -> None:
    def register(server: Any) -> None:
        server.add_generic_rpc_handlers((_AnyMethod(),))

    node = Node(
        "node",
        address="127.0.0.1:0",
        tls=identity("node"),
        registrars=[register],
        policy=Policy(call=[CallRule(ids=["friend"], services=["any.Service"])]),
        grace=0,
    )
    async with node, open_channel(identity("friend"), "node", node.address) as channel:
        assert await channel.unary_unary("/any.Service/Method")(b"", timeout=10) == b"mine"
        call = channel.unary_unary(f"/{service}/NoSuchMethod")(b"", timeout=10)
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_open_services_are_those_that_every_node_serves() -> None:
    files = (aegis_pb2, issuer_pb2, mesh_pb2, stats_pb2, health_pb2)
    services = [one for file in files for one in file.DESCRIPTOR.services_by_name.values()]
    assert {service.full_name for service in services} == OPEN_SERVICES


async def test_nodes_join_whatever_the_policy_and_are_allowed_by_their_type(
    identity: MakeIdentity, until: Until
) -> None:
    policy = Policy(call=[CallRule(types=["gateway"], services=["*"])])
    async with node_with(identity, policy) as node:
        other = Node(
            "edge",
            address="127.0.0.1:0",
            tls=identity("edge"),
            type="gateway",
            seed_peers=[node.address],
        )
        async with (
            open_channel(identity("edge"), "node", node.address) as channel,
            open_channel(identity("client"), "node", node.address) as client,
        ):
            assert await code_of(channel, "uu") is DENIED, "it is not in the topology yet"
            async with other:
                await until(lambda: "edge" in node.topology.nodes)
                assert await code_of(channel, "uu") is grpc.StatusCode.OK
            await until(lambda: "edge" not in node.topology.nodes)
            assert await code_of(channel, "uu") is DENIED, "it left, and its type with it"
            assert await code_of(client, "uu") is DENIED


def rules(*ids: str) -> str:
    return f'[[call]]\nids = {list(ids)}\nservices = ["shop.Orders"]\n'


async def test_a_changed_file_is_loaded_soon_and_a_bad_file_is_refused(
    identity: MakeIdentity, until: Until, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(rules("a"))
    async with (
        node_with(identity, path) as node,
        open_channel(identity("a"), "node", node.address) as a,
        open_channel(identity("b"), "node", node.address) as b,
    ):

        async def codes_become(*codes: grpc.StatusCode) -> None:
            async with asyncio.timeout(15):
                while [await code_of(a, "uu"), await code_of(b, "uu")] != [*codes]:
                    pass

        await codes_become(grpc.StatusCode.OK, DENIED)
        path.write_text("[[call]\n")
        await until(lambda: "the policy stays as it is" in caplog.text)
        await codes_become(grpc.StatusCode.OK, DENIED)
        path.unlink()
        await until(lambda: "cannot be read" in caplog.text)
        await codes_become(grpc.StatusCode.OK, DENIED)
        path.write_text(rules("b"))
        await codes_become(DENIED, grpc.StatusCode.OK)
    assert [r.getMessage() for r in caplog.records].count("the policy stays as it is") == 0
    refusals = [r for r in caplog.records if r.getMessage().startswith("the policy stays")]
    assert len(refusals) == 2, "each once, not at every poll"


def test_half_a_policy_denies_no_caller_because_a_change_is_loaded_when_it_stays(
    tmp_path: Path,
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(rules("a"))
    source = PolicySource(path)
    source.load()
    whole = source.policy
    path.write_text("")
    assert source.poll() is whole
    path.write_text(rules("b"))
    assert source.poll() is whole
    assert source.poll() == parse_policy(rules("b"))


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_an_open_stream_ends_when_the_policy_denies_its_caller(
    identity: MakeIdentity, tmp_path: Path, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(rules("a", "b"))
    async with (
        node_with(identity, path) as node,
        open_channel(identity("a"), "node", node.address) as a,
        open_channel(identity("b"), "node", node.address) as b,
    ):
        ending, staying = await begin(a, "us"), await begin(b, "us")
        path.write_text(rules("b"))
        async with asyncio.timeout(15):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await ending.read() is not grpc.aio.EOF:
                    pass
            assert await ending.code() is DENIED
        assert await staying.read() == b"x"
        assert node.stats().calls.denied == 1
        staying.cancel()
    reason = "call rule 1 (line 1) is for other ids"
    line = f"a may not call /shop.Orders/us any more, its open stream is ended: {reason}"
    assert [m for m in caplog.messages if "may not call" in m] == [line]


async def test_only_a_node_with_a_file_of_rules_looks_for_its_changes(
    identity: MakeIdentity, tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(rules("a"))

    def names() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks()}

    async with node_with(identity, load_policy(path)):
        assert "aegis-policy" not in names()
        assert "aegis-memory" in names()
    async with node_with(identity, str(path)):
        assert "aegis-policy" in names()


@pytest.mark.parametrize("text", ["[[call]\n", None])
async def test_a_node_does_not_start_with_an_invalid_policy_file(
    identity: MakeIdentity, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "policy.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PolicyError, match=r"policy\.toml"):
        await node_with(identity, str(path)).start()


class Revoked:
    """A revocation list of these serial numbers."""

    def __init__(self, serials: set[int]) -> None:
        self._serials = frozenset(serials)

    def is_revoked(self, certificate: Any, intermediates: Any = ()) -> bool:
        return certificate.serial_number in self._serials


class Authorizer:
    """A call authorizer with a fake clock."""

    def __init__(self, identity: MakeIdentity) -> None:
        self.now = 0.0
        self.types: dict[str, str] = {}
        tls = identity("caller")
        self.verifier = CallerVerifier(tls.bundle)
        self.inner = CallAuthorizer(self.verifier, self.types.get, clock=lambda: self.now)
        self.caller = Caller("caller", tls.certificate, not_after=2.0**40, fingerprint=b"1")

    def ask(self, path: str = "/s/m") -> bool:
        return self.inner.check(self.caller, path, shown=(b"pem", b"", path)) is None


def test_without_a_policy_every_caller_may_call_everything(identity: MakeIdentity) -> None:
    authorizer = Authorizer(identity)
    assert authorizer.ask()
    authorizer.inner.set_policy(Policy())
    assert not authorizer.ask()
    assert authorizer.inner.check(authorizer.caller, None) is None, (
        "no policy denies an open service"
    )
    authorizer.inner.set_policy(None)
    assert authorizer.ask()


def test_a_denial_is_logged_once_a_minute_with_the_number_of_suppressed_lines(
    identity: MakeIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    authorizer = Authorizer(identity)
    authorizer.inner.set_policy(Policy(call=[CallRule(ids=["x"], services=["*"])]))
    with caplog.at_level(logging.WARNING, "aegis.policy"):
        for _ in range(5):
            assert not authorizer.ask()
        assert not authorizer.ask("/s/other")
        authorizer.now += 60
        assert not authorizer.ask()
    more = "(4 similar lines were suppressed)"
    assert [record.getMessage() for record in caplog.records] == [
        "caller may not call /s/m: call rule 1 is for other ids",
        "caller may not call /s/other: call rule 1 is for other ids",
        f"caller may not call /s/m: call rule 1 is for other ids {more}",
    ]


def test_a_cached_decision_does_not_outlive_the_type_or_the_policy(
    identity: MakeIdentity,
) -> None:
    authorizer = Authorizer(identity)
    authorizer.inner.set_policy(Policy(call=[CallRule(types=["web"], services=["*"])]))
    assert not authorizer.ask()
    authorizer.types["caller"] = "web"
    assert authorizer.ask()
    authorizer.types["caller"] = "batch"
    assert not authorizer.ask()
    authorizer.inner.set_policy(Policy(call=[CallRule(ids=["*"], services=["*"])]))
    assert authorizer.ask()


def test_an_allowed_call_is_remembered_until_something_changes(identity: MakeIdentity) -> None:
    tls, revoked = identity("caller"), set[int]()
    verifier = CallerVerifier(tls.bundle, clock=lambda: 1.0)
    authorizer = CallAuthorizer(verifier, lambda _: None)
    caller = Caller("caller", tls.certificate, not_after=10.0, fingerprint=b"1")

    def ask(path: str = "/s/m") -> bool:
        return authorizer.check(caller, path, shown=(b"pem", b"", path)) is None

    assert ask()
    assert verifier.allowed == {(b"pem", b"", "/s/m"): caller}
    authorizer.set_policy(Policy(call=[CallRule(ids=["caller"], services=["s"])]))
    assert not verifier.allowed
    assert [ask(), ask("/other/m"), ask()] == [True, False, True]
    before = verifier.allowed
    verifier.apply_revocations(Revoked(revoked))
    assert verifier.allowed is not before, "a thread may still add to the old one"
    assert ask()
    revoked.add(caller.certificate.serial_number)
    verifier.apply_revocations(Revoked(revoked))
    assert not ask()
    assert not verifier.allowed
    verifier.apply_revocations(Revoked(set()))
    assert ask()
    verifier.change_bundle(tls.bundle)
    assert not verifier.allowed


class FakeContext:
    """A call of a certificate."""

    def __init__(self, tls: TLSConfig, version: bytes = b"TLSv1.3") -> None:
        self._auth = {
            "x509_pem_cert": [tls.certificate.public_bytes(Encoding.PEM)],
            "ssl_tls_version": [version],
        }

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._auth

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def test_a_remembered_caller_is_accepted_for_what_it_showed_and_no_longer_than_it_is_valid(
    identity: MakeIdentity,
) -> None:
    now = 1.0
    tls, other = identity("caller"), identity("other")
    verifier = CallerVerifier(tls.bundle, clock=lambda: now)
    authorizer = CallAuthorizer(verifier, lambda _: None)
    authorizer.set_policy(Policy(call=[CallRule(ids=["caller"], services=["s"])]))
    checks = CallChecks[Any](authorizer, AdmissionControl())

    def ask(context: FakeContext, path: str = "/s/m") -> str:
        try:
            return checks.accept(context, path, None).node_id
        except CallRejectedError as error:
            return error.rejection.code

    for _ in range(2):
        assert ask(FakeContext(tls)) == "caller"
        assert ask(FakeContext(tls, b"TLSv1.2")) == "UNAUTHENTICATED", "of the same certificate"
        assert ask(FakeContext(tls), "/other/m") == "PERMISSION_DENIED"
        assert ask(FakeContext(other)) == "PERMISSION_DENIED"
    assert list(verifier.allowed.values()) == [caller_from_context(FakeContext(tls))]
    now = next(iter(verifier.allowed.values())).not_after
    assert ask(FakeContext(tls)) == "UNAUTHENTICATED"
    now -= 1
    assert ask(FakeContext(tls)) == "caller"
    while not checks.callers.abuse("caller"):
        pass
    assert ask(FakeContext(tls)) == "RESOURCE_EXHAUSTED", "a remembered caller is blocked too"


def test_an_open_stream_is_judged_anew_once_something_changes(identity: MakeIdentity) -> None:
    now = 1.0
    tls, revoked = identity("caller"), set[int]()
    verifier = CallerVerifier(tls.bundle, clock=lambda: now)
    types = dict[str, str]()
    authorizer = CallAuthorizer(verifier, types.get)
    caller = Caller("caller", tls.certificate, not_after=10.0, fingerprint=b"1")

    def ask(caller: Caller = caller) -> list[bool]:
        return [authorizer.check_open(caller, "/s/m") is None for _ in range(2)]

    assert ask() == [True, True]
    old = replace(caller, tls_version="TLSv1.2")
    assert ask(old) == [False, False], "of the same certificate"
    authorizer.set_policy(Policy(call=[CallRule(ids=["other"], services=["s"])]))
    assert ask() == [False, False]
    authorizer.set_policy(Policy(call=[CallRule(types=["web"], services=["s"])]))
    for node_type, is_allowed in (("web", True), ("batch", False), ("web", True)):
        types["caller"] = node_type
        assert ask() == [is_allowed, is_allowed]
    authorizer.set_policy(None)
    assert ask() == [True, True]
    revoked.add(caller.certificate.serial_number)
    verifier.apply_revocations(Revoked(revoked))
    assert ask() == [False, False]
    verifier.apply_revocations(Revoked(set()))
    assert ask() == [True, True]
    verifier.change_bundle(identity("caller").bundle)
    assert ask() == [True, True]
    now = caller.not_after
    assert ask() == [False, False]


def test_only_decisions_that_stay_are_remembered(identity: MakeIdentity) -> None:
    authorizer = Authorizer(identity)
    caller = replace(authorizer.caller, hosts=("b",))
    assert authorizer.inner.check(caller, "/s/m") is None
    authorizer.types["caller"] = "web"
    authorizer.inner.set_policy(Policy(call=[CallRule(types=["web"], services=["*"])]))
    assert authorizer.ask()
    assert not authorizer.verifier.allowed
    authorizer.inner.set_policy(None)
    for number in range(MAX_DECISIONS + 1):
        assert authorizer.ask(f"/s/{number}")
    assert len(authorizer.verifier.allowed) == 1, "there are too many methods to remember"


def test_a_denial_does_not_reveal_the_rules(identity: MakeIdentity) -> None:
    authorizer = Authorizer(identity)
    authorizer.inner.set_policy(Policy(call=[CallRule(ids=["secret-*"], services=["*"])]))
    error = authorizer.inner.check(authorizer.caller, "/s/m")
    assert isinstance(error, CallDeniedError)
    assert (str(error), error.node_id, error.method) == (
        "caller may not call /s/m",
        "caller",
        "/s/m",
    )


@pytest.mark.parametrize("kind", [SyncNode, "client"])
async def test_only_nodes_that_may_provide_a_service_are_called(
    identity: MakeIdentity, until: Until, tmp_path: Path, kind: Any
) -> None:
    path = tmp_path / "policy.toml"
    rule = '[[provide]]\nids = ["%s"]\nservices = ["orders/v1"]'
    path.write_text(rule % "honest")
    services = [ServiceInfo("orders", "v1")]

    def names_itself(name: str) -> Any:
        async def uu(request: bytes, context: Any) -> bytes:
            return name.encode()

        handlers = {"uu": grpc.unary_unary_rpc_method_handler(uu)}
        generic = grpc.method_handlers_generic_handler("shop.Orders", handlers)
        return lambda server: server.add_generic_rpc_handlers((generic,))

    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for name in ("honest", "intruder"):
            seeds = [node.address for node in nodes]
            options: dict[str, Any] = {"tls": identity(name), "services": services, "grace": 0}
            node = Node(
                name,
                address="127.0.0.1:0",
                seed_peers=seeds,
                registrars=[names_itself(name)],
                **options,
            )
            nodes.append(await stack.enter_async_context(node))
        address = nodes[0].address
        asking: Any
        if kind == "client":
            policy = load_policy(path)
            asking = await asyncio.to_thread(
                lambda: connect(address, tls=identity("client"), policy=policy)
            )
            stack.push_async_callback(asyncio.to_thread, asking.close)
        else:
            asking = SyncNode(
                "asking",
                address="127.0.0.1:0",
                tls=identity("asking"),
                seed_peers=[address],
                policy=path,
                grace=0,
            )
            await asyncio.to_thread(asking.start)
            stack.push_async_callback(asyncio.to_thread, asking.stop)
        await until(lambda: len(asking.topology.get_service_providers("orders", "v1")) == 2)
        say = asking.pool.channel("orders", "v1").unary_unary("/shop.Orders/uu")

        async def answers() -> set[bytes]:
            called = [asyncio.to_thread(say, b"", timeout=10) for _ in range(6)]
            return {*await asyncio.gather(*called)}

        assert await answers() == {b"honest"}
        (service,) = asking.pool.stats().services
        assert service.denials == 1
        if kind != "client":
            assert asking.stats().pool == asking.pool.stats()
            path.write_text(rule % "*")
            async with asyncio.timeout(15):
                while await answers() != {b"honest", b"intruder"}:
                    pass
