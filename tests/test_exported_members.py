"""The public names: what users may import is decided here, not by what a module happens to hold."""

import importlib
import inspect
import pkgutil

import pytest

PACKAGES = ("aegis_certs", "aegis_discovery", "aegis_core", "aegis_cli")

NODE = """
    start stop address topology pool peers server health add_peer remove_peer ping_peer
    get_peer_health get_peer_node_info sync_topology sync_topology_with_all_peers
"""
PROMISED = {
    "aegis_certs": """
        CertificateAuthority CertificateSource CertsError TLSConfig TLSOptions load_or_generate_tls
        load_tls
    """,
    "aegis_certs.CertificateAuthority": "create load issue",
    "aegis_certs.TLSConfig": "node_id",
    "aegis_certs.TLSOptions": """
        source cert_file key_file ca_file cert_env key_env ca_env verify_chain allow_expired
        required_sans
    """,
    "aegis_discovery": """
        DiscoveryError Mesh NoProvidersError NodeInfo NodeStatus ServiceClientPool ServiceInfo
        Topology connect
    """,
    "aegis_discovery.ServiceInfo": "name version",
    "aegis_discovery.NodeInfo": "id name type address services joined_at updated_at",
    "aegis_discovery.Topology": """
        version updated_at nodes add_node remove_node update_node get_node merge snapshot subscribe
        get_service_providers get_nodes_by_service
    """,
    "aegis_discovery.ServiceClientPool": "get_conn channel",
    "aegis_discovery.aio": "Mesh ServiceClientPool connect",
    "aegis_discovery.aio.ServiceClientPool": "get_conn channel",
    "aegis_core": """
        Caller FunctionHealthChecker HealthChecker HealthInfo HealthStatus MeshError MeshServer
        Node NodeInfo PeerInfo PeerManager ServiceInfo TLSOptions Topology caller_from_context
    """,
    "aegis_core.Caller": "node_id certificate",
    "aegis_core.Node": NODE,
    "aegis_core.PeerInfo": "id address type",
    "aegis_core.aio": "Node",
    "aegis_core.aio.Node": NODE,
}


def public_modules():
    for package in PACKAGES:
        root = importlib.import_module(package)
        names = (m.name for m in pkgutil.walk_packages(root.__path__, f"{package}."))
        yield from (
            name
            for name in (package, *names)
            if not any(part.startswith("_") for part in name.split("."))
            # Generated code, and programs that nobody imports.
            and not name.startswith(("aegis_discovery.proto", "aegis_cli.demo"))
        )


def members(owner):
    declared = (inspect.get_annotations(base) for base in getattr(owner, "__mro__", ()))
    return set(dir(owner)).union(*declared)


@pytest.mark.parametrize("name", sorted(public_modules()))
def test_public_module_declares_what_it_exports(name):
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    assert exported is not None, f"{name} has no __all__; a private module starts with _"
    assert len(exported) == len(set(exported))
    assert [member for member in exported if not hasattr(module, member)] == []


@pytest.mark.parametrize("name", PROMISED)
def test_promised_names_are_there(name):
    promised = PROMISED[name].split()
    path, _, last = name.rpartition(".")
    if last[:1].isupper():
        assert sorted(set(promised) - members(getattr(importlib.import_module(path), last))) == []
    else:
        assert sorted(set(promised) - set(importlib.import_module(name).__all__)) == []
