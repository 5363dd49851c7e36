"""`Node.from_env` reads what `aegis node run` reads: arguments, environment, file, defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from aegis_core import ConfigError, Node, ServiceInfo, aio

FACES = pytest.mark.parametrize("face", [Node, aio.Node])


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def options_of(node: Node | aio.Node):
    return node._options


@FACES
def test_variables_set_the_options_of_a_node(face, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {
        "AEGIS_NODE_ID": "orders-1",
        "AEGIS_ADDRESS": "0.0.0.0:50051",
        "AEGIS_ADVERTISE": "10.0.0.7:50051",
        "AEGIS_SERVICES": "orders/v1 billing/v2@region",
        "AEGIS_JOIN": "seed@10.0.0.5:50051 10.0.0.6:50051",
        "AEGIS_NODE_NAME": "Orders",
        "AEGIS_NODE_TYPE": "api",
        "AEGIS_REGION": "eu",
        "AEGIS_ZONE": "eu-1",
        "AEGIS_BOUNDARY": "region",
        "AEGIS_MESH": "acme",
        "AEGIS_CERT_DIR": "/etc/aegis",
        "AEGIS_POLICY": "policy.toml",
    }.items():
        monkeypatch.setenv(variable, value)
    options = options_of(face.from_env(registrars=[print]))
    assert (options.id, options.address, options.advertise) == (
        "orders-1",
        "0.0.0.0:50051",
        "10.0.0.7:50051",
    )
    assert options.services == (ServiceInfo("orders", "v1"), ServiceInfo("billing", "v2", "region"))
    assert options.seed_peers == ("seed@10.0.0.5:50051", "10.0.0.6:50051")
    assert (options.name, options.type, options.mesh) == ("Orders", "api", "acme")
    assert (options.region, options.zone, options.boundary) == ("eu", "eu-1", "region")
    assert (options.cert_dir, options.policy) == ("/etc/aegis", "policy.toml")
    assert options.tls_options is None


@FACES
def test_an_argument_overrides_a_variable_that_overrides_the_file(
    face, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("aegis.toml").write_text(
        '[node]\nid = "file"\nname = "file"\ntype = "file"\nseed_peers = ["10.0.0.5:50051"]\n'
    )
    monkeypatch.setenv("AEGIS_CONFIG", "aegis.toml")
    monkeypatch.setenv("AEGIS_NODE_NAME", "environment")
    monkeypatch.setenv("AEGIS_NODE_TYPE", "environment")
    monkeypatch.setenv("AEGIS_MESH", "")
    options = options_of(face.from_env(type="argument", grace=1))
    assert (options.id, options.name, options.type) == ("file", "environment", "argument")
    assert options.seed_peers == ("10.0.0.5:50051",)
    assert (options.address, options.mesh, options.grace) == ("127.0.0.1:0", "aegis", 1)


def test_the_argument_config_names_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.toml").write_text('[node]\nid = "other"\nservices = ["orders/v1"]\n')
    monkeypatch.setenv("AEGIS_CONFIG", "missing.toml")
    node = aio.Node.from_env(config="other.toml", registrars=[print])
    assert node.id == "other"
    assert options_of(node).services == (ServiceInfo("orders", "v1"),)


def test_certificate_files_replace_the_directory_unless_an_argument_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("AEGIS_CERT_FILE", "AEGIS_KEY_FILE", "AEGIS_CA_FILE"):
        monkeypatch.setenv(variable, f"{variable}.pem")
    files = options_of(aio.Node.from_env(id="orders-1")).tls_options
    assert (files.cert_file, files.ca_file) == ("AEGIS_CERT_FILE.pem", "AEGIS_CA_FILE.pem")
    own = options_of(aio.Node.from_env(id="orders-1", cert_dir="certs"))
    assert (own.cert_dir, own.tls_options) == ("certs", None)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"AEGIS_NODE_ID": ""}, "AEGIS_NODE_ID: it is not set; "),
        ({"AEGIS_NODE_ID": "a b"}, "AEGIS_NODE_ID: "),
        ({"AEGIS_ADDRESS": "10.0.0.7"}, "AEGIS_ADDRESS: "),
        ({"AEGIS_ADDRESS": "0.0.0.0:50051"}, "advertise (AEGIS_ADVERTISE): 0.0.0.0:50051 listens"),
        ({"AEGIS_ADVERTISE": "0.0.0.0:1"}, "AEGIS_ADVERTISE: 0.0.0.0:1 is not an address"),
        ({"AEGIS_SERVICES": "orders"}, "AEGIS_SERVICES: 'orders' is not NAME/VERSION"),
        ({"AEGIS_SERVICES": "orders/v1@zone"}, "AEGIS_SERVICES: 'orders/v1@zone' is not NAME/"),
        ({"AEGIS_JOIN": "10.0.0.5:50051 10.0.0.6"}, "AEGIS_JOIN: "),
        ({"AEGIS_KEY_FILE": "key.pem"}, "AEGIS_KEY_FILE: AEGIS_CERT_FILE and AEGIS_CA_FILE must"),
        ({"AEGIS_CONFIG": "missing.toml"}, "AEGIS_CONFIG: cannot read missing.toml: No such file"),
    ],
)
def test_an_unsuitable_variable_is_named_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    for variable, value in ({"AEGIS_NODE_ID": "orders-1"} | variables).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as refused:
        Node.from_env()
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[node", "config: aegis.toml is not valid TOML: "),
        ("[nodes]", "config: aegis.toml may have the table [node] and nothing else"),
        ('node = "a"', "config: aegis.toml may have the table [node] and nothing else"),
        ('[node]\njoin = ["a:1"]', "join in aegis.toml: it is not known; [node] can have id, "),
        ("[node]\nid = 5", "id in aegis.toml: it must be a text in quotes"),
        ('[node]\nservices = "orders/v1"', "services in aegis.toml: it must be a list of texts"),
        ('[node]\nservices = ["orders"]', "services in aegis.toml: 'orders' is not NAME/VERSION"),
        ('[node]\nid = "a"\nadvertise = "0.0.0.0:1"', "advertise in aegis.toml: 0.0.0.0:1 is not"),
    ],
)
def test_an_unsuitable_file_is_named_in_one_sentence(text: str, sentence: str) -> None:
    Path("aegis.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        Node.from_env(config="aegis.toml")
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_an_unsuitable_argument_is_named_as_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_ADVERTISE", "10.0.0.7:50051")
    with pytest.raises(ConfigError, match=r"^advertise: "):
        Node.from_env(id="orders-1", advertise="0.0.0.0:1")


@FACES
def test_a_configured_service_that_nothing_would_serve_is_refused(
    face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_NODE_ID", "orders-1")
    monkeypatch.setenv("AEGIS_SERVICES", "orders/v1 billing/v2")
    with pytest.raises(ConfigError, match="SERVICES: nothing would serve orders/v1 and billing/v2"):
        face.from_env()
    with pytest.raises(ConfigError, match="services: nothing would serve orders/v1; give"):
        face.from_env(services=[ServiceInfo("orders", "v1")])


@FACES
def test_a_node_of_code_with_a_service_that_nothing_would_serve_warns(
    face, caplog: pytest.LogCaptureFixture
) -> None:
    common = {"cert_dir": "unused", "address": "127.0.0.1:0"}
    options = common | {"services": [ServiceInfo("orders", "v1")]}
    face("orders-1", registrars=[print], **options)
    face("seed", **common)
    assert not caplog.records
    face("orders-1", **options)
    assert "orders-1 declares orders/v1, and has no registrar" in caplog.text


@FACES
def test_a_boundary_without_feeds_warns(face, caplog: pytest.LogCaptureFixture) -> None:
    common = {"cert_dir": "unused", "address": "127.0.0.1:0", "registry": "etcd://10.0.0.1:2379/p"}
    face("eu-1", **common)
    face("eu-1", boundary="region", seed_peers=["10.0.0.2:1"], **common)
    assert not caplog.records
    face("eu-1", boundary="region", **common)
    assert "eu-1 has a boundary, which has no effect without feeds" in caplog.text


@FACES
def test_a_token_is_named_by_its_file_or_given_in_a_variable(
    face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_NODE_ID", "orders-1")
    assert options_of(face.from_env()).token is None
    monkeypatch.setenv("AEGIS_ENROLL_TOKEN", "aegis1.text")
    assert options_of(face.from_env()).token == "aegis1.text"
    # The file is read when it is needed: a node that has an identity starts without it.
    monkeypatch.setenv("AEGIS_TOKEN_FILE", "gone")
    assert options_of(face.from_env()).token == Path("gone")
    assert options_of(face.from_env(token_file="other")).token == Path("other")
    assert options_of(face.from_env(token="aegis1.mine")).token == "aegis1.mine"


@FACES
@pytest.mark.parametrize(("text", "expected"), [("1", True), ("true", True), ("0", False)])
def test_an_issuer_is_set_by_a_variable(
    face, text: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_NODE_ID", "ca-1")
    monkeypatch.setenv("AEGIS_ISSUER", text)
    assert options_of(face.from_env()).issuer is expected


@FACES
def test_telemetry_is_set_by_a_variable_a_file_or_an_argument(
    face, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry")
    monkeypatch.setenv("AEGIS_NODE_ID", "orders-1")
    assert options_of(face.from_env()).telemetry is None
    assert repr(options_of(face.from_env(telemetry=True)).telemetry) == "OpenTelemetry()"
    Path("aegis.toml").write_text("[node]\ntelemetry = true\n")
    assert repr(options_of(face.from_env(config="aegis.toml")).telemetry) == "OpenTelemetry()"
    monkeypatch.setenv("AEGIS_TELEMETRY", "0")
    assert options_of(face.from_env(config="aegis.toml")).telemetry is None


@FACES
def test_what_cannot_work_is_named(face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_NODE_ID", "ca-1")
    monkeypatch.setenv("AEGIS_ISSUER", "maybe")
    with pytest.raises(ConfigError, match="AEGIS_ISSUER: 'maybe' is neither true nor false"):
        face.from_env()
    with pytest.raises(ConfigError, match="an issuer uses the CA's key in its cert_dir"):
        face("ca-1", address="127.0.0.1:0", issuer=True, cert_dir=None)
