"""Serves requests for certificates on `grpc.aio`. Only a node that issues loads it."""

from __future__ import annotations

import time
from asyncio import wrap_future
from collections.abc import Callable
from functools import partial

from aegis_discovery import Topology
from aegis_discovery.proto import issuer_pb2, issuer_pb2_grpc

from aegis_core._access.bootstrap import bootstrap_from_context
from aegis_core._access.caller import CallContext
from aegis_core._server.aio.mesh_services import Context, identified, refusals
from aegis_core._server.daemon_threads import DaemonThreads
from aegis_core._server.issuer import IssuerService
from aegis_core._server.mesh_protocol import live_workers


class CertificateService(issuer_pb2_grpc.IssuerServicer):
    """Serves `Enroll` and `Renew`; the CA has a thread of its own.

    Args:
        issuer: Answers the requests.
        topology: Tells how many workers a member has.
        block: Refuses the calls of a token for a while; its holder asks once, or a few times.
    """

    def __init__(
        self,
        issuer: IssuerService,
        topology: Topology,
        block: Callable[[str, CallContext], object],
    ) -> None:
        self._issuer = issuer
        self._block = block
        self._topology = topology
        self._threads = DaemonThreads(1, "aegis-issuer")

    async def Enroll(  # noqa: N802 - the wire's name
        self, request: issuer_pb2.EnrollRequest, context: Context
    ) -> issuer_pb2.IssuedIdentity:
        async with refusals(context):
            caller = bootstrap_from_context(context)
            block = partial(self._block, caller.node_id, context)
            with self._issuer.entered(caller, time.monotonic(), on_excess=block):
                return await wrap_future(
                    self._threads.submit(self._issuer.enroll, request.csr, caller)
                )

    async def Renew(  # noqa: N802 - the wire's name
        self, request: issuer_pb2.RenewRequest, context: Context
    ) -> issuer_pb2.IssuedIdentity:
        async with identified(context) as caller:
            workers = live_workers(self._topology, caller.node_id)
            with self._issuer.entered(caller, time.monotonic(), workers=workers):
                return await wrap_future(
                    self._threads.submit(self._issuer.renew, request.csr, caller)
                )

    def close(self) -> None:
        """Serves no more requests that wait; one that the CA works on is finished."""
        self._threads.close()
