"""The payments: take the money, once for each order. A blocking node."""

from __future__ import annotations

import logging
import threading
import uuid

import grpc
from aegis_core import Node, caller_from_context

from shop.protos import payments_pb2 as pb
from shop.protos import payments_pb2_grpc as rpc
from shop.tracing import tracing

DECLINED = "0000"
"""A card that ends so is declined."""

_log = logging.getLogger("shop.payments")


class Payments(rpc.PaymentsServicer):
    """Keeps its receipts in memory; yours has a database."""

    def __init__(self) -> None:
        self._receipts: dict[str, pb.Receipt] = {}
        self._lock = threading.Lock()  # handlers run on several threads

    def Charge(self, request: pb.ChargeRequest, context: grpc.ServicerContext) -> pb.Receipt:
        if request.card.endswith(DECLINED):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the card is declined")
        # The pool of a caller repeats a call whose provider vanished, and nobody pays twice.
        with self._lock:
            receipt = self._receipts.setdefault(
                request.order_id, pb.Receipt(id=f"receipt-{uuid.uuid4().hex[:8]}")
            )
        caller = caller_from_context(context).node_id  # proved by its certificate
        _log.info("%s charged %d cents: %s", caller, request.amount_cents, receipt.id)
        return receipt


def register(server: grpc.Server) -> None:
    """Adds the service to the server of a node."""
    rpc.add_PaymentsServicer_to_server(Payments(), server)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with tracing() as telemetry:
        Node.from_env(registrars=[register], telemetry=telemetry).run()
