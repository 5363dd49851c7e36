from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from aegis_cli._identity import load_identity
from aegis_discovery import connect


def test_it_prints_its_address_and_logs_who_joins_and_leaves(aegis) -> None:
    seed = aegis.start("node", "run", "--id", "seed")
    line = seed.stdout.until("serves at")
    address = re.fullmatch(r"seed serves at (127\.0\.0\.1:\d+)", line).group(1)
    other, _ = aegis.node(
        "orders-1", "--join", address, "--service", "orders/v1", "orders:register"
    )
    seed.stderr.until("orders-1 joined at 127.0.0.1:")
    assert "provides orders/v1" in seed.stderr.seen[-1]
    other.stderr.until(f"seed is here at {address}")
    other.signal(signal.SIGTERM)
    assert other.wait() == 0
    seed.stderr.until("orders-1 left")
    seed.signal(signal.SIGINT)
    assert seed.wait() == 0
    assert "Traceback" not in seed.stderr.rest()


def test_json_has_the_bound_and_the_advertised_address(aegis) -> None:
    node = aegis.start(
        *("node", "run", "--id", "seed", "--json", "--service", "a/v1", "--service", "b/v2"),
        *("--address", "0.0.0.0:0", "--advertise", "127.0.0.1:0", "orders:both"),
    )
    facts = json.loads(node.stdout.until("{"))
    port = facts["address"].rpartition(":")[2]
    assert facts == {
        "event": "serving",
        "id": "seed",
        "address": f"0.0.0.0:{port}",
        "advertise": f"127.0.0.1:{port}",
        "services": ["a/v1", "b/v2"],
    }


def test_environment_variables_set_options(aegis) -> None:
    _, address = aegis.node("seed")
    aegis.environment |= {
        "AEGIS_NODE_ID": "orders-1",
        "AEGIS_JOIN": address,
        "AEGIS_SERVICES": "orders/v1 billing/v2",
        "AEGIS_JSON": "1",
    }
    node = aegis.start("node", "run", "orders:register")
    assert json.loads(node.stdout.until("{"))["services"] == ["orders/v1", "billing/v2"]
    node.stderr.until(f"seed is here at {address}")


def test_options_override_variables_that_override_the_file(aegis) -> None:
    (aegis.directory / "aegis.toml").write_text(
        '[node]\nid = "file"\nservices = ["orders/v1"]\naddress = "127.0.0.1"\n'
    )
    aegis.environment |= {"AEGIS_CONFIG": "aegis.toml", "AEGIS_ADDRESS": "127.0.0.1"}
    done = aegis.invoke("node", "run", "--id", "seed")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: AEGIS_ADDRESS: ")
    given = ("node", "run", "--json", "--id", "seed", "--address", "127.0.0.1:0")
    done = aegis.invoke(*given)
    assert (done.returncode, "nothing would serve orders/v1" in done.stderr) == (2, True)
    node = aegis.start(*given, "orders:register")
    facts = json.loads(node.stdout.until("{"))
    assert (facts["id"], facts["services"]) == ("seed", ["orders/v1"])


def test_it_reads_the_variables_that_a_node_of_a_program_reads() -> None:
    from aegis_cli._commands.node import run
    from aegis_core._node.settings import CONFIG, DEFAULT_ADDRESS, VARIABLES

    options = {option.name: option for option in run.params}
    variables = {name: option.envvar for name, option in options.items()}
    for name in ("registrars", "json", "reload", "log_level", "log_format"):
        del variables[name]  # of the command, not of the node
    assert variables == VARIABLES | {"config": CONFIG}
    assert options["address"].default == DEFAULT_ADDRESS


TRACED = """
import atexit
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from orders import register

spans = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
atexit.register(lambda: print(*(span.name for span in spans.get_finished_spans())))
"""


