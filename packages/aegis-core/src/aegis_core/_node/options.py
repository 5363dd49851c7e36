"""The options of a node. They are written once, for both faces of the node."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar

import grpc
from aegis_certs import parse_worker_id
from aegis_discovery import DEFAULT_MESH, ServiceInfo
from aegis_discovery.records import MAX_REGION, place_problem
from aegis_discovery.transport import parse_seed

from aegis_core._address import bound_address, metrics_address, published_address
from aegis_core._health.checks import HealthChecker
from aegis_core._server.base import Registrar
from aegis_core._server.call_checks import MAX_HEADERS
from aegis_core._server.caller_limits import MAX_CALLS
from aegis_core.errors import ConfigError

if TYPE_CHECKING:
    from aegis_certs import TLSConfig, TLSOptions, Token
    from aegis_discovery import PoolOptions
    from aegis_discovery.policy import Policy
    from aegis_discovery.telemetry import OpenTelemetry

    AnyToken = Token | str | Path
    """A token, its text, or the path of a file that holds its text."""

_log = logging.getLogger("aegis.node")

P = ParamSpec("P")
UNREAD = 16 * 1024
"""Bytes of a request that a connection takes before the request is read.

Many calls of a caller may wait for their turn; with gRPC's 64 KiB, 1 000 requests took 58 MB.
"""

HANDSHAKE_TIMEOUT_MS = 5_000
"""Milliseconds that a new connection has for TLS and the first frame of HTTP/2.

Until then anybody, without a certificate, holds a file descriptor; by default for two minutes.
Callers far away need 1 s, at three round trips of 300 ms.
"""

MAX_STREAMS = 600
"""Calls that are open at the same time on one connection; gRPC makes further ones wait.

A busy honest caller opens 500 at once. An open call takes some 16 KB and up to 16 KB of its request
(gRPC 1.85), so one connection takes 20 MB at most: without a limit it took all memory, with headers
alone.
"""

MAX_PENDING = 2_000
"""Calls that have arrived and that no code of the node has seen yet; gRPC rejects further ones.

