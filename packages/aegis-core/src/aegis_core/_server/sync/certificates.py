"""Serves requests for certificates on `grpc.server`. Only a node that issues loads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
from aegis_discovery.proto import issuer_pb2_grpc

from aegis_core._access.bootstrap import BootstrapCaller
from aegis_core._access.caller import CallContext
from aegis_core._server.issuer import IssuerService
from aegis_core._server.mesh_protocol import LocalNode, live_workers
from aegis_core._server.sync.calls import current_call
from aegis_core._server.sync.mesh_services import refusals


class CertificateService(issuer_pb2_grpc.IssuerServicer):
    """Serves `Enroll` and `Renew`.

    Args:
        issuer: Answers the requests.
        node: Tells how many workers a member has.
        block: Refuses the calls of a token for a while; its holder asks once, or a few times.
    """

    def __init__(
        self,
        issuer: IssuerService,
        node: LocalNode,
        block: Callable[[str, CallContext], object],
    ) -> None:
        self._issuer = issuer
        self._block = block
        self._topology = node.topology

    def Enroll(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        caller = current_call().caller
        assert isinstance(caller, BootstrapCaller)  # noqa: S101 - no other caller is accepted
        block = partial(self._block, caller.node_id, context)
        with (
            refusals(context),
            self._issuer.entered(caller, time.monotonic(), on_excess=block),
        ):
            return self._issuer.enroll(request.csr, caller)

    def Renew(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        caller = current_call().caller
        workers = live_workers(self._topology, caller.node_id)
        with (
            refusals(context),
            self._issuer.entered(caller, time.monotonic(), workers=workers),
        ):
            return self._issuer.renew(request.csr, caller)