def test_telemetry_goes_to_the_provider_of_the_process(aegis, certs: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    (aegis.directory / "traced.py").write_text(TRACED)
    service = ("--telemetry", "--service", "orders/v1")
    node, address = aegis.node("orders-1", *service, "traced:register")
    with connect(address, node_id="ops", cert_dir=certs) as mesh:
        mesh.pool.channel("orders", "v1").unary_unary("/test.Orders/Echo")(b"", timeout=10)
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    assert node.stdout.rest() == "Recv.test.Orders.Echo"
    assert "OpenTelemetry" not in node.stderr.rest()

    node, _ = aegis.node("orders-2", *service, "orders:register")
    node.stderr.until("WARNING orders-2 reports nothing to OpenTelemetry yet")


IN_CYCLE = """
from orders import register

class Journal:
    def __init__(self):
        self.file = open("journal", "w")
        self.file.write("written")
        self.itself = self

journal = Journal()
"""


def test_what_a_user_wrote_to_a_file_in_a_cycle_is_flushed(aegis) -> None:
    (aegis.directory / "journals.py").write_text(IN_CYCLE)
    node, _ = aegis.node("orders-1", "--service", "orders/v1", "journals:register")
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    assert (aegis.directory / "journal").read_text() == "written"


def test_telemetry_without_the_extra_is_one_sentence(aegis) -> None:
    bare = "import sys; sys.modules['opentelemetry'] = None; import aegis_cli; aegis_cli.main()"
    aegis.environment["AEGIS_TELEMETRY"] = "1"
    node = aegis.start("node", "run", "--id", "seed", program=("-c", bare))
    assert node.wait() == 2
    start = "Error: AEGIS_TELEMETRY: it needs opentelemetry-api, which is not installed; add "
    assert node.stderr.rest().startswith(start)


def test_a_node_that_cannot_join_logs_it_and_serves(aegis) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = "{}:{}".format(*closed.getsockname())
    node, _ = aegis.node("seed", "--join", address)
    node.stderr.until("has not joined yet")


def test_a_second_signal_ends_it_at_once(aegis, certs: Path) -> None:
    seed, address = aegis.node("seed")
    node, _ = aegis.node("orders-1", "--join", address)
    seed.signal(signal.SIGSTOP)  # its feed does not end, and a node that leaves waits for that
    node.signal(signal.SIGINT)
    node.stderr.until("stops after SIGINT")
    node.signal(signal.SIGTERM)
    assert node.wait() in (0, -signal.SIGTERM)


def test_a_port_in_use_is_one_sentence(aegis) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        done = aegis.invoke("node", "run", "--id", "seed", "--address", address)
    assert done.returncode == 1
    assert f"cannot listen on {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_noticed_before_a_ca_is_made(aegis) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        done = aegis.invoke(
            *("node", "run", "--id", "seed", "--address", address, "--cert-dir", "new-certs")
        )
    assert done.returncode == 1
    assert f"cannot listen on {address}" in done.stderr
    assert not (aegis.directory / "new-certs").exists()


def test_it_serves_what_a_registrar_of_the_directory_adds(aegis, certs: Path) -> None:
    _, address = aegis.node("orders-1", "--service", "orders/v1", "orders:register")
    tls = load_identity(certs, "ops")
    with grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(tls.trust_bundle, tls.private_key, tls.certificate_chain),
        options=[("grpc.ssl_target_name_override", "orders-1")],
    ) as channel:
        assert channel.unary_unary("/test.Orders/Echo")(b"hi", timeout=30) == b"hi"


def test_a_service_with_nothing_behind_it_is_refused(aegis) -> None:
    done = aegis.invoke("node", "run", "--id", "seed", "--service", "a/v1", "--service", "b/v2")
    assert done.returncode == 2
    assert "nothing would serve a/v1 and b/v2" in done.stderr
    assert done.stdout == ""


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes what a command imports from its directory out of this process again."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("orders", None)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("orders:nothing", "it adds no service to the server"),
        ("orders:broken", "it fails with OSError: no database"),
        ("orders:missing", "orders has no missing"),
        ("orders:empty", "it is neither a function nor a list of functions"),
        ("orders:__name__", "it is neither a function nor a list of functions"),
        ("orders", "it is not MODULE:NAME"),
        ("no_such:register", "the import fails with ModuleNotFoundError: No module named"),
    ],
)
def test_a_registrar_that_cannot_be_used_is_one_sentence(
    aegis, own_modules: None, name: str, problem: str
) -> None:
    done = aegis.invoke("node", "run", "--id", "seed", "--service", "orders/v1", name)
    assert done.returncode == 2
    assert f"{name} cannot be used: {problem}" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_node_whose_id_another_process_has_ends_with_one_sentence(aegis) -> None:
    _, address = aegis.node("seed")
    older, _ = aegis.node("orders-1", "--join", address)
    older.stderr.until("seed is here")
    done = aegis.run("node", "run", "--id", "orders-1", "--join", address)
    assert done.returncode == 1
    assert "node id orders-1 is in use by another process" in done.stderr
    assert "Traceback" not in done.stderr
    older.signal(signal.SIGTERM)
    assert older.wait() == 0


def test_certificate_files_replace_the_directory(aegis, certs: Path) -> None:
    node, _ = aegis.node(
        *("seed", "--cert-dir", "nowhere"),
        *("--cert-file", str(certs / "seed-cert.pem")),
        *("--key-file", str(certs / "seed-key.pem")),
        *("--ca-file", str(certs / "ca-cert.pem")),
    )
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    assert not (aegis.directory / "nowhere").exists()


@pytest.mark.parametrize("identity", ["orders-1"])
def test_the_certificate_of_another_node_is_refused(aegis, certs: Path, identity: str) -> None:
    done = aegis.invoke(
        *("node", "run", "--id", "seed"),
        *("--cert-file", str(certs / f"{identity}-cert.pem")),
        *("--key-file", str(certs / f"{identity}-key.pem")),
        *("--ca-file", str(certs / "ca-cert.pem")),
    )
    assert done.returncode == 2
    assert "the certificate is orders-1's, this node is seed" in done.stderr