Each takes 15 KB, also when its caller has reset it, and one connection can reset 35 000 a second.
So this bounds what one caller can make a node take, however late the node looks: with 6 000, no
call of ten callers with 500 at once failed, and resets took 47 to 116 MB. Four honest callers may
make 500 calls at once; with 600, a third of those of two failed. By default gRPC rejects some of
them from 1 000 on, and all only from 3 000 on.
"""

LARGEST_OWN_MESSAGE = 2 * 1024 * 1024
"""Bytes of the largest message of the mesh protocol, the topology of an unsigned peer."""

OptionsT = TypeVar("OptionsT")
SelfT = TypeVar("SelfT")

ROTATE_MODES = ("auto", "manual")
BOUNDARIES = ("", "region")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NodeOptions:
    """What a node was made with. The docstring of `aegis_core.aio.Node` describes each option."""

    id: str = field(kw_only=False)
    address: str
    advertise: str | None = None
    name: str | None = None
    type: str = "generic"
    services: Sequence[ServiceInfo] = ()
    region: str = ""
    zone: str = ""
    boundary: str = ""
    registrars: Sequence[Registrar] = ()
    cert_dir: str | Path | None = "./certs"
    tls_options: TLSOptions | None = None
    tls: TLSConfig | None = None
    token: AnyToken | None = None
    issuer: bool = False
    rotate: str = "auto"
    seed_peers: Sequence[str] = ()
    registry: str | None = None
    metrics: str | None = None
    mesh: str = DEFAULT_MESH
    health_checkers: Sequence[HealthChecker] = ()
    health_interval: float = 10.0
    interceptors: Sequence[grpc.aio.ServerInterceptor] | Sequence[grpc.ServerInterceptor] = ()
    join_timeout: float = 5.0
    require_join: bool = False
    grace: float = 5.0
    max_concurrent_calls: int | None = None
    max_calls_per_caller: int = MAX_CALLS
    max_workers: int = 32
    max_receive_message_length: int = 4 * 1024 * 1024
    keepalive_time_ms: int = 60_000
    keepalive_timeout_ms: int = 20_000
    options: Sequence[tuple[str, Any]] = ()
    policy: Policy | str | Path | None = None
    pool_options: PoolOptions | None = None
    telemetry: OpenTelemetry | None = None

    interceptor_type: ClassVar[Any] = grpc.aio.ServerInterceptor
    interceptor_advice: ClassVar[str] = (
        "a node of asyncio takes a grpc.aio.ServerInterceptor, with a coroutine intercept_service, "
        "and aegis_core.Node takes a grpc.ServerInterceptor"
    )

    def __post_init__(self) -> None:
        limit = self.max_concurrent_calls
        if limit is not None and limit < 1:
            reason = f"{limit} would refuse every call; give 1 or more, or None"
            raise ConfigError("max_concurrent_calls", reason)
        if self.max_calls_per_caller < 1:
            reason = f"{self.max_calls_per_caller} would refuse every call; give 1 or more"
            raise ConfigError("max_calls_per_caller", reason)
        if self.max_workers < 1:
            reason = f"{self.max_workers} threads can run no blocking handler; give 1 or more"
            raise ConfigError("max_workers", reason)
        if 0 <= self.max_receive_message_length < LARGEST_OWN_MESSAGE:
            reason = (
                f"the mesh's own messages may have {LARGEST_OWN_MESSAGE} bytes; give that or more"
            )
            raise ConfigError("max_receive_message_length", reason)
        # Wrong addresses are reported before anything is started.
        published_address(self.address, self.advertise, bound_address(self.address)[1])
        parse_worker_id(self.id)
        if self.metrics is not None:
            metrics_address(self.metrics)
        for name in (
            "services",
            "registrars",
            "seed_peers",
            "health_checkers",
            "interceptors",
            "options",
        ):
            given = getattr(self, name)
            if isinstance(given, str | ServiceInfo):
                raise ConfigError(name, f"{given!r} is not a list; give [{given!r}]")
            object.__setattr__(self, name, tuple(given))
        for service in self.services:
            if not isinstance(service, ServiceInfo):
                reason = f"{service!r} is no service; give ServiceInfo(name, version)"
                raise ConfigError("services", reason)
        if self.services and not self.registrars:
            # Not refused: the node may only show its peers what it will provide, as in a test.
            _log.warning(
                "%s declares %s, and has no registrar that adds a gRPC service: calls will end "
                "UNIMPLEMENTED; give registrars=[...]",
                self.id,
                " and ".join(map(str, self.services)),
            )
        for interceptor in self.interceptors:
            if not isinstance(interceptor, self.interceptor_type):
                reason = f"{interceptor!r} is not usable here; {self.interceptor_advice}"
                raise ConfigError("interceptors", reason)
        for peer in self.seed_peers:
            parse_seed(peer)
        if self.registry is not None:
            from aegis_discovery.registry import parse_registry  # most meshes have none

            parse_registry(self.registry)
        if self.issuer and (self.cert_dir is None or self.tls or self.tls_options):
            reason = "an issuer uses the CA's key in its cert_dir; give that, and no other files"
            raise ConfigError("issuer", reason)
        if self.rotate not in ROTATE_MODES:
            modes = " or ".join(ROTATE_MODES)
            raise ConfigError("rotate", f"{self.rotate!r} is not known; give {modes}")
        for name in ("region", "zone"):
            problem = place_problem(getattr(self, name))
            if problem:
                raise ConfigError(name, problem)
        if self.boundary not in BOUNDARIES:
            raise ConfigError("boundary", f"{self.boundary!r} is not known; give 'region' or none")
        if self.boundary and len(self.region.encode()) > MAX_REGION:
            reason = f"with a boundary its name has {MAX_REGION} bytes at most; give a shorter one"
            raise ConfigError("region", reason)
        if self.boundary and self.replaces_feed:
            # Not refused: a mesh that moves to a registry and back keeps its settings.
            _log.warning(
                "%s has a boundary, which has no effect without feeds: in a registry, nodes of all "
                "regions judge each other; leave boundary= out, or give seed_peers= too",
                self.id,
            )
        if self.token is not None and (self.tls or self.tls_options):
            reason = "it gets an identity, and the node has one already; give one of the two"
            raise ConfigError("token", reason)
        if self.require_join and not self.joins:
            reason = "a node without seed_peers or a registry cannot join; give one"
            raise ConfigError("require_join", reason)

    @property
    def replaces_feed(self) -> bool:
        """Whether this node knows the mesh by a registry, and opens no feeds."""
        return self.registry is not None and not self.seed_peers

    @property
    def joins(self) -> bool:
        """Whether there is a mesh to join, at seed peers or in a registry."""
        return bool(self.seed_peers) or self.registry is not None

    @property
    def server_options(self) -> tuple[tuple[str, Any], ...]:
        """The channel arguments of the server. Of two with one name, gRPC takes the first."""
        return (
            *self.options,
            *_metadata_options(self.options),
            ("grpc.max_receive_message_length", self.max_receive_message_length),
            ("grpc.keepalive_time_ms", self.keepalive_time_ms),
            ("grpc.keepalive_timeout_ms", self.keepalive_timeout_ms),
            # Without it, gRPC 1.85 waits a minute for the answer, whatever the line above says.
            ("grpc.http2.ping_timeout_ms", self.keepalive_timeout_ms),
            # A connection or stream on which nothing is sent may be half open too.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            # No encoding but identity: of 64 KB gRPC makes 64 MB before code of the node sees any.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            # Else gRPC refuses calls that have room, as long as others that ended are not freed.
            ("grpc.http.overload_protection", 0),
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
            ("grpc.enable_channelz", 1),  # the default; how many calls have arrived, and on what
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
            ("grpc.http2.lookahead_bytes", UNREAD),
            # Callers may use keepalive themselves; by default gRPC disconnects those whose pings
            # are less than five minutes apart.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        )


class BlockingOptions(NodeOptions):
    """The options of a blocking node, which has interceptors of another type."""

    interceptor_type = grpc.ServerInterceptor
    interceptor_advice = (
        "a blocking node takes a grpc.ServerInterceptor, with a plain function intercept_service, "
        "and aegis_core.aio.Node takes a grpc.aio.ServerInterceptor"
    )


def _metadata_options(own: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Returns the limits of metadata. Those of gRPC refuse calls between 8 and 16 KiB by chance."""
    names = ("grpc.max_metadata_size", "grpc.absolute_max_metadata_size")
    is_set = any(name in names for name, _ in own)
    return () if is_set else tuple((name, MAX_HEADERS) for name in names)


