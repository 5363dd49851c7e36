"""The metrics have the names, units, buckets and attributes that gRPC gives them."""

from __future__ import annotations

import pickle
import subprocess
import sys

import grpc
from aegis_core import ServiceInfo
from aegis_core.testing import LocalMesh
from aegis_discovery.telemetry import OpenTelemetry

from .conftest import Observed, method, options

# From gRFC A66 and A96.
LATENCY = (
    *(0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005),
    *(0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13),
    *(0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1, 2, 5, 10, 20, 50, 100),
)
SIZE = (
    *(0, 1024, 2048, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864, 268435456),
    *(1073741824, 4294967296),
)
CALL = {"grpc.method": "test.Back/unary_unary", "grpc.target": "aegis:///back/v1"}
ATTEMPT = {
    **CALL,
    "grpc.status": "OK",
    "grpc.lb.backend_service": "back/v1",
    "grpc.lb.locality": '{region="eu", zone="a", sub_zone=""}',
}
SERVER = {"grpc.method": "test.Back/unary_unary", "grpc.status": "OK"}
EXPECTED = {
    "grpc.client.attempt.started": ("{attempt}", None, CALL),
    "grpc.client.attempt.duration": ("s", LATENCY, ATTEMPT),
    "grpc.client.attempt.sent_total_compressed_message_size": ("By", SIZE, ATTEMPT),
    "grpc.client.attempt.rcvd_total_compressed_message_size": ("By", SIZE, ATTEMPT),
    "grpc.client.call.duration": ("s", LATENCY, {**CALL, "grpc.status": "OK"}),
    "grpc.server.call.started": ("{call}", None, {"grpc.method": "test.Back/unary_unary"}),
    "grpc.server.call.duration": ("s", LATENCY, SERVER),
    "grpc.server.call.sent_total_compressed_message_size": ("By", SIZE, SERVER),
    "grpc.server.call.rcvd_total_compressed_message_size": ("By", SIZE, SERVER),
}


def test_a_call_has_the_metrics_of_grpc():
    observed = Observed()

    def unary(request, context):
        return request * 2

    with LocalMesh() as mesh:
        place = {"region": "eu", "zone": "a"}
        mesh.start("back-1", **place, **options("back", {"unary_unary": unary}, observed))
        client = mesh.connect(telemetry=observed.telemetry)
        method(client, "back", "unary_unary")(b"x" * 2000, timeout=10)
        observed.spans(3)
        found = {}
        for name, metric in observed.metrics().items():
            ((attributes, point),) = observed.points(name)
            found[name] = metric.unit, getattr(point, "explicit_bounds", None), attributes
        assert found == EXPECTED
        sizes = {
            name: observed.points(name)[0][1].sum for name in EXPECTED if name.endswith("size")
        }
    assert sizes == {
        name: 2000 if ("client" in name) == ("sent" in name) else 4000 for name in sizes
    }


def test_retries_have_the_buckets_of_grpc():
    from aegis_discovery.telemetry import _instruments

    assert _instruments.RETRY_BOUNDS == (1, 2, 3, 4, 5)
    assert _instruments.TRANSPARENT_RETRY_BOUNDS == (1, 2, 3, 4, 5, 10)


def test_methods_that_callers_invent_are_one_series():
    class Anything(grpc.GenericRpcHandler):
        def service(self, handler_call_details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    observed = Observed()
    with LocalMesh() as mesh:
        mesh.start(
            "any-1",
            services=[ServiceInfo("any", "v1")],
            registrars=[lambda server: server.add_generic_rpc_handlers((Anything(),))],
            telemetry=observed.telemetry,
        )
        channel = mesh.connect().pool.channel("any", "v1")
        for number in range(3):
            channel.unary_unary(f"/made.Up{number}/Method")(b"", timeout=10)
        spans = observed.spans(3)
        ((attributes, point),) = observed.points("grpc.server.call.started")
    assert (attributes, point.value) == ({"grpc.method": "other"}, 3)
    assert {span.name for span in spans} == {"Recv.other"}


def test_without_telemetry_nothing_of_opentelemetry_is_loaded():
    program = """
import sys
import grpc
from aegis_core import Node, ServiceInfo
import grpc
from aegis_core import ServiceInfo
from aegis_core.testing import LocalMesh

def register(server):
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"T": handler}),))

with LocalMesh() as mesh:
    node = mesh.start("t-1", services=[ServiceInfo("t", "v1")], registrars=[register])
    assert node.pool.channel("t", "v1").unary_unary("/t.T/T")(b"1", timeout=10) == b"1"
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
assert not {"aegis_discovery.telemetry", "aegis_discovery._calls.traced"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_without_the_extra_the_error_says_what_to_install():
    program = """
import sys
sys.modules["opentelemetry"] = None
try:
    import aegis_discovery.telemetry
except ModuleNotFoundError as error:
    assert "opentelemetry-api>=1.30" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_workers_get_their_own():
    telemetry = pickle.loads(pickle.dumps(OpenTelemetry()))  # noqa: S301 - it was made here
    assert repr(telemetry) == "OpenTelemetry()"
