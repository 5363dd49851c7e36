"""The catalog: what the shop sells. A blocking node, of which there may be several."""

from __future__ import annotations

import logging

import grpc
from aegis_core import Node

from shop.protos import catalog_pb2 as pb
from shop.protos import catalog_pb2_grpc as rpc
from shop.tracing import tracing

PRODUCTS = {
    product.sku: product
    for product in (
        pb.Product(sku="bread", name="Rye bread", price_cents=450),
        pb.Product(sku="honey", name="Honey", price_cents=790),
        pb.Product(sku="tea", name="Green tea", price_cents=620),
    )
}


class Catalog(rpc.CatalogServicer):
    """Answers from memory; yours has a database."""

    def ListProducts(
        self, request: pb.ListProductsRequest, context: grpc.ServicerContext
    ) -> pb.ListProductsReply:
        return pb.ListProductsReply(products=PRODUCTS.values())

    def GetProduct(
        self, request: pb.GetProductRequest, context: grpc.ServicerContext
    ) -> pb.Product:
        if request.sku not in PRODUCTS:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no product {request.sku!r}")
        return PRODUCTS[request.sku]


def register(server: grpc.Server) -> None:
    """Adds the service to the server of a node."""
    rpc.add_CatalogServicer_to_server(Catalog(), server)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with tracing() as telemetry:
        Node.from_env(registrars=[register], telemetry=telemetry).run()