def _init_of(options: Callable[..., object]) -> str:
    """Returns the name that Python's errors have for the constructor of a class."""
    return str(getattr(options, "__init__").__qualname__)  # noqa: B009 - mypy asks for a class


def expand(
    options: Callable[P, OptionsT],
) -> Callable[[Callable[[SelfT, OptionsT], None]], Callable[Concatenate[SelfT, P], None]]:
    """Makes a constructor that takes an options object take the object's arguments instead.

    Type checkers, `inspect.signature` and the reference documentation see all of them.
    """

    def decorate(init: Callable[[SelfT, OptionsT], None]) -> Callable[Concatenate[SelfT, P], None]:
        @functools.wraps(init)
        def expanded(self: SelfT, /, *args: P.args, **kwargs: P.kwargs) -> None:
            try:
                made = options(*args, **kwargs)
            except TypeError as error:
                # The caller knows its own class, not that of the options.
                theirs, ours = f"{_init_of(options)}()", f"{type(self).__name__}()"
                if not str(error).startswith(theirs):
                    raise
                raise TypeError(str(error).replace(theirs, ours, 1)) from None
            init(self, made)

        # `inspect.signature` follows it, and takes the time only where somebody asks.
        expanded.__wrapped__ = getattr(options, "__init__")  # noqa: B009 - mypy asks for a class
        return expanded

    return decorate
