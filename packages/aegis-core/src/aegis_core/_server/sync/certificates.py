"""Serves requests for certificates on `grpc.server`. Only a node that issues loads it."""

from __future__ import annotations

import time
from typing import Any

import grpc
from aegis_discovery.proto import issuer_pb2_grpc

from aegis_core._access.bootstrap import BootstrapCaller
from aegis_core._server.issuer import IssuerService
from aegis_core._server.mesh_protocol import LocalNode, live_workers
from aegis_core._server.sync.calls import current_call
from aegis_core._server.sync.mesh_services import refusals


class CertificateService(issuer_pb2_grpc.IssuerServicer):
    """Serves `Enroll` and `Renew`."""

    def __init__(self, issuer: IssuerService, node: LocalNode) -> None:
        self._issuer = issuer
        self._topology = node.topology

    def Enroll(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        caller = current_call().caller
        assert isinstance(caller, BootstrapCaller)  # noqa: S101 - no other caller is accepted
        with refusals(context), self._issuer.entered(caller, time.monotonic()):
            return self._issuer.enroll(request.csr, caller)

    def Renew(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        caller = current_call().caller
        workers = live_workers(self._topology, caller.node_id)
        with (
            refusals(context),
            self._issuer.entered(caller, time.monotonic(), workers=workers),
        ):
            return self._issuer.renew(request.csr, caller)
