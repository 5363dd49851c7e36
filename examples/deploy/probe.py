"""Ends with 0 if the node of this container serves, for probes that run a command.

It connects with the node's own certificate: without one, no connection to the node is accepted.
"""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

node_id, certs = os.environ["AEGIS_NODE_ID"], Path(os.environ["AEGIS_CERT_DIR"])
port = os.environ["AEGIS_ADDRESS"].rpartition(":")[2]
credentials = grpc.ssl_channel_credentials(
    (certs / "ca-cert.pem").read_bytes(),
    (certs / f"{node_id}-key.pem").read_bytes(),
    (certs / f"{node_id}-cert.pem").read_bytes(),
)
options = [("grpc.ssl_target_name_override", node_id)]
with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=3
        )
    except grpc.RpcError as error:
        sys.exit(f"{node_id} does not answer: {error.code().name} {error.details()}")
if answer.status != health_pb2.HealthCheckResponse.SERVING:
    sys.exit(f"{node_id} is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
