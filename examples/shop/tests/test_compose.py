"""The files for containers, without containers: what they name exists, their commands run."""

import gzip
import os
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml
from aegis_core._node.settings import TOKEN, VARIABLES
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from ports import free_ports

SHOP = Path(__file__).resolve().parents[1]
ROOT = SHOP.parents[1]
COMPOSE = yaml.safe_load((SHOP / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = {
    name: found for name, found in SERVICES.items() if "environment" in found and name != "grafana"
}
SECONDS = 60


def settings(name):
    return OURS[name]["environment"]


def test_all_files_and_volumes_exist():
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("."):
                assert (SHOP / source).exists(), name
            else:
                assert source in COMPOSE["volumes"], name
    build = OURS["ca-1"]["build"]
    assert (SHOP / build["context"]).resolve() == ROOT
    for line in (ROOT / build["dockerfile"]).read_text().splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line


def test_nodes_set_only_variables_that_are_read():
    script = (SHOP / "deploy" / "ca.sh").read_text()
    for name in OURS:
        known = {*VARIABLES.values(), TOKEN, *re.findall(r"\$(\w+)", script)}
        known |= {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"}  # OpenTelemetry's own
        assert settings(name).keys() <= known


def test_each_member_has_a_token_of_its_own():
    members = settings("ca-1")["MEMBERS"].split()
    assert members == [name for name in OURS if name != "ca-1"]
    for name in members:
        (token,) = (volume for volume in OURS[name]["volumes"] if isinstance(volume, dict))
        assert (token["source"], token["volume"]["subpath"]) == ("tokens", name)
        assert settings(name)["AEGIS_TOKEN_FILE"] == f"{token['target']}/token"
        assert f"{name}:{settings(name)['AEGIS_CERT_DIR']}" in OURS[name]["volumes"]


def test_prometheus_reads_every_node_and_grafana_reads_prometheus():
    scraped = yaml.safe_load((SHOP / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    nodes = [name for name in OURS if name != "gateway"]
    assert [job["job_name"] for job in scraped] == ["aegis"]
    port = settings("ca-1")["AEGIS_METRICS"].split(":")[1]
    assert scraped[0]["static_configs"] == [{"targets": [f"{name}:{port}" for name in nodes]}]
    (source,) = yaml.safe_load((SHOP / "deploy" / "grafana" / "datasources.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES


class Containers:
    """Runs the commands of the Compose file as processes of this machine."""

    def __init__(self, directory, stack, collector):
        self._directory = directory
        self._collector = collector
        self._stack = stack
        first = free_ports(2 * len(OURS) + 1)
        ports = range(first, first + 2 * len(OURS) + 1)
        self._serve = dict(zip(OURS, ports, strict=False))
        self._metrics = dict(zip(OURS, ports[len(OURS) :], strict=False))
        self.http = ports[-1]
        for name in ("ca", "tokens", *OURS):
            (directory / name).mkdir(mode=0o700)

    def _here(self, text, name):
        """What means the same here: a port of loopback for a host, a directory for a volume."""
        for host, port in self._serve.items():
            text = text.replace(f"{host}:50051", f"127.0.0.1:{port}")
        changes = {
            "0.0.0.0:50051": f"127.0.0.1:{self._serve[name]}",
            "0.0.0.0:9464": f"127.0.0.1:{self._metrics[name]}",
            "127.0.0.1:8000": f"127.0.0.1:{self.http}",
            "jaeger:4318": f"127.0.0.1:{self._collector}",
        }
        for there, here in changes.items():
            text = text.replace(there, here)
        if text in ("8000", "/ca", "/tokens", "/certs"):
            return {
                "8000": str(self.http),
                "/certs": str(self._directory / name),
            }.get(text, f"{self._directory}{text}")
        return text.replace("/token/", f"{self._directory}/tokens/{name}/")

    def _command(self, command, name):
        found = [self._here(part, name) for part in command]
        for there, here in {
            "ca.sh": "examples/shop/deploy/ca.sh",
            "probe.py": "examples/deploy/probe.py",
        }.items():
            found = [here if part == there else part for part in found]
        return found

    def _environment(self, name):
        own = {key: value for key, value in os.environ.items() if not key.startswith("AEGIS_")}
        given = {key: self._here(value, name) for key, value in settings(name).items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return own | given | {"PATH": path}

    def start(self, name):
        log = self._stack.enter_context((self._directory / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            self._command(OURS[name]["command"], name),
            env=self._environment(name),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        self._stack.callback(process.wait, SECONDS)
        self._stack.callback(process.terminate)
        return process

    def wait_until_healthy(self, name, process):
        end = time.monotonic() + SECONDS
        _, *command = OURS[name]["healthcheck"]["test"]
        while subprocess.run(
            self._command(command, name),
            env=self._environment(name),
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode:
            log = (self._directory / f"{name}.log").read_text()
            assert process.poll() is None, log
            assert time.monotonic() < end, log


class Collector(ThreadingHTTPServer):
    """Takes spans as OpenTelemetry sends them.

    Attributes:
        traces: The processes of each trace.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Spans)
        self.traces = defaultdict(set)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Spans(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            facts = {one.key: one.value.string_value for one in sent.resource.attributes}
            for scope in sent.scope_spans:
                for span in scope.spans:
                    self.server.traces[span.trace_id].add(facts["service.name"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.timeout(300)
@pytest.mark.soak  # it runs ten commands and six processes
def test_the_commands_of_the_containers_open_the_shop(tmp_path):
    with ExitStack() as stack:
        collector = stack.enter_context(Collector())
        containers = Containers(tmp_path, stack, collector.server_port)
        containers.wait_until_healthy("ca-1", containers.start("ca-1"))
        started = {name: containers.start(name) for name in OURS if name != "ca-1"}
        containers.wait_until_healthy("gateway", started["gateway"])
        containers.wait_until_healthy("orders-1", started["orders-1"])
        order = {"sku": "tea", "card": "4111"}
        placed = httpx.post(f"http://127.0.0.1:{containers.http}/orders", json=order, timeout=20)
        assert (placed.status_code, placed.json().get("total_cents")) == (201, 620)
        assert "denied" not in (tmp_path / "payments-1.log").read_text()
    # All processes have ended, and so have sent their spans.
    (trace,) = (found for found in collector.traces.values() if "payments-1" in found)
    assert {"gateway", "orders-1", "payments-1"} < trace < {"catalog-1", "catalog-2", *OURS}
